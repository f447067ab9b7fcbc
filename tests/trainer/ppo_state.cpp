// Reruns, threads and checkpoints: the same bits, or a refusal.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/io/safetensors.h"
#include "tests/rollout/toy.h"
#include "trainer/ppo.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

/// A folder that is gone with the test.
struct Scratch {
  fs::path path;
  Scratch() {
    char name[] = "/tmp/bessemer-ppo-XXXXXX";
    path = mkdtemp(name);
  }
  ~Scratch() { fs::remove_all(path); }
};

RunConfig small(const std::string& env) {
  RunConfig config;
  config.env.id = env;
  config.env.num = 4;
  config.rollout.steps = 64;
  config.trainer.batch_size = 64;
  config.trainer.epochs = 2;
  config.trainer.total_steps = 5'000;
  config.model.hidden = {16};
  return config;
}

std::string all_state(const Ppo& ppo) {
  const Scratch scratch;
  ppo.save(scratch.path);
  std::string out;
  for (const char* name : {"model.safetensors", "train.safetensors", "state.json"}) {
    std::ifstream file(scratch.path / name, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    out += text.str();
  }
  return out;
}

void replace(const fs::path& path, const std::string& from, const std::string& to) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  std::string content = text.str();
  const size_t at = content.find(from);
  REQUIRE(at != std::string::npos);
  content.replace(at, from.size(), to);
  std::ofstream(path, std::ios::binary) << content;
}

void check_resume(const RunConfig& config) {
  ThreadPool pool(1), two(2);
  Metrics metrics;
  Ppo whole(config, pool), first(config, pool);
  for (int i = 0; i < 7; ++i) whole.iterate(metrics);
  for (int i = 0; i < 3; ++i) first.iterate(metrics);
  const Scratch scratch;
  first.save(scratch.path);
  Ppo second(config, two);  // and on another number of threads
  second.load(scratch.path);
  CHECK(second.steps() == first.steps());
  CHECK(all_state(second) == all_state(first));
  for (int i = 0; i < 4; ++i) second.iterate(metrics);
  CHECK(all_state(second) == all_state(whole));
}

}  // namespace

TEST_CASE("a resumed run ends with the bits of an uninterrupted one") {
  SUBCASE("choices, schedules, normalisation") {
    RunConfig config = small("CartPole-v1");
    config.env.normalize_obs = config.env.normalize_reward = true;
    config.trainer.lr_schedule = config.trainer.clip_schedule = "linear";
    check_resume(config);
  }
  SUBCASE("continuous actions, state-dependent exploration") {
    RunConfig config = small("Pendulum-v1");
    config.model.sde = true;
    config.model.sde_sample_freq = 4;
    check_resume(config);
  }
  SUBCASE("continuous actions, Gaussian") { check_resume(small("Pendulum-v1")); }
  SUBCASE("recurrent") {
    RunConfig config = small("CartPole-v1");
    config.model.kind = "gru";
    config.model.recurrent_size = 8;
    config.rollout.steps = 20;
    check_resume(config);
  }
}

TEST_CASE("the seed decides every bit, evaluations and threads none") {
  ThreadPool one(1), three(3);
  RunConfig config = small("CartPole-v1");
  Metrics metrics;
  Ppo a(config, one), b(config, three);
  config.seed = 2;
  Ppo other(config, one);
  EvalResult from_one, from_three;
  for (int i = 0; i < 4; ++i) {
    a.iterate(metrics);
    from_three = b.evaluate(6, 3, i % 2 == 0);
    b.iterate(metrics);
    other.iterate(metrics);
  }
  CHECK(all_state(a) == all_state(b));
  CHECK(all_state(a) != all_state(other));
  for (bool deterministic : {true, false}) {
    from_one = a.evaluate(10, 3, deterministic);
    from_three = b.evaluate(10, 3, deterministic);
    CHECK(from_one.returns == from_three.returns);
    CHECK(from_one.lengths == from_three.lengths);
    // an episode does not depend on how many others there are
    const EvalResult fewer = a.evaluate(4, 5, deterministic);
    if (deterministic)
      for (int i = 0; i < 4; ++i) CHECK(fewer.returns[i] == from_one.returns[i + 2]);
  }
}

TEST_CASE("an actor takes the actions that an evaluation takes") {
  ThreadPool pool(1);
  Ppo ppo(small("CartPole-v1"), pool);
  Metrics metrics;
  for (int i = 0; i < 4; ++i) ppo.iterate(metrics);
  const EvalResult result = ppo.evaluate(1, 77, true);
  const std::unique_ptr<Actor> actor = ppo.actor(true, 0);
  const std::unique_ptr<EnvBatch> env = make_batch("CartPole-v1", {});
  float obs[4], reward;
  int64_t action;
  uint8_t terminated = 0, truncated = 0, start = 1;
  StepBuffers out;
  out.obs = {obs};
  out.reward = &reward;
  out.terminated = &terminated;
  out.truncated = &truncated;
  const uint64_t seed[] = {77};
  env->reset(seed, {}, {}, out);
  double total = 0;
  while (!terminated && !truncated) {
    actor->act(obs, &start, nullptr, 1, &action);
    start = 0;
    env->step({&action, nullptr}, out);
    total += reward;
  }
  CHECK(total == result.returns[0]);
}

TEST_CASE("weights and normalisers alone are enough to judge") {
  ThreadPool pool(1);
  RunConfig config = small("CartPole-v1");
  config.env.normalize_obs = true;
  Ppo trained(config, pool), loaded(config, pool);
  Metrics metrics;
  for (int i = 0; i < 4; ++i) trained.iterate(metrics);
  const Scratch scratch;
  trained.save(scratch.path);
  loaded.load_policy(scratch.path);
  CHECK(loaded.evaluate(5, 1, true).returns == trained.evaluate(5, 1, true).returns);
  CHECK(loaded.steps() == 0);
}

TEST_CASE("a checkpoint of another kind, a newer one and a damaged one are refused by name") {
  ThreadPool pool(1);
  Metrics metrics;
  Ppo ppo(small("CartPole-v1"), pool);
  ppo.iterate(metrics);
  const Scratch scratch;
  const fs::path state = scratch.path / "state.json";
  CHECK_THROWS_AS(ppo.load(scratch.path), IoError);
  ppo.save(scratch.path);
  SUBCASE("newer") {
    replace(state, "\"format\": 1", "\"format\": 2");
    CHECK_THROWS_WITH_AS(ppo.load(scratch.path), doctest::Contains("written by a newer Bessemer"),
                         ValueError);
  }
  SUBCASE("another environment") {
    Ppo pendulum(small("Pendulum-v1"), pool);
    CHECK_THROWS_WITH_AS(pendulum.load(scratch.path),
                         doctest::Contains("trained in CartPole-v1, not in Pendulum-v1"),
                         ValueError);
  }
  SUBCASE("another model") {
    RunConfig config = small("CartPole-v1");
    config.model.hidden = {8};
    Ppo narrow(config, pool);
    CHECK_THROWS_WITH_AS(narrow.load(scratch.path), doctest::Contains("policy.0.weight"),
                         ValueError);
  }
  SUBCASE("another number of environments") {
    RunConfig config = small("CartPole-v1");
    config.env.num = 8;
    Ppo more(config, pool);
    CHECK_THROWS_WITH_AS(more.load(scratch.path), doctest::Contains("4 environments"), ValueError);
  }
  SUBCASE("cut short") {
    fs::resize_file(scratch.path / "train.safetensors",
                    fs::file_size(scratch.path / "train.safetensors") / 2);
    CHECK_THROWS_WITH_AS(ppo.load(scratch.path), doctest::Contains("train.safetensors"),
                         ValueError);
  }
  SUBCASE("not JSON") {
    replace(state, "{", "?");
    CHECK_THROWS_WITH_AS(ppo.load(scratch.path), doctest::Contains("state.json"), ValueError);
  }
  SUBCASE("a member is missing") {
    replace(state, "\"steps\"", "\"stops\"");
    CHECK_THROWS_WITH_AS(ppo.load(scratch.path), doctest::Contains("'steps'"), ValueError);
  }
}

TEST_CASE("a checkpoint names its tensors by module path and says which are trained") {
  ThreadPool pool(1);
  const Ppo ppo(small("CartPole-v1"), pool);
  const Scratch scratch;
  ppo.save(scratch.path);
  const TensorFile model = load_safetensors((scratch.path / "model.safetensors").string());
  CHECK(shape_text(model.at("policy.0.weight").sizes()) == "(16, 4)");
  CHECK(model.tensors.contains("value_head.bias"));
  std::ostringstream text;
  text << std::ifstream(scratch.path / "state.json").rdbuf();
  for (const char* member : {"\"format\": 1", "\"recipe\"", "\"policy.0.weight\": true",
                             "\"action\": 0", "\"shuffle\": 0"})
    CHECK_MESSAGE(text.str().find(member) != std::string::npos, member);
}
