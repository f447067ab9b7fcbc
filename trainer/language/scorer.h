// What an episode is worth: the environment's own reward, a reward model's, or a function of the
// user's.
#pragma once

#include <memory>
#include <span>

#include "rollout/episodes.h"
#include "trainer/language/model.h"

namespace bessemer {

class Scorer {
 public:
  virtual ~Scorer() = default;
  /// Replaces the rewards of episodes that did not fail. An episode that cannot be scored becomes a
  /// fault: its reward is not a number.
  virtual void score(std::span<Episode> episodes) = 0;
};

/// By reward.from: null for the environment's own.
std::unique_ptr<Scorer> make_scorer(const RunConfig& config, const Tokenizer& tokenizer);

}  // namespace bessemer
