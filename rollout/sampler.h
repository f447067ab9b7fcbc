// The vector sampler: steps a batch of environments with a policy and fills flat [time, row]
// buffers. Draws are keyed by (seed, row, step) and rewards, values and statistics are written in
// row order: the same bits for any number of threads.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "envs/env.h"
#include "rollout/runner.h"

namespace bessemer {

/// One rollout. Index of a sample: time * rows + row.
struct Rollout {
  int64_t steps = 0, rows = 0, components = 0;
  std::vector<std::byte> obs;  // [steps + 1, rows, observation], raw; the last is what comes next
  std::vector<uint8_t> action_mask;  // [steps + 1, rows, outputs] or empty
  std::vector<float> actions;        // [steps, rows, components], unclipped
  std::vector<float> log_prob, value;
  std::vector<float> raw_reward;  // as the environment gave it
  std::vector<float> reward;      // normalised, with the bootstrap of truncated episodes
  std::vector<uint8_t> ended;     // the episode ended in this step, whatever the reason
  std::vector<uint8_t> fault;     // the sample is not to be trained on
  std::vector<uint8_t> starts;    // [steps + 1, rows]: an episode begins with this observation
  std::vector<int64_t> version;   // of the policy that acted
  std::vector<float> state;       // [rows, state_size] before the first step (detail 36)
  std::vector<float> last_value;  // [rows] of what comes next
  int64_t faults = 0;
  std::string fault_reason;  // of the last fault
};

struct EpisodeEnd {
  double total = 0;
  int64_t length = 0;
};

struct SamplerOptions {
  int64_t steps = 128;
  uint64_t seed = 1;
  double gamma = 0.99;
  bool truncation_bootstrap = true;
  bool clip_actions = true;
  int64_t sde_sample_freq = -1;
};

class Sampler {
 public:
  /// Environments in Autoreset::same_step; they are reset with seeds drawn from the seed's
  /// environment stream.
  Sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy, Normalizer& normalizer,
          const SamplerOptions& options);

  /// Fills rollout() with the next `steps` steps; `episodes` receives those that ended, in order.
  /// Throws NotFiniteError when the policy's outputs are not finite.
  void collect(int64_t version, std::vector<EpisodeEnd>& episodes);
  /// Lets the normaliser take in the last rollout.
  void update_statistics();

  const Rollout& rollout() const { return rollout_; }
  EnvBatch& envs() { return *envs_; }
  const EnvBatch& envs() const { return *envs_; }
  int64_t rows() const { return rollout_.rows; }
  /// Steps of each environment so far: the counter of action draws.
  int64_t step_counter() const { return counter_; }
  int64_t memory_bytes() const;

  /// What a checkpoint needs beside the environments' own state: flags of episodes that begin with
  /// the current observation, recurrent states, the counter.
  const std::vector<uint8_t>& starts() const { return current_starts_; }
  const std::vector<float>& states() const { return runner_.states(); }
  /// After the environments were loaded: takes their current observations.
  void restore(int64_t counter, std::vector<uint8_t> starts, std::vector<float> states);

 private:
  std::byte* obs_at(int64_t t);
  uint8_t* mask_at(int64_t t);
  void check_finite(int64_t t) const;
  void finish_step(int64_t t, std::vector<EpisodeEnd>& episodes);
  void bootstrap();

  std::unique_ptr<EnvBatch> envs_;
  const Policy& policy_;
  Normalizer& normalizer_;
  SamplerOptions options_;
  PolicyRunner runner_;
  ActionWriter writer_;
  Rollout rollout_;
  StepBuffers buffers_;
  int64_t counter_ = 0;
  std::vector<int64_t> slots_;
  std::vector<uint8_t> current_starts_, terminated_, truncated_;
  std::vector<float> episode_return_;
  std::vector<int64_t> episode_length_;
  std::vector<std::byte> action_bytes_, final_obs_;
  // Episodes cut in this rollout, judged together at its end.
  std::vector<int64_t> cut_samples_;
  std::vector<std::byte> cut_obs_;
  std::vector<float> cut_states_;
};

}  // namespace bessemer
