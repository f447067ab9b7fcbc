#include <cstdio>

#include "forge/commands.h"
#include "forge/launch.h"

namespace bessemer {

int command_eval(const Arguments& arguments) {
  const Words words = sort_words(arguments, "run folder");
  BESSEMER_CHECK(!words.first.empty(), UsageError, "which run folder?");
  const TrainedPolicy policy = load_trained_policy(words.first, words.overrides);
  const EvalConfig& defaults = policy.recipe.run.eval;
  const int64_t episodes = arguments.integer("--episodes", defaults.episodes, 1);
  const int64_t seed = arguments.integer("--seed", defaults.seed, 0);
  const bool deterministic = defaults.deterministic && !arguments.has("--stochastic");
  Evaluation result = evaluate(*policy.algorithm, episodes, seed, deterministic);
  result.step = policy.step;
  const std::string text =
      arguments.has("--json") ? evaluation_json(result) : evaluation_text(result);
  std::printf("%s\n", text.c_str());
  return kExitOk;
}

}  // namespace bessemer
