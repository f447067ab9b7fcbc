// The asynchronous interface over a sampler of this process: it collects when it is asked to, with
// the policy as it is, so that nothing is ever stale and reruns give the same bits.
#pragma once

#include <memory>

#include "rollout/source.h"

namespace bessemer {

class InlineFragments final : public FragmentSource {
 public:
  explicit InlineFragments(std::unique_ptr<SampleSource> source) : source_(std::move(source)) {}

  void publish(const WeightSet& weights) override { version_ = weights.version; }
  /// Collects a fragment of all rows; never comes back empty.
  std::optional<Fragment> take(double seconds) override;
  SampleCounts counts() const override { return {samples_, samples_, 0, {}}; }
  SourceState state() const override { return source_->state(); }
  void restore(const SourceState& state) override { source_->restore(state); }
  int64_t memory_bytes() const override { return 2 * source_->memory_bytes(); }

 private:
  std::unique_ptr<SampleSource> source_;
  int64_t version_ = 0;
  uint64_t number_ = 0, samples_ = 0;
};

}  // namespace bessemer
