// What PPO must be able to learn, and what it must refuse.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/rollout/toy.h"
#include "trainer/ppo.h"

using namespace bessemer;

namespace {

RunConfig toy_config(int64_t num, int64_t steps, int64_t batch) {
  RunConfig config;
  config.env.num = num;
  config.rollout.steps = steps;
  config.trainer.batch_size = batch;
  config.trainer.epochs = 8;
  config.trainer.lr = 3e-3;
  config.trainer.gamma = 0.9;
  config.trainer.total_steps = 1 << 20;
  config.model.hidden = {32};
  return config;
}

double mean_return(Ppo& ppo, int64_t episodes = 64) {
  const EvalResult result = ppo.evaluate(episodes, 500, true);
  double mean = 0;
  for (double r : result.returns) mean += r / static_cast<double>(episodes);
  return mean;
}

std::vector<float> weights(const Ppo& ppo) {
  std::vector<float> out;
  for (auto& [name, tensor] : ppo.policy().named_parameters())
    out.insert(out.end(), tensor.values<float>().begin(), tensor.values<float>().end());
  return out;
}

/// Three components of which the mask always forbids one choice; the right one is the cue's.
test::Toy masked_toy() {
  test::Toy toy;
  toy.spec.id = "Masked";
  toy.spec.observation = {test::box("obs", {2})};
  toy.spec.action = {test::choices({3, 2})};
  toy.spec.action_mask = true;
  toy.length = 4;
  toy.observe = [](uint32_t cue, int64_t t, void* obs) {
    static_cast<float*>(obs)[0] = (cue >> t) & 1 ? 1.0f : -1.0f;
    static_cast<float*>(obs)[1] = (cue >> (t + 8)) & 1 ? 1.0f : -1.0f;
  };
  toy.mask = [](uint32_t cue, int64_t t, uint8_t* mask) {
    std::fill(mask, mask + 5, uint8_t{1});
    mask[((cue >> t) & 1) ? 0 : 2] = 0;
  };
  toy.reward = [](uint32_t cue, int64_t t, const void* action) {
    const auto* a = static_cast<const int64_t*>(action);
    const int64_t forbidden = (cue >> t) & 1 ? 0 : 2;
    BESSEMER_CHECK(a[0] != forbidden, ValueError, "[masked] a forbidden choice");
    // the best of the two that are left: 2 or 0, not the middle
    return (a[0] != 1 ? 0.5f : 0.0f) + (a[1] == ((cue >> (t + 8)) & 1) ? 0.5f : 0.0f);
  };
  return toy;
}

/// The cue is shown at the first step only and asked for at the last.
test::Toy memory_toy() {
  test::Toy toy = test::clock_toy(4, false);
  toy.spec.id = "Memory";
  toy.observe = [](uint32_t cue, int64_t t, void* obs) {
    static_cast<float*>(obs)[0] = t > 0 ? 0.0f : cue & 1 ? 1.0f : -1.0f;
    static_cast<float*>(obs)[1] = t == 3 ? 1.0f : 0.0f;
  };
  toy.reward = [](uint32_t cue, int64_t t, const void* action) {
    return t == 3 && *static_cast<const int64_t*>(action) == (cue & 1) ? 1.0f : 0.0f;
  };
  return toy;
}

}  // namespace

TEST_CASE("CartPole is learned in 30,000 steps") {
  ThreadPool pool(1);
  RunConfig config;
  config.env.id = "CartPole-v1";
  config.rollout.steps = 32;
  config.trainer.epochs = 20;
  config.trainer.gamma = 0.98;
  config.trainer.gae_lambda = 0.8;
  config.trainer.lr = 1e-3;
  config.trainer.total_steps = 30'000;
  Ppo ppo(config, pool);
  CHECK(mean_return(ppo, 20) < 200);
  Metrics metrics;
  while (ppo.steps() < config.trainer.total_steps) ppo.iterate(metrics);
  CHECK(mean_return(ppo, 20) > 400);
  for (const char* name :
       {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/iterations",
        "time/total_timesteps", "train/approx_kl", "train/clip_fraction", "train/clip_range",
        "train/entropy_loss", "train/explained_variance", "train/learning_rate", "train/loss",
        "train/n_updates", "train/policy_gradient_loss", "train/value_loss"})
    CHECK_MESSAGE(metrics.has(name), name);
  CHECK(metrics.get("train/n_updates") == static_cast<double>(ppo.updates()));
  CHECK(ppo.updates() == 20 * ppo.steps() / 256);
}

TEST_CASE("the first update sees the policy that acted: ratio 1 and KL 0, exactly") {
  ThreadPool pool(1);
  for (const char* kind : {"mlp", "gru"}) {
    RunConfig config = toy_config(8, 16, 128);
    config.trainer.epochs = 1;
    config.model.kind = kind;
    config.env.normalize_obs = true;
    Ppo ppo(config, pool, test::factory(test::clock_toy(5, true)));
    for (int i = 0; i < 3; ++i) {
      Metrics metrics;
      ppo.iterate(metrics);
      CHECK(metrics.get("train/approx_kl") == 0);
      CHECK(metrics.get("train/clip_fraction") == 0);
    }
  }
}

TEST_CASE("several masked choices at once") {
  ThreadPool pool(1);
  Ppo ppo(toy_config(16, 32, 128), pool, test::factory(masked_toy()));
  Metrics metrics;
  for (int i = 0; i < 20; ++i) ppo.iterate(metrics);
  CHECK(mean_return(ppo) > 3.8);  // of 4; a forbidden choice throws
}

TEST_CASE("a recurrent policy remembers, a feed-forward one cannot") {
  ThreadPool pool(1);
  double reached[2];
  for (bool recurrent : {false, true}) {
    RunConfig config = toy_config(32, 16, 256);
    config.model.kind = recurrent ? "gru" : "mlp";
    config.model.recurrent_size = 16;
    config.model.separate = false;
    Ppo ppo(config, pool, test::factory(memory_toy()));
    Metrics metrics;
    for (int i = 0; i < 40; ++i) ppo.iterate(metrics);
    reached[recurrent] = mean_return(ppo, 128);
  }
  CHECK(reached[0] < 0.7);
  CHECK(reached[1] > 0.95);
}

TEST_CASE("a convolutional policy reads images") {
  ThreadPool pool(1);
  test::Toy toy;
  toy.spec.id = "Image";
  toy.spec.observation = {test::box("obs", {1, 36, 36}, Dtype::u8)};
  toy.spec.action = {test::choices({2})};
  toy.length = 1;
  toy.observe = [](uint32_t cue, int64_t, void* obs) {
    auto* pixels = static_cast<uint8_t*>(obs);
    for (int64_t i = 0; i < 36 * 36; ++i) pixels[i] = (i % 36 < 18) == (cue & 1) ? 255 : 0;
  };
  toy.reward = [](uint32_t cue, int64_t, const void* action) {
    return *static_cast<const int64_t*>(action) == (cue & 1) ? 1.0f : 0.0f;
  };
  RunConfig config = toy_config(8, 8, 32);
  config.model.kind = "cnn";
  config.model.separate = false;
  config.model.activation = "relu";
  config.trainer.epochs = 4;
  config.trainer.lr = 1e-3;
  Ppo ppo(config, pool, test::factory(toy));
  Metrics metrics;
  for (int i = 0; i < 12; ++i) ppo.iterate(metrics);
  CHECK(mean_return(ppo, 32) > 0.95);
}

TEST_CASE("continuous actions: Gaussian and state-dependent exploration find a target") {
  ThreadPool pool(1);
  test::Toy toy = test::clock_toy(4, true);
  toy.spec.id = "Target";
  toy.spec.action = {test::box("action", {2})};
  toy.reward = [](uint32_t cue, int64_t, const void* action) {
    const auto* a = static_cast<const float*>(action);
    const float target = cue & 1 ? 0.6f : -0.4f;
    return 1 - std::fabs(a[0] - target) - std::fabs(a[1] + target);
  };
  for (bool sde : {false, true}) {
    RunConfig config = toy_config(16, 32, 128);
    config.model.sde = sde;
    config.model.log_std_init = sde ? -1.5 : -0.5;
    config.model.sde_sample_freq = 4;
    Ppo ppo(config, pool, test::factory(toy));
    Metrics metrics;
    for (int i = 0; i < 60; ++i) ppo.iterate(metrics);
    CHECK(mean_return(ppo) > 3.2);  // of 4
    CHECK(metrics.has("train/std"));
  }
}

TEST_CASE("target_kl ends the updates of an iteration early") {
  ThreadPool pool(1);
  RunConfig config = toy_config(8, 16, 32);
  config.trainer.target_kl = 1e-4;
  config.trainer.lr = 1e-2;
  Ppo ppo(config, pool, test::factory(masked_toy()));
  Metrics metrics;
  ppo.iterate(metrics);
  CHECK(ppo.updates() >= 1);
  CHECK(ppo.updates() < 32);
  CHECK(metrics.get("train/approx_kl") > 0);
}

TEST_CASE("schedules fall to 0 with the steps of the run") {
  ThreadPool pool(1);
  RunConfig config = toy_config(8, 16, 32);
  config.trainer.total_steps = 4 * 8 * 16;
  config.trainer.lr_schedule = config.trainer.clip_schedule = "linear";
  Ppo ppo(config, pool, test::factory(masked_toy()));
  for (int i = 0; i < 4; ++i) {
    Metrics metrics;
    ppo.iterate(metrics);
    CHECK(metrics.get("train/learning_rate") == doctest::Approx(3e-3 * (1 - i / 4.0)));
    CHECK(metrics.get("train/clip_range") == doctest::Approx(0.2 * (1 - i / 4.0)));
  }
}

TEST_CASE("samples of a failed environment are left out and counted") {
  ThreadPool pool(1);
  test::Toy toy = test::clock_toy(5, false);
  toy.fault_at = 3;
  for (const char* kind : {"mlp", "gru"}) {
    RunConfig config = toy_config(2, 16, 16);
    config.model.kind = kind;
    Ppo ppo(config, pool, test::factory(toy));
    Metrics metrics;
    ppo.iterate(metrics);
    CHECK(metrics.get("rollout/faults") == 1);
    // 31 of 32 samples make two minibatches; of two sequences one is left
    CHECK(ppo.updates() == (std::string(kind) == "gru" ? 8 : 16));
  }
}

TEST_CASE("numbers that are not finite stop the run, named, with the last good weights") {
  ThreadPool pool(1);
  SUBCASE("a reward") {
    int64_t calls = 0;
    test::Toy toy = test::clock_toy(5, false);
    toy.reward = [&calls](uint32_t, int64_t, const void*) {
      return ++calls > 300 ? std::numeric_limits<float>::quiet_NaN() : 1.0f;
    };
    Ppo ppo(toy_config(8, 16, 64), pool, test::factory(toy));
    Metrics metrics;
    ppo.iterate(metrics);
    ppo.iterate(metrics);
    CHECK_THROWS_WITH_AS(ppo.iterate(metrics), doctest::Contains("the environment's reward"),
                         NotFiniteError);
    for (float x : weights(ppo)) REQUIRE(std::isfinite(x));
  }
  SUBCASE("a diverging learning rate") {
    RunConfig config = toy_config(8, 16, 64);
    config.trainer.lr = 1e30;
    Ppo ppo(config, pool, test::factory(test::clock_toy(5, false)));
    const std::vector<float> before = weights(ppo);
    Metrics metrics;
    std::string what;
    try {
      for (int i = 0; i < 5; ++i) ppo.iterate(metrics);
    } catch (const NotFiniteError& error) {
      what = error.what();
    }
    CHECK(what.find("is not finite") != std::string::npos);
    CHECK(what.find("last good iteration") != std::string::npos);
    CHECK(weights(ppo) == before);
    CHECK(ppo.updates() == 0);
  }
}

TEST_CASE("environments that PPO cannot learn in are refused") {
  ThreadPool pool(1);
  test::Toy two = test::clock_toy(5, false);
  two.spec.observation.push_back(test::box("goal", {2}));
  CHECK_THROWS_WITH_AS(Ppo(toy_config(2, 16, 16), pool, test::factory(two)),
                       "ppo reads one observation channel; Clock has 2", ValueError);
  test::Toy crowd = test::clock_toy(5, false);
  crowd.spec.rows = 2;
  CHECK_THROWS_AS(Ppo(toy_config(2, 16, 16), pool, test::factory(crowd)), ValueError);
  RunConfig config;
  config.trainer.algo = "poo";
  config.env.id = "CartPole-v1";
  CHECK_THROWS_WITH_AS(make_algorithm(config, pool), "unknown algorithm 'poo', did you mean 'ppo'?",
                       ValueError);
}
