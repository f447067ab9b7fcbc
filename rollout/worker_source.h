// Experience from workers. The rows of a run are spread over them in contiguous ranges; what comes
// out of a synchronous source are the bits of one sampler, whatever their number and however often
// one is replaced.
#pragma once

#include "rollout/worker_hub.h"

namespace bessemer {

class WorkerSource final : public SampleSource {
 public:
  /// Hub, policy and normaliser must outlive it.
  WorkerSource(WorkerHub& hub, const Policy& policy, const Normalizer& normalizer);

  void collect(int64_t version, std::vector<EpisodeEnd>& episodes) override;
  const Rollout& rollout() const override { return rollout_; }
  SourceState state() const override { return hub_.state(); }
  void restore(const SourceState& state) override { hub_.restore(state); }
  int64_t memory_bytes() const override { return rollout_bytes(rollout_); }

 private:
  WorkerHub& hub_;
  const Policy& policy_;
  const Normalizer& normalizer_;
  Rollout rollout_;
};

/// Fragments as they come. Weights are those published last; nothing is collected before the first.
class WorkerFragments final : public FragmentSource {
 public:
  explicit WorkerFragments(WorkerHub& hub);

  void publish(const WeightSet& weights) override;
  std::optional<Fragment> take(double seconds) override;
  SampleCounts counts() const override { return hub_.counts(); }
  SourceState state() const override { return hub_.state(); }
  void restore(const SourceState& state) override { hub_.restore(state); }
  int64_t memory_bytes() const override;

 private:
  WorkerHub& hub_;
};

}  // namespace bessemer
