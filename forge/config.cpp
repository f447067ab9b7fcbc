#include "forge/config.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/base/text_file.h"

namespace bessemer {

namespace {

/// Keys of the planned schema that nothing here can honour yet.
constexpr UnavailableKey kUnavailable[] = {
    {"device", "cuda"},
    {"device", "cuda:0"},
    {"device", "cuda:1"},
    {"env.wrappers"},
};

std::vector<RecipeWriter::Line> flat(const Recipe& recipe) {
  RecipeWriter writer(recipe.run.uses());
  Recipe(recipe).fields(writer);
  return writer.lines();
}

/// Text at "section.key" of the tree; "" where there is none.
std::string_view text_at(const RecipeNode& root, std::string_view section, std::string_view key) {
  const RecipeNode::Entry* outer = root.find(section);
  const RecipeNode::Entry* inner = outer ? outer->value.find(key) : nullptr;
  return inner && inner->value.kind == RecipeNode::Kind::scalar ? inner->value.text
                                                                : std::string_view();
}

/// Defaults and keys of the algorithm that the recipe names.
RecipeUser user_of(Recipe& recipe) {
  const std::string_view algo = text_at(recipe.root, "trainer", "algo");
  recipe.run.start_from(text_at(recipe.root, "model", "kind"),
                        algo.empty() ? recipe.run.trainer.algo : algo);
  const RunConfig& run = recipe.run;
  return {run.uses(),
          cat("trainer.algo: ", run.trainer.algo, " with model.kind: ", run.model.kind)};
}

bool larger(const std::string& before, const std::string& after) {
  return std::strtoll(after.c_str(), nullptr, 10) > std::strtoll(before.c_str(), nullptr, 10);
}

}  // namespace

void MetricsConfig::fields(FieldVisitor& v) {
  v.field("console", console, {.doc = "progress on the terminal", .resume = true});
  v.field("tensorboard", tensorboard, {.doc = "TensorBoard event files", .resume = true});
  v.field("jsonl", jsonl, {.doc = "metrics.jsonl, one row an iteration", .resume = true});
  v.field("prometheus", prometheus,
          {.doc = "serves the newest values at http://HOST:PORT/metrics: PORT (of this machine "
                  "alone) or HOST:PORT; null: does not",
           .resume = true});
  v.field("trace", trace,
          {.doc = "trace.json, what every process did when, for ui.perfetto.dev", .resume = true});
}

void Recipe::fields(FieldVisitor& v) {
  v.field("schema", schema, {.doc = "version of the recipe's format"});
  v.field("seeds", seeds,
          {.doc = "so many runs in out/seed-0, out/seed-1, ... and their aggregate",
           .min = 1,
           .max = 10'000});
  v.field("out", out, {.doc = "folder of the run, from the working directory", .resume = true});
  v.field("device", device, {.doc = "where tensors live", .choices = {"cpu"}});
  run.fields(v);
  if (v.begin("metrics", {.doc = "where measurements go"})) {
    metrics.fields(v);
    v.end();
  }
}

std::string Recipe::yaml() const {
  RecipeWriter writer(run.uses());
  Recipe(*this).fields(writer);
  return writer.yaml();
}

std::string Recipe::where(std::string_view path) const {
  const RecipeNode* node = &root;
  for (;;) {
    const size_t dot = path.find('.');
    const RecipeNode::Entry* entry = node->find(path.substr(0, dot));
    if (!entry) return "";
    node = &entry->value;
    if (dot == std::string_view::npos) return cat(node->where, ": ");
    path.remove_prefix(dot + 1);
  }
}

Recipe load_recipe_text(std::string_view text, const std::string& file,
                        std::span<const std::string> overrides) {
  Recipe recipe;
  recipe.root = parse_recipe(text, file);
  for (const std::string& assignment : overrides) apply_override(recipe.root, assignment);
  // `seed` and `seeds` exclude each other: an override of one takes the place of the file's other.
  const auto overridden = [&](std::string_view start) {
    return std::any_of(overrides.begin(), overrides.end(),
                       [&](const std::string& text) { return text.starts_with(start); });
  };
  for (const auto& [given, other] : {std::pair("seeds", "seed"), std::pair("seed", "seeds")})
    if (overridden(cat(given, '=')) && !overridden(cat(other, '=')))
      std::erase_if(recipe.root.entries,
                    [&](const RecipeNode::Entry& entry) { return entry.key == other; });
  recipe.name = std::filesystem::path(file).stem().string();
  recipe.file = file;

  RecipeReader reader(recipe.root, kUnavailable, file, user_of(recipe));
  try {
    recipe.fields(reader);
  } catch (const RecipeError&) {
    throw;
  } catch (const ValueError& error) {
    // a field that checks its own text names its path first: "trainer.stop.x: expected ..."
    const std::string what = error.what();
    const std::string where = recipe.where(what.substr(0, what.find(": ")));
    throw RecipeError(where.empty() ? cat(file, ": ", what) : cat(where, what));
  }
  if (!reader.given("schema")) {
    reader.reject("schema", cat("is missing: this version reads 'schema: ", kRecipeSchema, "'"));
  } else if (recipe.schema != kRecipeSchema) {
    reader.reject("schema",
                  cat("must be ", kRecipeSchema, " for this version, got ", recipe.schema));
  }
  const bool from_file = (recipe.run.uses() & (kUsesSft | kUsesPairs)) &&
                         recipe.run.data.from != Source{.path = "env"};
  if (!reader.given("env.id") && !from_file)
    reader.reject("env.id", "is missing: which environment to learn in");
  if (recipe.seeds) {
    if (reader.given("seed") && recipe.run.seed != 0) {
      reader.reject("seeds", "and 'seed' exclude each other: seeds: N runs seeds 0 to N - 1");
    }
    recipe.run.seed = 0;
  }
  if (recipe.metrics.prometheus) {
    try {
      parse_host_port(*recipe.metrics.prometheus);
    } catch (const ValueError& error) {
      reader.reject("metrics.prometheus", error.what());
    }
  }
  reader.finish();
  try {
    recipe.run.check();
  } catch (const ValueError& error) {
    // names the keys; the position of the first one it names is the most useful
    const std::string what = error.what();
    const std::string where = recipe.where(what.substr(0, what.find_first_of(" :,")));
    throw RecipeError(where.empty() ? cat(file, ": ", what) : cat(where, what));
  }
  return recipe;
}

Recipe load_recipe(const std::string& file, std::span<const std::string> overrides) {
  return load_recipe_text(read_text_file(file), file, overrides);
}

void check_resumable(const Recipe& before, const Recipe& after) {
  const auto old_lines = flat(before), new_lines = flat(after);
  std::string findings;
  for (const RecipeWriter::Line& now : new_lines) {
    const auto same_path = [&](const RecipeWriter::Line& line) { return line.path == now.path; };
    const auto old = std::find_if(old_lines.begin(), old_lines.end(), same_path);
    if (old == old_lines.end() || old->value == now.value) continue;
    const bool total = now.path == "trainer.total_steps";
    if (now.resume && (!total || larger(old->value, now.value))) continue;
    std::string reason = "would make another run";
    if (total) {
      reason = now.resume ? "may only grow when a run is resumed"
                          : "cannot change: a schedule of the run depends on it";
    }
    findings +=
        cat(findings.empty() ? "" : "\n", after.where(now.path), "'", now.path, "' ", reason, " (",
            old->value, " -> ", now.value, "); --fork out=NEW starts one from here");
  }
  if (!findings.empty()) throw RecipeError(findings);
}

std::pair<std::string, std::string> parse_host_port(const std::string& text) {
  const size_t colon = text.rfind(':');
  std::string host = colon == std::string::npos ? "127.0.0.1" : text.substr(0, colon);
  std::string port = text.substr(colon == std::string::npos ? 0 : colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  int number = -1;
  const char* end = port.data() + port.size();
  const auto read = std::from_chars(port.data(), end, number);
  BESSEMER_CHECK(
      read.ec == std::errc() && read.ptr == end && number >= 0 && number <= 65535 && !host.empty(),
      ValueError, "must be PORT or HOST:PORT, got '", text, "'");
  return {std::move(host), std::move(port)};
}

}  // namespace bessemer
