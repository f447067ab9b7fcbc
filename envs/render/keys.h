// Keyboard play: which action the arrow keys mean in each environment.
#pragma once

#include <cstdint>

#include "envs/spec.h"

namespace bessemer {

struct HeldKeys {
  bool left = false, right = false, up = false, down = false;
  bool operator==(const HeldKeys&) const = default;
};

/// True where `key_action` knows the environment's action space well enough to be played: the
/// environments of a small table, else one discrete action (left = 0, right = last) or a box (left
/// and right move the first element, up and down the second).
bool playable(const Spec& spec);

/// Writes one row's action of the channel's dtype: what the held keys mean, or doing nothing. Where
/// doing nothing is no action (CartPole), it alternates, so `step` counts calls. Throws ValueError
/// where the environment is not playable.
void key_action(const Spec& spec, const HeldKeys& keys, int64_t step, void* action);

/// "left and right tilt, up fires the main engine": for people.
const char* key_help(const Spec& spec);

}  // namespace bessemer
