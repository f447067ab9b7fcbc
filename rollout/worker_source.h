// Experience from workers. The rows of a run are spread over them in contiguous ranges; what comes
// out are the bits of one sampler, whatever their number and however often one is replaced.
#pragma once

#include "rollout/normalizer.h"
#include "rollout/worker_hub.h"

namespace bessemer {

class WorkerSource final : public SampleSource {
 public:
  /// The hub must outlive it.
  WorkerSource(WorkerHub& hub, const SourceRequest& request);

  void collect(int64_t version, std::vector<EpisodeEnd>& episodes) override;
  const Rollout& rollout() const override { return rollout_; }
  SourceState state() const override;
  void restore(const SourceState& state) override;
  int64_t memory_bytes() const override;

 private:
  WorkerHub& hub_;
  const Policy& policy_;
  const Normalizer& normalizer_;
  RolloutShape shape_;
  Rollout rollout_;
};

class WorkerFragments final : public FragmentSource {
 public:
  WorkerFragments(WorkerHub& hub, const SourceRequest& request);

  void publish(const WeightSet& weights) override;
  std::optional<Fragment> take(double seconds) override;
  SampleCounts counts() const override;
  SourceState state() const override;
  void restore(const SourceState& state) override;
  int64_t memory_bytes() const override;

 private:
  WorkerHub& hub_;
  RolloutShape shape_;
};

}  // namespace bessemer
