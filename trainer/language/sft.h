// Supervised fine-tuning: the likelihood of answers, mean over the trained tokens of the whole
// optimiser step (docs/post_training.md).
#pragma once

#include "trainer/language/text_feed.h"
#include "trainer/language/trainer.h"

namespace bessemer {

class Sft : public LanguageTrainer {
 public:
  Sft(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs = {});
  std::vector<Text> preview(int64_t count) override { return feed_.take(counters_.items, count); }

 protected:
  void learn(Metrics& metrics) override;
  /// Greedy answers in the environment; without one, the held-out examples: the score is the share
  /// of their tokens that are the most likely ones.
  EvalResult judge(int64_t episodes, int64_t seed, bool deterministic) override;

 private:
  struct Sums {
    double loss = 0, right = 0, tokens = 0;
  };
  /// One pass; with `learn`, gradients are added to the parameters'.
  void pass(const Pack& pack, double total, bool learn, Sums& sums);

  TextFeed feed_;
  int64_t too_long_ = 0;  // texts that were left out: of a step's items, or of the file
};

}  // namespace bessemer
