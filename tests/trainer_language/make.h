// The trainer of a configuration around the toy task, and a few steps of it.
#pragma once

#include "core/base/thread_pool.h"
#include "tests/trainer_language/toy.h"
#include "trainer/language/online.h"
#include "trainer/language/pairs.h"
#include "trainer/language/sft.h"

namespace bessemer {

inline ThreadPool& toy_pool() {
  static ThreadPool threads(1);
  return threads;
}

inline std::unique_ptr<LanguageTrainer> make_toy(const RunConfig& config, int64_t turns = 1) {
  const EnvFactory envs = low_bytes(turns);
  switch (config.uses()) {
    case kUsesSft:
      return std::make_unique<Sft>(config, toy_pool(), envs);
    case kUsesReward:
      return std::make_unique<RewardTrainer>(config, toy_pool(), envs);
    case kUsesDpo:
      return std::make_unique<Dpo>(config, toy_pool(), envs);
    case kUsesGrpo:
      return std::make_unique<Grpo>(config, toy_pool(), envs);
    default:
      return std::make_unique<PpoLanguage>(config, toy_pool(), envs);
  }
}

/// Runs `iterations` and returns the measurements of the last.
inline Metrics run_toy(LanguageTrainer& trainer, int64_t iterations) {
  Metrics metrics;
  for (int64_t i = 0; i < iterations; ++i) {
    metrics.clear();
    trainer.iterate(metrics);
  }
  return metrics;
}

}  // namespace bessemer
