#include "forge/recipe.h"

#include <doctest/doctest.h>

#include "core/base/rng.h"
#include "core/base/text_file.h"
#include "forge/config.h"
#include "forge/recipe_keys.h"

using namespace bessemer;

namespace {

constexpr std::string_view kRecipe = R"(# a comment
schema: 1
seed: 3
env:
  id: CartPole-v1
  num: 16
  options: {wind: true, gravity: -9.5}
model: {kind: mlp, hidden: [32, 16]}
rollout:
  steps: 64
trainer:
  total_steps: 1_000_000
  lr: 3e-4
  target_kl: null
  stop: {eval/mean_reward: 475}
metrics: {console: false}
)";

Recipe load(std::string_view text, std::vector<std::string> overrides = {}) {
  return load_recipe_text(text, "r.yaml", overrides);
}

std::string error_of(std::string_view text, std::vector<std::string> overrides = {}) {
  try {
    load(text, std::move(overrides));
  } catch (const RecipeError& error) {
    return error.what();
  }
  return "";
}

std::string override_error(const std::string& assignment) {
  return error_of(kRecipe, {assignment});
}

}  // namespace

TEST_CASE("recipe: every kind of value is read") {
  const Recipe r = load(kRecipe);
  CHECK(r.name == "r");
  CHECK(r.run.seed == 3);
  CHECK(r.run.env.id == "CartPole-v1");
  CHECK(r.run.env.num == 16);
  REQUIRE(r.run.env.options.size() == 2);
  CHECK(r.run.env.options[0] == std::pair<std::string, std::string>("wind", "true"));
  CHECK(r.run.env.options[1].second == "-9.5");
  CHECK(r.run.model.hidden == std::vector<int64_t>{32, 16});
  CHECK(r.run.trainer.total_steps == 1'000'000);
  CHECK(r.run.trainer.lr == 3e-4);
  CHECK_FALSE(r.run.trainer.target_kl.has_value());
  REQUIRE(r.run.trainer.stop.size() == 1);
  CHECK(r.run.trainer.stop[0].second == 475);
  CHECK_FALSE(r.metrics.console);
  CHECK(r.metrics.jsonl);
}

TEST_CASE("recipe: overrides are typed as YAML and win") {
  const Recipe r = load(kRecipe, {"trainer.lr=1e-3", "model.hidden=[8]", "env.options.wind=false",
                                  "trainer.target_kl=0.02", "eval.every=5e4", "out=runs/mine",
                                  "trainer.stop.eval/mean_reward=200"});
  CHECK(r.run.trainer.lr == 1e-3);
  CHECK(r.run.model.hidden == std::vector<int64_t>{8});
  CHECK(r.run.env.options[0].second == "false");
  CHECK(r.run.trainer.target_kl == 0.02);
  CHECK(r.run.eval.every == 50'000);
  CHECK(r.out == "runs/mine");
  CHECK(r.run.trainer.stop[0].second == 200);
  CHECK(r.where("trainer.lr") == "override 'trainer.lr=1e-3': ");
  CHECK(r.where("env.num") == "r.yaml:6:8: ");
}

TEST_CASE("recipe: the resolved recipe reads back to the same configuration") {
  Recipe r = load(kRecipe, {"out=\"runs/a b: \\\"c\\\"\"", "trainer.clip_range_vf=0.1"});
  r.run.trainer.lr = 0.1 + 0.2;
  r.run.env.options.emplace_back("text", "null");
  const std::string yaml = r.yaml();
  const Recipe again = load(yaml);
  CHECK(again.yaml() == yaml);
  CHECK(again.out == "runs/a b: \"c\"");
  CHECK(again.run.trainer.lr == 0.1 + 0.2);
  CHECK(again.run.env.options == r.run.env.options);
  CHECK(again.run.trainer.stop == r.run.trainer.stop);
}

TEST_CASE("recipe: unknown keys are rejected with position and nearest name") {
  CHECK(error_of("schema: 1\nenv: {id: CartPole-v1}\ntrainer:\n  lrr: 1\n") ==
        "r.yaml:4:3: unknown key 'lrr' in 'trainer', did you mean 'lr'?");
  CHECK(error_of("schema: 1\nenv: {id: x}\ntrainr: {}\n") ==
        "r.yaml:3:1: unknown key 'trainr', did you mean 'trainer'?");
  CHECK(override_error("trainer.epoch=3") ==
        "override 'trainer.epoch=3': unknown key 'epoch' in 'trainer', did you mean 'epochs'?");
  CHECK(override_error("zebra.stripes=3") == "override 'zebra.stripes=3': unknown key 'zebra'");
}

TEST_CASE("recipe: several findings are told at once") {
  CHECK(error_of("schema: 1\nenv: {id: x, num: 0, nmu: 1}\ntrainer: {lr: fast}\n") ==
        "r.yaml:2:19: 'env.num' must be at least 1 and at most 1048576, got '0'\n"
        "r.yaml:2:22: unknown key 'nmu' in 'env', did you mean 'num'?\n"
        "r.yaml:3:15: 'trainer.lr' must be a number, got 'fast'");
}

TEST_CASE("recipe: types and ranges") {
  CHECK(override_error("env.num=1.5") ==
        "override 'env.num=1.5': 'env.num' must be a whole number, got '1.5'");
  CHECK(override_error("env.num=[1]") ==
        "override 'env.num=[1]': 'env.num' must be a whole number, got a list");
  CHECK(override_error("env.num=") ==
        "override 'env.num=': 'env.num' must be a whole number, got nothing");
  CHECK(override_error("env.num='16'") ==
        "override 'env.num='16'': 'env.num' must be a whole number, got '16'");
  CHECK(override_error("env.num=1__6").find("must be a whole number") != std::string::npos);
  CHECK(override_error("env.num=99999999999999999999").find("whole number") != std::string::npos);
  CHECK(override_error("trainer.lr=0") ==
        "override 'trainer.lr=0': 'trainer.lr' must be above 0, got '0'");
  CHECK(override_error("trainer.lr=nan") ==
        "override 'trainer.lr=nan': 'trainer.lr' must be finite, got 'nan'");
  CHECK(override_error("trainer.lr=inf").find("must be finite") != std::string::npos);
  CHECK(override_error("trainer.gamma=1.5").find("at most 1, got '1.5'") != std::string::npos);
  CHECK(override_error("trainer.normalize_advantage=yes") ==
        "override 'trainer.normalize_advantage=yes': 'trainer.normalize_advantage' must be true or "
        "false, got 'yes'");
  CHECK(
      override_error("model.activation=tahn") ==
      "override 'model.activation=tahn': 'model.activation' must be one of tanh, relu, silu, gelu, "
      "got 'tahn', did you mean 'tanh'?");
  CHECK(override_error("model.hidden=64").find("a list of whole numbers") != std::string::npos);
  CHECK(override_error("model.hidden=[64, 0]").find("at least 1") != std::string::npos);
  CHECK(override_error("trainer=3") ==
        "override 'trainer=3': 'trainer' must be a mapping, got '3'");
  CHECK(override_error("env.options={a: [1]}").find("must be a value, got a list") !=
        std::string::npos);
  CHECK(
      override_error("trainer.stop={eval/mean_reward: high}") ==
      "override 'trainer.stop={eval/mean_reward: high}': trainer.stop.eval/mean_reward: expected a "
      "number, got 'high'");
  CHECK(override_error("trainer.batch_size=100000").find("trainer.batch_size is 100000") !=
        std::string::npos);
}

TEST_CASE("recipe: workers share the instances") {
  CHECK(override_error("placement={mode: processes, workers: 1000}")
            .find("placement.workers is 1000") != std::string::npos);
  CHECK(override_error("placement.mode=processes").empty());
}

TEST_CASE("recipe: keys of later versions are refused as such") {
  CHECK(override_error("env.wrappers=x") ==
        "override 'env.wrappers=x': 'env.wrappers' is not available in this version");
  CHECK(override_error("device=cuda") ==
        "override 'device=cuda': 'device: cuda' is not available in this version");
}

TEST_CASE("recipe: a key that means nothing to the algorithm is refused, not ignored") {
  CHECK(override_error("reward.from=env") ==
        "override 'reward.from=env': 'reward' means nothing to trainer.algo: ppo with model.kind: "
        "mlp");
  CHECK(error_of("schema: 1\nenv: {id: x}\ndata: {from: f.jsonl}\n") ==
        "r.yaml:3:1: 'data' means nothing to trainer.algo: ppo with model.kind: mlp");
  CHECK(error_of("schema: 1\nenv: {id: x}\ntrainer: {algo: sft, gamma: 0.9}\n") ==
        "r.yaml:3:22: 'trainer.gamma' means nothing to trainer.algo: sft with model.kind: decoder");
  CHECK(error_of("schema: 1\nenv: {id: x, num: 3}\ntrainer: {algo: grpo, beta: 1}\n") ==
        "r.yaml:2:14: 'env.num' means nothing to trainer.algo: grpo with model.kind: decoder\n"
        "r.yaml:3:23: 'trainer.beta' means nothing to trainer.algo: grpo with model.kind: decoder");
}

TEST_CASE("recipe: language models have defaults of their own, and read back what they print") {
  const Recipe sft = load("schema: 1\nenv: {id: x}\ntrainer: {algo: sft}\n");
  CHECK(sft.run.model.kind == "decoder");
  CHECK(sft.run.eval.episodes == 512);
  const std::string text = sft.yaml();
  CHECK(text.find("gae_lambda") == std::string::npos);
  CHECK(text.find("num:") == std::string::npos);
  CHECK(text.find("micro_tokens: 4096") != std::string::npos);
  CHECK(load(text).yaml() == text);
}

TEST_CASE("recipe: sources are paths from the recipe's folder, or other recipes") {
  const std::vector<std::string> none;
  const Recipe recipe = load_recipe_text(
      "schema: 1\nenv: {id: x}\ntrainer: {algo: dpo}\ninit: {recipe: ../sft.yaml}\n"
      "data: {from: {recipe: grpo.yaml}}\n",
      "/a/b/r.yaml", none);
  CHECK(*recipe.run.init.recipe == "/a/sft.yaml");
  CHECK(recipe.run.data.from == Source{"/a/b/grpo.yaml", true});
  CHECK(load_recipe_text(recipe.yaml(), "/elsewhere.yaml", none).yaml() == recipe.yaml());
  const Recipe reward = load_recipe_text(
      "schema: 1\nenv: {id: x}\ntrainer: {algo: grpo}\nreward: {from: py:score.py:f}\n",
      "/a/b/r.yaml", none);
  CHECK(reward.run.reward.from == "py:/a/b/score.py:f");
  CHECK(error_of("schema: 1\nenv: {id: x}\ntrainer: {algo: dpo}\ndata: {from: [1]}\n")
            .find("must be a path or {recipe: FILE}") != std::string::npos);
  CHECK(error_of("schema: 1\nenv: {id: x}\ntrainer: {algo: dpo}\n"
                 "init: {from: a, recipe: b}\n")
            .find("exclude each other") != std::string::npos);
}

TEST_CASE("recipe: schema, required keys and exclusive keys") {
  CHECK(error_of("env: {id: x}\n") ==
        "r.yaml:1:1: 'schema' is missing: this version reads 'schema: 1'");
  CHECK(error_of("schema: 2\nenv: {id: x}\n") ==
        "r.yaml:1:9: 'schema' must be 1 for this version, got 2");
  CHECK(error_of("schema: 1\n").find("'env.id' is missing") != std::string::npos);
  CHECK(error_of("schema: 1\nenv:\n").find("'env.id' is missing") != std::string::npos);
  CHECK(error_of("schema: 1\nenv: {id: x}\nseed: 5\nseeds: 3\n").find("exclude each other") !=
        std::string::npos);
  // An override takes the place of the file's other key.
  CHECK(*load("schema: 1\nenv: {id: x}\nseed: 5\n", {"seeds=3"}).seeds == 3);
  const Recipe one = load("schema: 1\nenv: {id: x}\nseeds: 3\n", {"seed=5"});
  CHECK_FALSE(one.seeds);
  CHECK(one.run.seed == 5);
  CHECK(*load("schema: 1\nenv: {id: x}\nseeds: 3\n").seeds == 3);
}

TEST_CASE("recipe: broken YAML") {
  CHECK(error_of("schema: 1\nenv: {id: x}\nenv: {id: y}\n") ==
        "r.yaml:3:1: key 'env' is given twice, first at r.yaml:2:1");
  CHECK(error_of("schema: 1\nenv: {id: x\n").find("r.yaml:") == 0);
  CHECK(error_of("") == "r.yaml:1:1: a recipe is a mapping of keys to values");
  CHECK(error_of("- 1\n") == "r.yaml:1:1: a recipe is a mapping of keys to values");
  CHECK(error_of("a: &x 1\n") == "r.yaml:1:4: anchors are not allowed in recipes");
  CHECK(error_of("a: !!int 1\n").find("tag") != std::string::npos);
  CHECK(error_of("? [a]\n: 1\n") == "r.yaml:1:3: a key must be text");
  CHECK(error_of("schema: 1\n---\nschema: 1\n").find("one YAML document") != std::string::npos);
  CHECK(error_of("a: " + std::string(40, '[') + std::string(40, ']')).find("nested too deeply") !=
        std::string::npos);
  CHECK(error_of(std::string(2 << 20, ' ')).find("larger than 1 MiB") != std::string::npos);
  CHECK(override_error("novalue") == "override 'novalue': expected key=value, as trainer.lr=1e-3");
  CHECK(override_error("a..b=1").find("empty name") != std::string::npos);
  CHECK_THROWS_AS(load_recipe("does/not/exist.yaml", {}), IoError);
}

TEST_CASE("recipe: what may change when a run is resumed") {
  const Recipe before = load(kRecipe);
  const auto change = [&](std::vector<std::string> overrides) -> std::string {
    try {
      check_resumable(before, load(kRecipe, std::move(overrides)));
    } catch (const RecipeError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(change({}) == "");
  CHECK(change({"placement.threads=1", "eval.every=1000", "checkpoint.keep=5", "out=elsewhere",
                "metrics.jsonl=false", "trainer.total_steps=2_000_000"}) == "");
  CHECK(change({"trainer.lr=1e-5"}) ==
        "override 'trainer.lr=1e-5': 'trainer.lr' would make another run (3e-04 -> 1e-05); --fork "
        "out=NEW starts one from here");
  CHECK(change({"trainer.total_steps=10_000"}).find("may only grow") != std::string::npos);
  const Recipe scheduled = load(kRecipe, {"trainer.lr_schedule=linear"});
  CHECK_THROWS_WITH_AS(check_resumable(scheduled, load(kRecipe, {"trainer.lr_schedule=linear",
                                                                 "trainer.total_steps=2000000"})),
                       doctest::Contains("a schedule of the run depends on it"), RecipeError);
}

TEST_CASE("recipe: docs/recipes.md lists every key as it is") {
  const std::string page = read_text_file(BESSEMER_SOURCE "/docs/recipes.md");
  const std::string table = recipe_keys_markdown();
  CHECK_MESSAGE(page.find(table) != std::string::npos,
                "`bessemer run --keys` prints what docs/recipes.md should hold");
  CHECK(table.find("| `trainer.lr` | number | `3e-04` |") != std::string::npos);
  for (const RecipeKey& key : recipe_keys()) CHECK_MESSAGE(!key.doc.empty(), key.path);
}

TEST_CASE("recipe: mutated recipes give an error or a recipe, never a crash") {
  const Rng rng{11, Stream::user};
  constexpr std::string_view alphabet = "abz019 \t\n:{}[]-,#&*!|>'\"%@`?_.=~\\\x01\xff";
  int read = 0, refused = 0;
  for (uint64_t round = 0; round < 4000; ++round) {
    std::string text(kRecipe);
    const uint64_t edits = 1 + rng.at(round, 0).word[0] % 6;
    for (uint64_t e = 0; e < edits && !text.empty(); ++e) {
      const PhiloxBlock draw = rng.at(round, e + 1);
      const size_t at = draw.word[0] % text.size();
      const char c = alphabet[draw.word[1] % alphabet.size()];
      switch (draw.word[2] % 4) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        case 2:
          text.erase(at, 1 + draw.word[3] % 8);
          break;
        default:
          text.insert(at, text.substr(draw.word[3] % text.size(), 12));
          break;
      }
    }
    try {
      const Recipe r = load(text);
      CHECK(load(r.yaml()).yaml() == r.yaml());
      ++read;
    } catch (const RecipeError& error) {
      CHECK(std::string_view(error.what()).starts_with("r.yaml"));
      ++refused;
    }
  }
  CHECK(read > 100);
  CHECK(refused > 1000);
}
