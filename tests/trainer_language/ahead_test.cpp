// Rounds that are generated ahead of the training: what checkpoints keep of them, and what becomes
// of them after errors.
#include <doctest/doctest.h>

#include <functional>

#include "core/io/safetensors.h"
#include "tests/forge/scratch.h"
#include "tests/trainer_language/make.h"
#include "trainer/state_json.h"

using namespace bessemer;

namespace {

RunConfig one_ahead() {
  RunConfig config = toy_config("grpo");
  config.placement.max_staleness = 1;
  return config;
}

int64_t items_of(const LanguageTrainer& trainer) {
  const Scratch scratch;
  trainer.save(scratch.path);
  const auto path = scratch / "state.json";
  const auto counters =
      state_member<nlohmann::ordered_json>(read_state_json(path), path, "counters");
  return state_member<int64_t>(counters, path, "items");
}

}  // namespace

TEST_CASE("a run with rounds ahead goes on with the bits of one that never stopped") {
  const Scratch scratch;
  const auto whole = make_toy(one_ahead()), half = make_toy(one_ahead()),
             rest = make_toy(one_ahead());
  run_toy(*whole, 4);
  run_toy(*half, 2);
  half->save(scratch.path);
  rest->load(scratch.path);
  run_toy(*rest, 2);
  const bool same = weights_of(*rest) == weights_of(*whole);
  CHECK(same);
}

TEST_CASE("after an error the items of rounds ahead are asked again, those of a checkpoint too") {
  const RunConfig config = one_ahead();
  const int64_t groups = config.rollout.language.groups;
  const Scratch scratch;
  const auto half = make_toy(config);
  run_toy(*half, 2);
  half->save(scratch.path);
  CHECK(items_of(*half) == 3 * groups);  // two rounds learned from, one kept
  bool gone = false;
  const EnvFactory envs = [&](const BatchOptions& options) {
    if (gone) fail<IoError>("the server is gone");
    return low_bytes()(options);
  };
  Grpo rest(config, toy_pool(), envs);
  rest.load(scratch.path);
  gone = true;
  CHECK_THROWS_AS(run_toy(rest, 1), IoError);
  CHECK(items_of(rest) == 2 * groups);  // the kept round was forgotten: its items come again
  gone = false;
  run_toy(rest, 1);
  CHECK(items_of(rest) == 4 * groups);
}

TEST_CASE("rounds of a checkpoint that do not fit the run are refused") {
  const Scratch scratch;
  const auto trainer = make_toy(one_ahead());
  run_toy(*trainer, 1);
  trainer->save(scratch.path);
  const std::string path = scratch / "train.safetensors";
  const auto refused = [&](const char* column, const std::function<void(Tensor&)>& damage) {
    CAPTURE(column);
    const TensorFile good = load_safetensors(path);
    nn::NamedTensors tensors;
    for (const auto& [name, tensor] : good.tensors) {
      Tensor copy = Tensor::empty(tensor.sizes(), tensor.dtype());
      assign(copy, tensor);
      if (name == cat("ahead.0.", column)) damage(copy);
      tensors.emplace_back(name, copy);
    }
    save_safetensors(path, tensors);
    CHECK_THROWS_AS(trainer->load(scratch.path), ValueError);
    nn::NamedTensors again;
    for (const auto& [name, tensor] : good.tensors) again.emplace_back(name, tensor);
    save_safetensors(path, again);
  };
  refused("turn_end", [](Tensor& t) { t.data<int64_t>()[0] = 1 << 20; });
  refused("trained", [](Tensor& t) { t.data<uint8_t>()[0] = 1; });
  refused("tokens", [](Tensor& t) { t.data<int32_t>()[2] = 1 << 20; });
  refused("tokens", [](Tensor& t) { t.data<int32_t>()[2] = -1; });
  refused("tokens", [](Tensor& t) { t.data<int32_t>()[1] ^= 1; });  // of one prompt of a group
  refused("rewards", [](Tensor& t) { t = Tensor::zeros({3 * t.numel()}); });
  trainer->load(scratch.path);
  run_toy(*trainer, 2);
}
