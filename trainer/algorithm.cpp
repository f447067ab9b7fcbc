#include "trainer/algorithm.h"

#include "trainer/appo.h"
#include "trainer/ppo.h"

#ifdef BESSEMER_HAS_TEXT
#include "trainer/language/online.h"
#include "trainer/language/pairs.h"
#include "trainer/language/sft.h"
#endif

namespace bessemer {

namespace {

std::unique_ptr<Algorithm> make_language_algorithm([[maybe_unused]] const RunConfig& config,
                                                   [[maybe_unused]] ThreadPool& pool,
                                                   [[maybe_unused]] const SourceFactory& sources) {
#ifdef BESSEMER_HAS_TEXT
  switch (config.uses()) {
    case kUsesSft:
      return std::make_unique<Sft>(config, pool);
    case kUsesReward:
      return std::make_unique<RewardTrainer>(config, pool);
    case kUsesDpo:
      return std::make_unique<Dpo>(config, pool);
    case kUsesGrpo:
      return std::make_unique<Grpo>(config, pool, EnvFactory(), sources);
    default:
      return std::make_unique<PpoLanguage>(config, pool, EnvFactory(), sources);
  }
#else
  fail<ValueError>("trainer.algo: this build has no text: it was made without PCRE2");
#endif
}

}  // namespace

std::unique_ptr<Algorithm> make_algorithm(const RunConfig& config, ThreadPool& pool,
                                          const SourceFactory& sources) {
  if (config.uses() & kUsesLanguage) return make_language_algorithm(config, pool, sources);
  if (config.trainer.algo == "ppo")
    return std::make_unique<Ppo>(config, pool, EnvFactory(), sources);
  if (config.trainer.algo == "appo")
    return std::make_unique<Appo>(config, pool, EnvFactory(), sources);
  const std::string known[] = {"ppo", "appo"};
  fail<ValueError>("unknown algorithm '", config.trainer.algo, "'",
                   did_you_mean(config.trainer.algo, known));
}

}  // namespace bessemer
