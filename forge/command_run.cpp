#include <cstdio>

#include "forge/commands.h"
#include "forge/interrupt.h"
#include "forge/launch.h"
#include "forge/recipe_keys.h"

namespace bessemer {

namespace {

struct Words {
  std::string recipe;
  std::vector<std::string> overrides;
};

Words sort_words(const Arguments& arguments) {
  Words out;
  for (const std::string& word : arguments.positional) {
    if (word.find('=') != std::string::npos) {
      out.overrides.push_back(word);
    } else {
      BESSEMER_CHECK(out.recipe.empty(), UsageError, "more than one recipe: '", out.recipe,
                     "' and '", word, "'");
      out.recipe = word;
    }
  }
  return out;
}

}  // namespace

int command_run(const Arguments& arguments) {
  if (arguments.has("--keys")) {
    std::fputs(recipe_keys_markdown().c_str(), stdout);
    return kExitOk;
  }
  const Words words = sort_words(arguments);
  const std::string* resume = arguments.find("--resume");
  const bool fork = arguments.has("--fork"), force = arguments.has("--force");
  BESSEMER_CHECK(resume || !fork, UsageError,
                 "--fork starts from a run: --resume DIR --fork out=NEW");
  BESSEMER_CHECK(!resume || words.recipe.empty(), UsageError, "--resume reads the recipe in ",
                 resume ? *resume : "", ", not '", words.recipe, "'");
  BESSEMER_CHECK(resume || !words.recipe.empty(), UsageError, "which recipe?");
  BESSEMER_CHECK(!resume || fork || !force, UsageError,
                 "--force replaces a run, --resume goes on with it: one of them");

  if (arguments.has("--dry-run")) {
    const Recipe recipe = resume ? recipe_of_run(*resume, words.overrides)
                                 : load_recipe(words.recipe, words.overrides);
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
    summary = runner.run(load_recipe(words.recipe, words.overrides), force);
  }
  if (summary.end != RunEnd::interrupted) return kExitOk;
  std::fprintf(stderr, "stopped after %lld steps; go on with: ./bessemer run --resume %s\n",
               static_cast<long long>(summary.steps), summary.folder.c_str());
  return kExitInterrupted;
}

}  // namespace bessemer
