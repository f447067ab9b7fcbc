// What environments and a policy did together, as flat columns that samplers fill and trainers
// read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "rollout/column.h"

namespace bessemer {

/// One rollout. Index of a sample: time * rows + row.
struct Rollout {
  int64_t steps = 0, rows = 0, components = 0;
  Column<std::byte> obs;        // [steps + 1, rows, observation], raw; the last is what comes next
  Column<uint8_t> action_mask;  // [steps + 1, rows, outputs] or empty
  Column<float> actions;        // [steps, rows, components], unclipped
  Column<float> log_prob, value;
  Column<float> raw_reward;  // as the environment gave it
  Column<float> reward;      // normalised, with the bootstrap of truncated episodes
  Column<uint8_t> ended;     // the episode ended in this step, whatever the reason
  Column<uint8_t> fault;     // the sample is not to be trained on
  Column<uint8_t> starts;    // [steps + 1, rows]: an episode begins with this observation
  Column<int64_t> version;   // of the policy that acted
  Column<float> state;       // [rows, state_size] before the first step (detail 36)
  Column<float> last_value;  // [rows] of what comes next
  int64_t faults = 0;
  std::string fault_reason;  // of the last fault
};

/// Sizes that a rollout's columns follow from.
struct RolloutShape {
  int64_t steps = 0, rows = 0, components = 0;
  int64_t obs_bytes = 0;   // of one row
  int64_t mask_width = 0;  // outputs of the policy; 0: the environments have no mask
  int64_t state_size = 0;  // 0: not recurrent
};
/// Columns of this shape, zero.
Rollout make_rollout(const RolloutShape& shape);
int64_t rollout_bytes(const Rollout& rollout);
int64_t rollout_bytes(const RolloutShape& shape);

struct EpisodeEnd {
  double total = 0;
  int64_t length = 0;
};

}  // namespace bessemer
