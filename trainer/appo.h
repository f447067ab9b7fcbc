// Asynchronous PPO: a learner that never waits for the slowest sampler. Samplers go on with older
// weights while it learns; V-trace corrects for that (Espeholt et al. 2018, "IMPALA"), and PPO's
// clip bounds the step (Petrenko et al. 2020, "Sample Factory"). docs/appo.md lists the switches.
#pragma once

#include "trainer/actor_critic.h"
#include "trainer/vtrace.h"

namespace bessemer {

/// Where every sample went: produced = trained + the sum of dropped + queued.
struct SampleBooks {
  int64_t produced = 0, trained = 0, queued = 0;
  std::map<std::string, int64_t> dropped;  // by reason
};

class Appo : public ActorCritic {
 public:
  /// `make_envs` stands in for the registry, for environments that are not in it; `sources` says
  /// where fragments come from. Throws ValueError for an environment that cannot be learned in
  /// (text, several agents) and for keys that contradict.
  Appo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {},
       const SourceFactory& sources = {});

  /// Takes fragments until they hold as many samples as a rollout of all environments, learns from
  /// each at once and publishes the weights after each. steps() counts what was taken, dropped
  /// samples included.
  void iterate(Metrics& metrics) override;

  /// Since the run began, over resumes: what was queued at a checkpoint is collected anew. Throws
  /// Error where they do not balance.
  SampleBooks books() const;

 private:
  PpoLoss loss(const PpoBatch& batch, PpoGradient& gradient) const override;
  SourceState source_state() const override { return source_->state(); }
  void restore_source(const SourceState& state) override { source_->restore(state); }
  int64_t source_bytes() const override { return source_->memory_bytes(); }
  std::map<std::string, int64_t> counters() const override;
  void restore_counters(const std::map<std::string, int64_t>& counters) override;

  Fragment wait();
  void publish();
  /// `lag`: versions between the policy that acted and the one that learns.
  void train(const Fragment& fragment, int64_t lag, Totals& totals);

  std::unique_ptr<FragmentSource> source_;
  int64_t version_ = 0;  // of the weights that were published last; one more for each fragment
  bool published_ = false;
  SampleBooks past_;  // of the processes before this one; trained and dropped go on in it
  int64_t taken_ = 0;
  double waited_ = 0;  // seconds of this iteration
  Appraisal appraisal_;
  Vtrace vtrace_;
};

}  // namespace bessemer
