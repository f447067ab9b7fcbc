#include <cstdio>

#include "forge/commands.h"
#include "forge/config.h"

namespace bessemer {

int command_run(const Arguments& arguments) {
  std::string file;
  std::vector<std::string> overrides;
  for (const std::string& word : arguments.positional) {
    if (word.find('=') != std::string::npos) {
      overrides.push_back(word);
    } else {
      BESSEMER_CHECK(file.empty(), UsageError, "more than one recipe: '", file, "' and '", word,
                     "'");
      file = word;
    }
  }
  BESSEMER_CHECK(!file.empty(), UsageError, "which recipe?");
  const Recipe recipe = load_recipe(file, overrides);
  std::fputs(recipe.yaml().c_str(), stdout);
  return kExitOk;
}

}  // namespace bessemer
