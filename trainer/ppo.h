// Proximal policy optimisation (Schulman et al. 2017) with the details of Huang et al. 2022, "The
// 37 Implementation Details of Proximal Policy Optimization"; docs/recipes.md lists which switch is
// which.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "autograd/nn/optim.h"
#include "rollout/source.h"
#include "trainer/algorithm.h"
#include "trainer/evaluate.h"
#include "trainer/loss.h"

namespace bessemer {

class Ppo : public Algorithm {
 public:
  /// `make_envs` stands in for the registry, for environments that are not in it; `sources` says
  /// where samples come from. Throws ValueError for an environment PPO cannot learn in (text,
  /// several agents) and for keys that contradict.
  Ppo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {},
      const SourceFactory& sources = {});

  const Spec& spec() const override { return spec_; }
  int64_t steps() const override { return steps_; }
  int64_t updates() const override { return adam_->steps(); }
  int64_t parameters() const override;
  int64_t memory_bytes() const override;
  void iterate(Metrics& metrics) override;
  EvalResult evaluate(int64_t episodes, int64_t seed, bool deterministic) override;
  void save(const std::filesystem::path& folder) const override;
  void load(const std::filesystem::path& folder) override;
  void load_policy(const std::filesystem::path& folder) override;
  std::unique_ptr<Actor> actor(bool deterministic, int64_t seed) const override;

  const Policy& policy() const { return *policy_; }
  const Rollout& rollout() const { return source_->rollout(); }

 private:
  struct Totals;
  /// Weights and optimiser state that acted and gave finite numbers over a whole rollout.
  struct Snapshot {
    std::vector<std::vector<float>> values;
    int64_t adam_steps = 0, epochs_done = 0;
    void keep(const Ppo& ppo);
    void restore(Ppo& ppo) const;
  };
  /// A minibatch, column by column.
  struct Minibatch {
    std::vector<uint8_t> mask;
    std::vector<float> actions, old_log_prob, old_value, advantage, returns;
    std::vector<float> outputs, features, new_value, log_prob, entropy, d_outputs;
  };

  void learn(Totals& totals);
  /// `samples` index the rollout; for recurrent policies they are whole sequences, time-major, of
  /// `sequences` rows. Returns false when target_kl ends the iteration.
  bool update(std::span<const int64_t> samples, int64_t sequences, Totals& totals);
  void gather(std::span<const int64_t> samples);
  Tensor inputs(std::span<const int64_t> samples) const;
  std::vector<Policy::Outputs> forward(std::span<const int64_t> samples, int64_t sequences);
  static const float* join(const std::vector<Policy::Outputs>& outputs,
                           Tensor Policy::Outputs::*member, std::vector<float>& buffer);
  std::vector<Tensor> backpropagate(const std::vector<Policy::Outputs>& outputs,
                                    const Tensor& d_log_std);
  void shuffle(std::vector<int64_t>& order);
  double progress() const;  // of total_steps, 0 to 1
  double learning_rate() const;
  double clip_range() const;
  void report(const Totals& totals, Metrics& metrics) const;

  // ppo_setup.cpp
  void check_rollout() const;
  [[noreturn]] void fail_loss(const PpoLoss& loss, const nn::ActionInputs& in,
                              const float* value) const;
  [[noreturn]] void fail_gradient(const std::vector<Tensor>& gradients) const;

  RunConfig config_;
  EnvFactory make_envs_;
  ThreadPool& pool_;
  Spec spec_;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<SampleSource> source_;
  nn::NamedTensors named_;  // the policy's parameters
  std::unique_ptr<nn::Adam> adam_;
  Snapshot good_;
  int64_t steps_ = 0, iterations_ = 0, epochs_done_ = 0;
  std::deque<EpisodeEnd> recent_;  // the last 100 episodes
  std::vector<float> advantage_, returns_;
  double seconds_ = 0;  // in iterate(), since this process began
  int64_t timed_steps_ = 0;

  // Kept between minibatches to avoid allocation.
  Minibatch batch_;
  nn::ActionScratch scratch_;
  PpoGradient gradient_;
};

}  // namespace bessemer
