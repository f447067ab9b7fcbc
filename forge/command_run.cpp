#include <cstdio>

#include "forge/commands.h"
#include "forge/interrupt.h"
#include "forge/launch.h"
#include "forge/recipe_keys.h"

namespace bessemer {

int command_run(const Arguments& arguments) {
  if (arguments.has("--keys")) {
    std::fputs(recipe_keys_markdown().c_str(), stdout);
    return kExitOk;
  }
  const Words words = sort_words(arguments, "recipe");
  const std::string* resume = arguments.find("--resume");
  const bool fork = arguments.has("--fork"), force = arguments.has("--force");
  BESSEMER_CHECK(resume || !fork, UsageError,
                 "--fork starts from a run: --resume DIR --fork out=NEW");
  BESSEMER_CHECK(!resume || words.first.empty(), UsageError, "--resume reads the recipe in ",
                 resume ? *resume : "", ", not '", words.first, "'");
  BESSEMER_CHECK(resume || !words.first.empty(), UsageError, "which recipe?");
  BESSEMER_CHECK(!resume || fork || !force, UsageError,
                 "--force replaces a run, --resume goes on with it: one of them");

  if (arguments.has("--dry-run")) {
    const Recipe recipe = resume ? recipe_of_run(*resume, words.overrides)
                                 : load_recipe(words.first, words.overrides);
    std::fputs(make_plan(recipe, make_algorithm).text.c_str(), stdout);
    return kExitOk;
  }
  const InterruptGuard guard;
  Runner runner = default_runner(true, {"/proc/self/exe"});
  RunSummary summary;
  if (fork) {
    summary = runner.fork(*resume, words.overrides, force);
  } else if (resume) {
    summary = runner.resume(*resume, words.overrides);
  } else {
    summary = runner.run(load_recipe(words.first, words.overrides), force);
  }
  if (summary.end != RunEnd::interrupted) return kExitOk;
  if (summary.folder.empty()) {
    std::fputs("stopped before the first step\n", stderr);
    return kExitInterrupted;
  }
  std::fprintf(stderr, "stopped after %lld steps; go on with: ./bessemer run --resume %s\n",
               static_cast<long long>(summary.steps), summary.folder.c_str());
  return kExitInterrupted;
}

}  // namespace bessemer
