// The acting half of a policy: raw observations in, actions out, without gradients. Samplers,
// evaluation and people watching all act through it.
#pragma once

#include <span>
#include <vector>

#include "core/base/rng.h"
#include "envs/spec.h"
#include "rollout/normalizer.h"
#include "rollout/policy.h"

namespace bessemer {

/// What act() is asked. Rows are dense; row r belongs to instance slots[r], which keys its draws
/// (counted from the runner's first) and holds its recurrent state, so that batches may be cut and
/// ordered in any way.
struct ActRequest {
  int64_t rows = 0;
  const void* obs = nullptr;             // raw
  const uint8_t* starts = nullptr;       // [rows]: an episode begins here (detail 34)
  const uint8_t* action_mask = nullptr;  // [rows, outputs] or null
  std::span<const int64_t> slots;
  uint64_t counter = 0;  // the step: with the slot it names the draw
  bool deterministic = false;
};

/// Where the answers go; null: not wanted.
struct ActResult {
  float* actions = nullptr;   // [rows, components], unclipped
  float* log_prob = nullptr;  // [rows]
  float* value = nullptr;     // [rows]
};

class PolicyRunner {
 public:
  /// `slots` instances, the run's `first` and those after it; `rng` is where actions come from.
  PolicyRunner(const Policy& policy, const Normalizer& normalizer, int64_t slots, const Rng& rng,
               int64_t first = 0);

  void act(const ActRequest& request, const ActResult& result);
  /// Values of observations; `states` [rows, state_size] or null.
  void values(int64_t rows, const void* obs, const float* states, float* out);
  /// New exploration matrices for every slot (state-dependent exploration), keyed by `counter`.
  void explore(uint64_t counter);

  /// Recurrent states of all slots, [slots, state_size]; empty for other policies.
  std::vector<float>& states() { return states_; }
  const std::vector<float>& states() const { return states_; }

 private:
  Tensor inputs(int64_t rows, const void* obs) const;

  const Policy& policy_;
  const Normalizer& normalizer_;
  Rng rng_;
  int64_t slots_, first_;
  std::vector<int64_t> keys_;  // global indices of a request's slots
  std::vector<float> states_, exploration_, row_exploration_;
  nn::ActionScratch scratch_;
};

/// Actions as the environment takes them: choices offset by the channel's start, continuous ones
/// clipped to their bounds (detail 27) when `clip`, all in the channel's dtype.
class ActionWriter {
 public:
  ActionWriter(const Channel& action, bool clip);
  size_t bytes() const { return bytes_; }  // of one row
  void write(int64_t rows, const float* actions, void* out) const;

 private:
  Dtype dtype_;
  int64_t components_;
  size_t bytes_;
  float offset_ = 0;
  bool clip_ = false;
  std::vector<float> low_, high_;
};

}  // namespace bessemer
