// Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The
// 37 Implementation Details of Proximal Policy Optimization"; docs/ppo.md lists which switch is
// which.
#pragma once

#include "trainer/actor_critic.h"

namespace bessemer {

class Ppo : public ActorCritic {
 public:
  /// `make_envs` stands in for the registry, for environments that are not in it; `sources` says
  /// where samples come from. Throws ValueError for an environment PPO cannot learn in (text,
  /// several agents) and for keys that contradict.
  Ppo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {},
      const SourceFactory& sources = {});

  void iterate(Metrics& metrics) override;
  const Rollout& rollout() const { return source_->rollout(); }

 private:
  PpoLoss loss(const PpoBatch& batch, PpoGradient& gradient) const override;
  SourceState source_state() const override { return source_->state(); }
  void restore_source(const SourceState& state) override { source_->restore(state); }
  int64_t source_bytes() const override { return source_->memory_bytes(); }

  std::unique_ptr<SampleSource> source_;
  std::vector<float> advantage_, returns_;
};

}  // namespace bessemer
