// Learning from preferences: a chosen and a rejected answer to the same prompt. Reward modelling
// (Bradley-Terry) and direct preference optimisation share where pairs come from and how they are
// judged; docs/post_training.md has formulas and sources.
#pragma once

#include "trainer/language/text_feed.h"
#include "trainer/language/trainer.h"

namespace bessemer {

/// Pairs from a file, or made by the environment: the starting weights answer each item
/// rollout.size times, the best answer (or the oracle's) is chosen, the worst rejected; items whose
/// answers are all alike give no pair.
class PairTrainer : public LanguageTrainer {
 public:
  PairTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs, bool head);
  std::vector<Text> preview(int64_t count) override;

 protected:
  /// The next trainer.batch_size pairs, or as many as that number of items gives.
  std::vector<Text> next_pairs(Metrics& metrics);
  /// Held-out pairs: of the file, or of the environment's split.
  std::vector<Text> held_out_pairs(int64_t count, int64_t seed);

  std::unique_ptr<nn::Decoder> reference_;  // the starting weights; null where nothing needs them

 private:
  std::vector<Text> make_pairs(const std::vector<Episode>& episodes) const;
  [[noreturn]] void fail_pairs(int64_t items, const std::vector<Episode>& episodes) const;

  std::unique_ptr<Generator> sampler_;  // of the reference
  TextFeed feed_;
};

class RewardTrainer : public PairTrainer {
 public:
  RewardTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {});

 protected:
  void learn(Metrics& metrics) override;
  /// The share of held-out pairs whose chosen answer has the higher reward.
  EvalResult judge(int64_t episodes, int64_t seed, bool deterministic) override;

 private:
  /// [sequences] at each one's last token, from what pack_hidden() gave.
  Tensor rewards(const Tensor& hidden, const Pack& pack) const;
};

class Dpo : public PairTrainer {
 public:
  Dpo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {});

 protected:
  void learn(Metrics& metrics) override;
  /// Greedy answers in the environment; without one, the share of held-out pairs whose chosen
  /// answer gained more than the rejected one.
  EvalResult judge(int64_t episodes, int64_t seed, bool deterministic) override;
};

}  // namespace bessemer
