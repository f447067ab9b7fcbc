// Learning from answers that the policy gave itself: what GRPO and PPO share. An iteration samples
// groups of answers, gives each a reward, and takes trainer.epochs passes over them in minibatches
// of whole groups, so that a prompt is computed once for all its answers, forward and backward.
#pragma once

#include <deque>
#include <vector>

#include "rollout/episode_source.h"
#include "trainer/language/scorer.h"
#include "trainer/language/trainer.h"
#include "trainer/token_loss.h"

namespace bessemer {

class OnlineTrainer : public LanguageTrainer {
 public:
  OnlineTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs, bool head,
                const SourceFactory& sources);
  std::vector<Text> preview(int64_t count) override;

 protected:
  void learn(Metrics& metrics) override;
  /// An episode as it is learned from; vectors have one entry a trained token.
  struct Sample {
    Episode episode;
    double env_reward = 0,
           kl = 0;     // the environment's; mean over tokens of the KL to the reference
    bool used = true;  // false: not in the loss (a fault, overlong_filter)
    std::vector<float> reference, value, advantage, returns;
  };
  /// What the minibatches of an iteration came to.
  struct Tally {
    Metrics metrics;
    bool first = true;  // the next minibatch has the weights that sampled
  };

  /// Fills in `advantage` (and what the loss needs beside it) from the rewards.
  virtual void prepare(std::vector<Sample>& samples, Metrics& metrics) = 0;
  virtual TokenPolicyOptions policy_options() const;
  KlEstimator kl_estimator() const;
  /// Runs forward passes over all samples' texts without gradients.
  void add_references(std::vector<Sample>& samples);
  std::vector<Text> texts_of(std::span<const Sample> samples) const;
  std::unique_ptr<Scorer> scorer_;  // null: the environment's rewards

 private:
  /// What was submitted longest ago; placement.max_staleness rounds are kept ahead of it.
  std::vector<Episode> next_round();
  /// Episodes come from other processes and from files: ValueError where they are no round of this
  /// run.
  void check_round(const std::vector<Episode>& episodes) const;
  /// The counters before round `i` of those that are ahead.
  Counters counters_at(size_t i) const;
  Counters learned() const override { return counters_at(0); }
  void drop_ahead() override;
  Counters save_ahead(nn::NamedTensors& train) const override;
  void load_ahead(const TensorFile& train) override;
  std::vector<Sample> collect(Metrics& metrics);
  void shape_rewards(std::span<Sample> samples) const;
  double update(std::span<const Sample> samples, Metrics& metrics, Tally& tally);
  void report(const std::vector<Sample>& samples, Metrics& metrics) const;
  int64_t groups_with_spread(std::span<const Sample> samples) const;

  std::unique_ptr<nn::Decoder> reference_;  // the starting weights; null where nothing needs them
  std::shared_ptr<EpisodeSource> source_;
  std::deque<Counters> ahead_;  // before each round that was submitted and not taken
};

/// Group relative policy optimisation (Shao et al. 2024) and its variants by switches.
class Grpo : public OnlineTrainer {
 public:
  Grpo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {},
       const SourceFactory& sources = {})
      : OnlineTrainer(config, pool, std::move(make_envs), false, sources) {}

 protected:
  void prepare(std::vector<Sample>& samples, Metrics& metrics) override;
};

/// PPO with a critic (Ziegler et al. 2019; Ouyang et al. 2022): a value head on the policy's trunk,
/// generalised advantages over tokens, the KL to the reference in the reward.
class PpoLanguage : public OnlineTrainer {
 public:
  PpoLanguage(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {},
              const SourceFactory& sources = {})
      : OnlineTrainer(config, pool, std::move(make_envs), true, sources) {}

 protected:
  void prepare(std::vector<Sample>& samples, Metrics& metrics) override;
};

}  // namespace bessemer
