// The keys of a recipe as a table for people: docs/recipes.md holds its output.
#pragma once

#include <string>
#include <vector>

#include "core/base/config.h"

namespace bessemer {

struct RecipeKey {
  std::string path;      // "trainer.lr"
  std::string type;      // "number", "whole number", "text", "list", "mapping", "true or false"
  std::string fallback;  // as YAML
  std::string range;     // "above 0", "one of tanh, relu", or ""
  std::string doc;
  std::string users;    // "control", "sft, dpo"; "" for all
  bool resume = false;  // may change when a run is resumed
};

/// Every key with the default of a fresh configuration, in the order of the resolved recipe.
std::vector<RecipeKey> recipe_keys();

/// One Markdown table a section.
std::string recipe_keys_markdown();

/// "above 0 and at most 1"; "" where every value is allowed.
std::string range_text(const FieldInfo& info);

}  // namespace bessemer
