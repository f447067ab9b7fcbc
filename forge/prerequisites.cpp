#include "forge/prerequisites.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/base/hash.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

struct Asked {
  std::string key, file;
};

/// Recipes that a configuration names.
std::vector<Asked> asked_by(const RunConfig& run) {
  std::vector<Asked> out;
  if (run.init.recipe) out.push_back({"init.recipe", *run.init.recipe});
  if (run.data.from.recipe) out.push_back({"data.from", run.data.from.path});
  if (run.reward.model.recipe) out.push_back({"reward.model", run.reward.model.path});
  return out;
}

Recipe load_asked(const Recipe& by, const Asked& asked) {
  const std::array<std::string, 1> seed = {cat("seed=", by.run.seed)};
  return load_recipe(asked.file, seed);
}

std::string short_hash(const Recipe& recipe) {
  Recipe plain = recipe;
  plain.out.clear();
  const uint64_t hash = xxh64(plain.yaml());
  char text[9];
  std::snprintf(text, sizeof text, "%08x", static_cast<unsigned>(hash >> 32));
  return text;
}

/// Depth first over what recipes ask for; `chain` holds the files on the way here.
void check_cycles(const Recipe& recipe, std::vector<std::string>& chain) {
  for (const Asked& asked : asked_by(recipe.run)) {
    std::string file = fs::weakly_canonical(asked.file).string();
    if (std::find(chain.begin(), chain.end(), file) != chain.end()) {
      std::string way;
      for (const std::string& step : chain) way += cat(step, " -> ");
      throw RecipeError(cat(recipe.where(asked.key), "recipes that need each other: ", way, file));
    }
    chain.push_back(std::move(file));
    check_cycles(load_asked(recipe, asked), chain);
    chain.pop_back();
  }
}

}  // namespace

void Prerequisite::look() {
  begun = fs::exists(folder.recipe());
  finished = begun && fs::exists(folder.evaluation());
}

std::vector<Prerequisite> prerequisites_of(const Recipe& recipe) {
  std::vector<std::string> chain;
  if (!recipe.file.empty()) chain.push_back(fs::weakly_canonical(recipe.file).string());
  check_cycles(recipe, chain);
  std::vector<Prerequisite> out;
  for (const Asked& asked : asked_by(recipe.run)) {
    Prerequisite one;
    one.key = asked.key;
    one.recipe = load_asked(recipe, asked);
    one.folder.root = fs::path("runs") / cat(one.recipe.name, "-", short_hash(one.recipe));
    one.recipe.out = one.folder.root.string();
    one.look();
    out.push_back(std::move(one));
  }
  return out;
}

void use_prerequisite(Recipe& recipe, const Prerequisite& prerequisite) {
  const RunFolder& folder = prerequisite.folder;
  if (prerequisite.key == "init.recipe") recipe.run.init.folder = folder.root.string();
  if (prerequisite.key == "data.from") recipe.run.data.file = folder.completions().string();
  if (prerequisite.key == "reward.model") recipe.run.reward.folder = folder.root.string();
}

void use_paths(Recipe& recipe) {
  RunConfig& run = recipe.run;
  if (run.init.from) run.init.folder = *run.init.from;
  const Source& data = run.data.from;
  if (!data.recipe && data.path != "env") run.data.file = data.path;
  if (!run.reward.model.recipe) run.reward.folder = run.reward.model.path;
}

}  // namespace bessemer
