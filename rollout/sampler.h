// The vector sampler: steps a batch of environments with a policy and fills flat [time, row]
// buffers. Draws are keyed by (seed, row, step) and rewards, values and statistics are written in
// row order: the same bits for any number of threads.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "envs/env.h"
#include "rollout/runner.h"
#include "rollout/source.h"

namespace bessemer {

class Sampler final : public SampleSource {
 public:
  /// Environments in Autoreset::same_step; they are reset with seeds drawn from the seed's
  /// environment stream.
  Sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy, const Normalizer& normalizer,
          const SamplerOptions& options);

  void collect(int64_t version, std::vector<EpisodeEnd>& episodes) override;
  const Rollout& rollout() const override { return rollout_; }
  SourceState state() const override;
  void restore(const SourceState& state) override;
  int64_t memory_bytes() const override { return rollout_bytes(rollout_); }

 private:
  std::byte* obs_at(int64_t t);
  uint8_t* mask_at(int64_t t);
  void check_finite(int64_t t) const;
  SourceState current_state() const;
  void reset_all();
  void finish_step(int64_t t, std::vector<EpisodeEnd>& episodes);
  void bootstrap();

  std::unique_ptr<EnvBatch> envs_;
  const Policy& policy_;
  const Normalizer& normalizer_;
  SamplerOptions options_;
  PolicyRunner runner_;
  ActionWriter writer_;
  Rollout rollout_;
  StepBuffers buffers_;
  int64_t counter_ = 0;
  // Of environments that may be lost: where they stood after the last rollout, so that a run can be
  // saved without them.
  std::optional<SourceState> kept_;
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
