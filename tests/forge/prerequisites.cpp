#include "forge/prerequisites.h"

#include <doctest/doctest.h>

#include <fstream>

#include "core/base/text_file.h"
#include "forge/runner.h"
#include "tests/forge/scratch.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

/// Counts to trainer.total_steps and remembers from which folder it was told to start.
class Counter final : public Algorithm {
 public:
  explicit Counter(const RunConfig& config) : config_(config) {
    if (!config.act_only)
      begun.push_back(cat(config.trainer.algo, ":", config.init.folder, ":", config.seed));
  }
  const Spec& spec() const override { return spec_; }
  int64_t steps() const override { return steps_; }
  int64_t updates() const override { return steps_; }
  int64_t parameters() const override { return 1; }
  int64_t memory_bytes() const override { return 1; }
  void iterate(Metrics& metrics) override {
    if (steps_ == stop_at) fail<NotFiniteError>("stopped");
    ++steps_;
    metrics.mean("loss", 1);
  }
  EvalResult evaluate(int64_t, int64_t, bool) override {
    EvalResult out;
    out.returns = {1};
    out.lengths = {1};
    out.scores = true;
    return out;
  }
  void save(const fs::path& folder) const override { std::ofstream(folder / "n") << steps_; }
  void load(const fs::path& folder) override { std::ifstream(folder / "n") >> steps_; }
  void load_policy(const fs::path&) override {}
  std::unique_ptr<Actor> actor(bool, int64_t) const override { return nullptr; }

  static inline std::vector<std::string> begun;
  static inline int64_t stop_at = -1;

 private:
  RunConfig config_;
  Spec spec_;
  int64_t steps_ = 0;
};

Runner counting() {
  Counter::begun.clear();
  Runner runner;
  runner.factory = [](const RunConfig& config, ThreadPool&, const SourceFactory&) {
    return std::make_unique<Counter>(config);
  };
  runner.announce = false;
  return runner;
}

/// A working directory of the test's own.
struct Place {
  Scratch scratch;
  fs::path before = fs::current_path();
  Place() { fs::current_path(scratch.path); }
  ~Place() { fs::current_path(before); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(scratch / name) << "schema: 1\nenv: {id: X-v0}\neval: {episodes: 1}\n" << text;
  }
  Recipe load(const std::string& name, std::vector<std::string> overrides = {}) const {
    return load_recipe(scratch / name, overrides);
  }
};

const std::string kSft = "trainer: {algo: sft, total_steps: 3}\n";

}  // namespace

TEST_CASE("prerequisites: a missing run comes first, a finished one is used, seeds are passed on") {
  const Place place;
  place.write("sft.yaml", "seed: 9\n" + kSft);
  place.write("dpo.yaml",
              "seed: 4\ninit: {recipe: sft.yaml}\ntrainer: {algo: dpo, total_steps: 2}\n");
  const Recipe recipe = place.load("dpo.yaml", {"out=first"});
  const std::vector<Prerequisite> asked = prerequisites_of(recipe);
  REQUIRE(asked.size() == 1);
  CHECK(asked[0].key == "init.recipe");
  CHECK(asked[0].recipe.run.seed == 4);
  const std::string folder = asked[0].folder.root.string();
  CHECK(folder.starts_with("runs/sft-"));
  CHECK(folder.size() == std::string("runs/sft-").size() + 8);
  CHECK_FALSE(asked[0].begun);

  CHECK(make_plan(recipe, counting().factory).text.find("missing: is run first") !=
        std::string::npos);
  CHECK_FALSE(fs::exists("runs"));  // a plan writes nothing

  counting().run(recipe, false);
  CHECK(Counter::begun == std::vector<std::string>{"sft::4", "dpo:" + folder + ":4"});
  CHECK(prerequisites_of(recipe)[0].finished);
  counting().run(place.load("dpo.yaml", {"out=second"}), false);
  CHECK(Counter::begun == std::vector<std::string>{"dpo:" + folder + ":4"});

  // Another seed, or other keys, are another run.
  CHECK(prerequisites_of(place.load("dpo.yaml", {"seed=5"}))[0].folder.root != folder);
  place.write("sft.yaml", "trainer: {algo: sft, total_steps: 4}\n");
  CHECK(prerequisites_of(recipe)[0].folder.root != folder);
  // Its own seed and folder are not.
  place.write("sft.yaml", "seed: 1\nout: elsewhere\n" + kSft);
  CHECK(prerequisites_of(recipe)[0].folder.root == folder);
}

TEST_CASE("prerequisites: an unfinished run goes on from its checkpoint") {
  const Place place;
  place.write("sft.yaml", kSft + "checkpoint: {every: 1}\n");
  place.write("grpo.yaml", "init: {recipe: sft.yaml}\ntrainer: {algo: grpo, total_steps: 2}\n");
  const Recipe recipe = place.load("grpo.yaml", {"out=run"});
  Counter::stop_at = 2;
  CHECK_THROWS_AS(counting().run(recipe, false), NotFiniteError);
  Counter::stop_at = -1;
  const Prerequisite half = prerequisites_of(recipe)[0];
  CHECK(half.begun);
  CHECK_FALSE(half.finished);
  const RunSummary summary = counting().run(recipe, false);
  CHECK(summary.steps == 2);
  CHECK(prerequisites_of(recipe)[0].finished);
  CHECK(read_text_file((find_checkpoint(half.folder.root.string()) / "n").string()) == "3");
}

TEST_CASE("prerequisites: what a recipe asks for may ask in turn, but not for itself") {
  const Place place;
  place.write("sft.yaml", kSft);
  place.write("rm.yaml", "init: {recipe: sft.yaml}\ntrainer: {algo: reward, total_steps: 1}\n");
  place.write("ppo.yaml",
              "model: {kind: decoder}\ninit: {recipe: sft.yaml}\n"
              "reward: {from: model, model: {recipe: rm.yaml}}\n"
              "trainer: {algo: ppo, total_steps: 1}\n");
  counting().run(place.load("ppo.yaml", {"out=run"}), false);
  REQUIRE(Counter::begun.size() == 3);
  CHECK(Counter::begun[0] == "sft::1");
  CHECK(Counter::begun[1].starts_with("reward:runs/sft-"));
  CHECK(Counter::begun[2].starts_with("ppo:runs/sft-"));

  place.write("sft.yaml", "init: {recipe: rm.yaml}\n" + kSft);
  CHECK_THROWS_WITH_AS(prerequisites_of(place.load("ppo.yaml")),
                       doctest::Contains("recipes that need each other"), RecipeError);
  place.write("self.yaml", "init: {recipe: self.yaml}\n" + kSft);
  CHECK_THROWS_WITH_AS(prerequisites_of(place.load("self.yaml")),
                       doctest::Contains("self.yaml -> "), RecipeError);
  place.write("lost.yaml", "init: {recipe: nowhere.yaml}\n" + kSft);
  CHECK_THROWS_AS(prerequisites_of(place.load("lost.yaml")), IoError);
}

TEST_CASE("prerequisites: files and folders that a recipe names") {
  const Place place;
  place.write("dpo.yaml",
              "init: {from: weights}\ndata: {from: pairs.jsonl}\ntrainer: {algo: dpo}\n");
  Recipe recipe = place.load("dpo.yaml");
  use_paths(recipe);
  CHECK(recipe.run.init.folder == fs::weakly_canonical(place.scratch / "weights"));
  CHECK(recipe.run.data.file == fs::weakly_canonical(place.scratch / "pairs.jsonl"));
}
