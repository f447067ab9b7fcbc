#include "envs/render/keys.h"

#include <algorithm>
#include <string_view>

#include "core/base/error.h"

namespace bessemer {
namespace {

// One discrete action: the value of each key, and of none held; -1 alternates left and right.
struct DiscreteKeys {
  std::string_view id;
  int left, right, up, down, none;
  const char* help;
};
constexpr DiscreteKeys kDiscrete[] = {
    {"CartPole-v1", 0, 1, -2, -2, -1, "left and right push the cart"},
    {"Acrobot-v1", 0, 2, -2, -2, 1, "left and right turn the joint"},
    {"MountainCar-v0", 0, 2, -2, -2, 1, "left and right drive"},
    {"LunarLander-v3", 1, 3, 2, -2, 0, "left and right tilt, up fires the main engine"},
};

// A box: which element left/right and up move, in shares of its bounds.
struct BoxKeys {
  std::string_view id;
  int across;            // element of left (low) and right (high)
  bool across_reversed;  // left is high
  int upward;            // element that up sets to high; -1 none
  const char* help;
};
constexpr BoxKeys kBox[] = {
    {"MountainCarContinuous-v0", 0, false, -1, "left and right drive"},
    {"Pendulum-v1", 0, true, -1, "left and right turn the rod"},
    {"LunarLanderContinuous-v3", 1, false, 0, "left and right tilt, up fires the main engine"},
};

const Channel* only_action(const Spec& spec) {
  return spec.rows == 1 && spec.action.size() == 1 ? &spec.action[0] : nullptr;
}
bool is_discrete(const Channel& c) {
  return c.kind == SpaceKind::discrete && c.n.size() == 1 && c.n[0] >= 2 && c.dtype == Dtype::i64;
}
bool is_box(const Channel& c) {
  return c.kind == SpaceKind::box && c.dtype == Dtype::f32 && c.numel() >= 1 && !c.low.empty() &&
         !c.high.empty();
}

DiscreteKeys discrete_keys(const Spec& spec) {
  for (const DiscreteKeys& keys : kDiscrete) {
    if (keys.id == spec.id) return keys;
  }
  const Channel& c = spec.action[0];
  const int last = static_cast<int>(c.n[0] - 1);
  return {spec.id,
          0,
          last,
          -2,
          -2,
          last >= 2 ? last / 2 : -1,
          "left is the first action, right the last"};
}

BoxKeys box_keys(const Spec& spec) {
  for (const BoxKeys& keys : kBox) {
    if (keys.id == spec.id) return keys;
  }
  return {spec.id, 0, false, spec.action[0].numel() > 1 ? 1 : -1,
          "left and right move the first element, up the second"};
}

int64_t discrete_value(const DiscreteKeys& table, const HeldKeys& keys, int64_t step) {
  if (keys.up && table.up >= 0) return table.up;
  if (keys.down && table.down >= 0) return table.down;
  if (keys.left != keys.right) return keys.left ? table.left : table.right;
  if (table.none >= 0) return table.none;
  return step % 2 == 0 ? table.left : table.right;
}

}  // namespace

bool playable(const Spec& spec) {
  const Channel* action = only_action(spec);
  return action && (is_discrete(*action) || is_box(*action));
}

void key_action(const Spec& spec, const HeldKeys& keys, int64_t step, void* action) {
  BESSEMER_CHECK(playable(spec), ValueError, "[keys] ", spec.id,
                 " cannot be played with arrow keys: it needs one discrete or box action");
  const Channel& channel = spec.action[0];
  if (is_discrete(channel)) {
    *static_cast<int64_t*>(action) =
        channel.start + discrete_value(discrete_keys(spec), keys, step);
    return;
  }
  const BoxKeys table = box_keys(spec);
  auto* values = static_cast<float*>(action);
  const auto bound = [](const std::vector<double>& v, int64_t i) {
    return static_cast<float>(v.size() == 1 ? v[0] : v[static_cast<size_t>(i)]);
  };
  for (int64_t i = 0; i < channel.numel(); ++i) {
    values[i] = std::clamp(0.0f, bound(channel.low, i), bound(channel.high, i));
  }
  if (keys.left != keys.right) {
    const bool high = keys.right != table.across_reversed;
    values[table.across] = bound(high ? channel.high : channel.low, table.across);
  }
  if (table.upward >= 0 && keys.up) values[table.upward] = bound(channel.high, table.upward);
}

const char* key_help(const Spec& spec) {
  if (!playable(spec)) return "";
  return is_discrete(spec.action[0]) ? discrete_keys(spec).help : box_keys(spec).help;
}

}  // namespace bessemer
