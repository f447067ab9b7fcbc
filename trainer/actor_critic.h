// What on-policy actor-critic algorithms share: a policy with its normaliser and optimiser,
// gradient steps on minibatches of a rollout, the last good weights, checkpoints, evaluation. An
// algorithm adds where its experience comes from, what is held against it, and its loss.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/nn/optim.h"
#include "rollout/source.h"
#include "trainer/algorithm.h"
#include "trainer/evaluate.h"
#include "trainer/good_state.h"
#include "trainer/loss.h"

namespace bessemer {

class Sampler;

class ActorCritic : public Algorithm {
 public:
  const Spec& spec() const override { return spec_; }
  int64_t steps() const override { return steps_; }
  int64_t updates() const override { return adam_->steps(); }
  int64_t parameters() const override;
  int64_t memory_bytes() const override;
  bool exact_resume() const override { return exact_resume_; }
  EvalResult evaluate(int64_t episodes, int64_t seed, bool deterministic) override;
  void save(const std::filesystem::path& folder) const override;
  void load(const std::filesystem::path& folder) override;
  void load_policy(const std::filesystem::path& folder) override;
  std::unique_ptr<Actor> actor(bool deterministic, int64_t seed) const override;

  const Policy& policy() const { return *policy_; }

 protected:
  /// `make_envs` stands in for the registry, for environments that are not in it; `elsewhere`: they
  /// do not run in this process. Throws ValueError for an environment that cannot be learned in
  /// (text, several agents) and for keys that contradict.
  ActorCritic(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs, bool elsewhere);
  /// Once, for an algorithm whose experience is made in this process: its sampler.
  std::unique_ptr<Sampler> inline_sampler();
  /// What a source elsewhere is told.
  SourceRequest source_request() const;

  /// The loss of a minibatch and its derivatives.
  virtual PpoLoss loss(const PpoBatch& batch, PpoGradient& gradient) const = 0;
  /// Where the environments stand, for checkpoints; memory of what lies between them and updates.
  virtual SourceState source_state() const = 0;
  virtual void restore_source(const SourceState& state) = 0;
  virtual int64_t source_bytes() const = 0;
  /// What else an algorithm counts, for checkpoints.
  virtual std::map<std::string, int64_t> counters() const { return {}; }
  virtual void restore_counters(const std::map<std::string, int64_t>&) {}

  /// A rollout and what is held against each of its samples, [steps * rows].
  struct Experience {
    const Rollout& data;
    std::span<const float> old_log_prob, old_value, advantage, returns;
    std::span<const float> weight = {};  // of the policy loss; none: 1
  };
  /// What updates measured, averaged by report().
  struct Totals {
    PpoLoss sum, last;
    double grad_norm = 0, epoch_kl = 0, explained_variance = 0;
    int64_t batches = 0, epoch_batches = 0;
    int64_t rollouts = 0, faults = 0;
  };
  /// Epochs of shuffled minibatches (detail 6), whole sequences of each environment for recurrent
  /// policies (detail 35). Samples of failed environments are left out; returns how many were used.
  int64_t learn(const Experience& experience, Totals& totals);

  /// What the policy as it is says of a rollout's observations and actions: log_prob and value
  /// [steps * rows], last_value [rows].
  struct Appraisal {
    std::vector<float> log_prob, value, last_value;
  };
  void appraise(const Rollout& data, Appraisal& out);

  /// Keeps weights and optimiser state that acted and gave finite numbers over a whole rollout, and
  /// returns to them.
  void keep_good();
  void restore_good();
  /// Throws NotFiniteError naming the column (of the rollout) that is not finite.
  void check_finite(std::span<const float> column, const char* name) const;
  void check_rollout(const Rollout& data) const;

  void remember(std::span<const EpisodeEnd> episodes);
  double progress() const;  // of total_steps, 0 to 1
  double learning_rate() const;
  double clip_range() const;
  /// What docs/ppo.md lists, after `samples` more steps.
  void report(const Totals& totals, int64_t samples, Metrics& metrics) const;

  RunConfig config_;
  EnvFactory make_envs_;
  ThreadPool& pool_;
  Spec spec_;
  bool exact_resume_ = true;
  std::unique_ptr<Policy> policy_;
  std::unique_ptr<Normalizer> normalizer_;
  nn::NamedTensors named_;  // the policy's parameters
  std::unique_ptr<nn::Adam> adam_;
  int64_t steps_ = 0, iterations_ = 0, epochs_done_ = 0;
  std::deque<EpisodeEnd> recent_;  // the last 100 episodes
  double seconds_ = 0;             // in iterate(), since this process began
  int64_t timed_steps_ = 0;

 private:
  /// A minibatch, column by column.
  struct Minibatch {
    std::vector<uint8_t> mask;
    std::vector<float> actions, old_log_prob, old_value, advantage, returns, weight;
    std::vector<float> outputs, features, new_value, log_prob, entropy, d_outputs;
  };

  /// One gradient step. Returns false when target_kl ends the iteration.
  bool update(const Experience& experience, std::span<const int64_t> samples, int64_t sequences,
              Totals& totals);
  void gather(const Experience& experience, std::span<const int64_t> samples);
  Tensor inputs(const Rollout& data, std::span<const int64_t> samples) const;
  /// `samples` index the rollout; for recurrent policies they are whole sequences, time-major, of
  /// `sequences` rows.
  std::vector<Policy::Outputs> forward(const Rollout& data, std::span<const int64_t> samples,
                                       int64_t sequences) const;
  static const float* join(const std::vector<Policy::Outputs>& outputs,
                           Tensor Policy::Outputs::*member, std::vector<float>& buffer);
  std::vector<Tensor> backpropagate(const std::vector<Policy::Outputs>& outputs,
                                    const Tensor& d_log_std);
  void shuffle(std::vector<int64_t>& order);
  [[noreturn]] void fail_loss(const PpoLoss& loss, const nn::ActionInputs& in,
                              const float* value) const;
  [[noreturn]] void fail_gradient(const std::vector<Tensor>& gradients) const;

  std::unique_ptr<EnvBatch> envs_;  // until inline_sampler()
  GoodState good_;
  int64_t good_epochs_done_ = 0;
  // Kept between minibatches to avoid allocation.
  Minibatch batch_;
  nn::ActionScratch scratch_;
  PpoGradient gradient_;
};

}  // namespace bessemer
