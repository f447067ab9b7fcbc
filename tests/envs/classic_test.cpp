// Starts as Gymnasium's documentation prints them, and what a step may cost.
#include <doctest/doctest.h>

#include <cstdlib>
#include <new>

#include "tests/envs/fixture.h"

using namespace bessemer;

namespace {
int64_t allocations = 0;
}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

TEST_CASE("starts are Gymnasium's, with reset options") {
  struct Start {
    const char* id;
    Options options;
    std::vector<float> obs;
  };
  const Start starts[] = {
      {"CartPole-v1",
       {{"low", "-0.1"}, {"high", "0.1"}},
       {0.03647037f, -0.0892358f, -0.05592803f, -0.06312564f}},
      {"Acrobot-v1",
       {{"low", "-0.2"}, {"high", "0.2"}},
       {0.997341f, 0.07287608f, 0.9841162f, -0.17752565f, -0.11185605f, -0.12625128f}},
      {"MountainCar-v0", {{"low", "-0.7"}, {"high", "0.5"}}, {0.11882224f, 0}},
      {"MountainCarContinuous-v0", {{"low", "-0.7"}, {"high", "-0.5"}}, {-0.5635296f, 0}},
      {"Pendulum-v1",
       {{"x_init", "1.5707963267948966"}, {"y_init", "0.5"}},
       {0.8403459f, 0.54205054f, -0.44617897f}}};
  for (const Start& start : starts) {
    CAPTURE(start.id);
    for (const Arithmetic arithmetic : {Arithmetic::lanes, Arithmetic::plain}) {
      Stepped env(start.id, {.num_envs = 1, .arithmetic = arithmetic});
      env.reset({123}, start.options);
      for (size_t i = 0; i < start.obs.size(); ++i) {
        CHECK(env.obs[i] == doctest::Approx(start.obs[i]).epsilon(1e-6));
      }
    }
  }
}

TEST_CASE("a step allocates nothing, resets included") {
  for (const Arithmetic arithmetic : {Arithmetic::lanes, Arithmetic::plain}) {
    Stepped env("CartPole-v1", {.num_envs = 8, .arithmetic = arithmetic});
    env.reset_all(1);
    const std::vector<int64_t> actions = {0, 1, 0, 1, 0, 1, 0, 1};
    const int64_t before = allocations;
    for (int t = 0; t < 500; ++t) env.step(actions);
    CHECK(allocations == before);
    CHECK(env.episode_length[0] > 0);  // episodes ended on the way
  }
}

TEST_CASE("the reward of Sutton and Barto") {
  Stepped env("CartPole-v1", {.num_envs = 1, .options = {{"sutton_barto_reward", "true"}}});
  env.reset({1});
  while (!env.terminated[0] || env.reward[0] == -7) {
    env.step<int64_t>({1});
    CHECK(env.reward[0] == (env.terminated[0] ? -1 : 0));
  }
  CHECK(env.episode_return[0] == -1);
}
