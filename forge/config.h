// What a recipe says, whole: the run's configuration, where it writes, how often it is repeated.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "forge/recipe.h"
#include "trainer/config.h"

namespace bessemer {

constexpr int64_t kRecipeSchema = 1;

struct MetricsConfig {
  bool console = true;
  bool tensorboard = true;
  bool jsonl = true;
  std::optional<std::string> prometheus;  // PORT or HOST:PORT
  bool trace = false;
  void fields(FieldVisitor& v);
};

struct Recipe {
  int64_t schema = kRecipeSchema;
  std::optional<int64_t> seeds;  // that many runs, with seeds 0 .. seeds - 1
  std::string out;               // empty: runs/<name>-<time>
  std::string device = "cpu";
  RunConfig run;
  MetricsConfig metrics;

  std::string name;  // the file's name without its ending
  std::string file;  // as it was given; empty: none
  RecipeNode root;   // what was read, for the positions of later errors

  /// Every key of the schema. The order is that of the resolved recipe.
  void fields(FieldVisitor& v);
  /// The resolved recipe: every key with its value; load_recipe_text gives the same Recipe for it.
  std::string yaml() const;
  /// "file:line:column: ", "override 'a.b=c': " or, where the recipe does not give `path`, "".
  std::string where(std::string_view path) const;
};

/// Reads a recipe and its overrides ("a.b=c"). Throws RecipeError, IoError.
Recipe load_recipe(const std::string& file, std::span<const std::string> overrides);
Recipe load_recipe_text(std::string_view text, const std::string& file,
                        std::span<const std::string> overrides);

/// Throws RecipeError unless every difference between the recipes may change when a run is resumed:
/// placement, metrics, checkpoint, eval, and a larger trainer.total_steps where no schedule depends
/// on it. Anything else would be another run, which --fork makes.
void check_resumable(const Recipe& before, const Recipe& after);

/// Host and port of "PORT" (127.0.0.1) or "HOST:PORT". Throws ValueError.
std::pair<std::string, std::string> parse_host_port(const std::string& text);

}  // namespace bessemer
