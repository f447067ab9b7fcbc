// Runs that a recipe stands on: where `init`, `data` or `reward` name another recipe, its run is
// found in runs/<recipe>-<8 hex of the hash of its resolved recipe, seed included, out left out>,
// or made first. The dependent run passes on its seed.
#pragma once

#include <string>
#include <vector>

#include "forge/config.h"
#include "forge/run_folder.h"

namespace bessemer {

struct Prerequisite {
  std::string key;  // "init.recipe", "data.from", "reward.model"
  Recipe recipe;    // with the dependent's seed and its own folder
  RunFolder folder;
  bool begun = false;     // the folder holds its run
  bool finished = false;  // ... which came to its end

  /// Looks at the folder again.
  void look();
};

/// What the recipe itself asks for, not what that asks for in turn. Throws RecipeError for a recipe
/// that needs itself, over however many others; IoError where one cannot be read.
std::vector<Prerequisite> prerequisites_of(const Recipe& recipe);

/// Tells the configuration where a finished prerequisite lies.
void use_prerequisite(Recipe& recipe, const Prerequisite& prerequisite);
/// Folders and files that the recipe names as paths.
void use_paths(Recipe& recipe);

}  // namespace bessemer
