#include <doctest/doctest.h>

#include "core/base/error.h"
#include "tests/envs/fixture.h"

using namespace bessemer;

TEST_CASE("CartPole starts as Gymnasium does from seeds 123, 124, 125") {
  Stepped env("CartPole-v1", {.num_envs = 3});
  env.reset({123, 124, 125});
  const float expected[12] = {0.01823519f, -0.0446179f, -0.02796401f, -0.03156282f,
                              0.02852531f, 0.02858594f, 0.0469136f,   0.02480598f,
                              0.03517495f, -0.000635f,  -0.01098382f, -0.03203924f};
  for (int i = 0; i < 12; ++i) CHECK(env.obs[i] == doctest::Approx(expected[i]).epsilon(1e-6));
}

TEST_CASE("reset options move the start") {
  Stepped env("CartPole-v1", {.num_envs = 1});
  env.reset({123}, {{"low", "-0.1"}, {"high", "0.1"}});
  const float expected[4] = {0.03647037f, -0.0892358f, -0.05592803f, -0.06312564f};
  for (int i = 0; i < 4; ++i) CHECK(env.obs[i] == doctest::Approx(expected[i]).epsilon(1e-6));
  CHECK_THROWS_AS(env.reset({123}, {{"low", "1"}, {"high", "0"}}), ValueError);
  CHECK_THROWS_WITH_AS(env.reset({123}, {{"lwo", "1"}}),
                       "[env] CartPole-v1 reset has no option 'lwo', did you mean 'low'?",
                       ValueError);
}

TEST_CASE("the pole falls when it is always pushed one way") {
  Stepped env("CartPole-v1", {.num_envs = 2});
  env.reset_all(1);
  int steps = 0;
  do {
    env.step<int64_t>({1, 1});
    ++steps;
    CHECK(env.reward[0] == 1);
  } while (!env.terminated[0] && steps < 100);
  CHECK(steps > 5);
  CHECK(steps < 20);
  CHECK(env.truncated[0] == 0);
  CHECK(env.episode_length[0] == steps);
  CHECK(env.episode_return[0] == steps);
  CHECK(env.final_obs[2] == env.obs[2]);
}

TEST_CASE("an unknown environment or option names the nearest") {
  CHECK_THROWS_WITH_AS(make_batch("CartPole-v0", {}),
                       "[env] unknown environment 'CartPole-v0', did you mean 'CartPole-v1'?",
                       ValueError);
  CHECK_THROWS_WITH_AS(
      make_batch("CartPole-v1", {.options = {{"suton_barto_reward", "true"}}}),
      "[env] CartPole-v1 has no option 'suton_barto_reward', did you mean 'sutton_barto_reward'?",
      ValueError);
  CHECK_THROWS_WITH_AS(make_batch("CartPole-v1", {.options = {{"sutton_barto_reward", "maybe"}}}),
                       "[env] CartPole-v1: sutton_barto_reward is 'maybe', expected true or false",
                       ValueError);
}
