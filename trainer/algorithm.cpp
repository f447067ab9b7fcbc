#include "trainer/algorithm.h"

#include "trainer/appo.h"
#include "trainer/ppo.h"

namespace bessemer {

std::unique_ptr<Algorithm> make_algorithm(const RunConfig& config, ThreadPool& pool,
                                          const SourceFactory& sources) {
  BESSEMER_CHECK(!(config.uses() & kUsesLanguage), ValueError,
                 "trainer.algo: language models cannot be trained in this build");
  if (config.trainer.algo == "ppo")
    return std::make_unique<Ppo>(config, pool, EnvFactory(), sources);
  if (config.trainer.algo == "appo")
    return std::make_unique<Appo>(config, pool, EnvFactory(), sources);
  const std::string known[] = {"ppo", "appo"};
  fail<ValueError>("unknown algorithm '", config.trainer.algo, "'",
                   did_you_mean(config.trainer.algo, known));
}

}  // namespace bessemer
