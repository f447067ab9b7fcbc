// LunarLander: Gymnasium's starts and flights, determinism, threads, saving in mid-episode,
// landing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/base/thread_pool.h"
#include "envs/render/canvas.h"
#include "tests/envs/fixture.h"
#include "tests/envs/lander_heuristic.h"

using namespace bessemer;

namespace {

void check_row(std::span<const float> got, const std::vector<double>& wanted, double tolerance) {
  for (size_t i = 0; i < wanted.size(); ++i) CHECK(std::fabs(got[i] - wanted[i]) <= tolerance);
}

// A random but repeatable policy.
std::vector<int64_t> random_actions(int64_t step, int64_t rows) {
  std::vector<int64_t> actions(rows);
  for (int64_t i = 0; i < rows; ++i) {
    actions[i] = static_cast<int64_t>(philox(5, static_cast<uint64_t>(i), step).word[0] % 4);
  }
  return actions;
}

std::vector<float> everything(Stepped& env) {
  std::vector<float> all(env.obs);
  all.insert(all.end(), env.reward.begin(), env.reward.end());
  all.insert(all.end(), env.terminated.begin(), env.terminated.end());
  all.insert(all.end(), env.truncated.begin(), env.truncated.end());
  return all;
}

}  // namespace

TEST_CASE("LunarLander starts as Gymnasium 1.4 does and flies with it") {
  // Free flight: the two Box2D versions differ in the joints' solver only, so 40 steps stay close.
  Stepped env("LunarLander-v3", {.num_envs = 2});
  env.reset({0, 42});
  check_row(
      env.row(0),
      {0.00570611935, 1.39903367, 0.577965319, -0.528299689, -0.00660530385, -0.130917653, 0, 0},
      2e-4);
  check_row(
      env.row(1),
      {0.00229702005, 1.41813064, 0.232647106, 0.320466608, -0.00265488005, -0.052698046, 0, 0},
      2e-4);
  double total = 0;
  for (int t = 0; t < 40; ++t) {
    env.step<int64_t>({t % 4, t % 4});
    total += env.reward[0];
  }
  check_row(env.row(0),
            {0.243613049, 0.630718112, 0.676741123, -1.16844451, -0.227392524, -0.141428187, 0, 0},
            0.02);
  check_row(
      env.row(1),
      {0.0986984223, 1.4181366, 0.248592854, -0.321297646, -0.0416486301, -0.0390569754, 0, 0},
      0.02);
  CHECK(std::fabs(total + 10.11) < 3);
}

TEST_CASE("LunarLander's wind draws its phases after the start force") {
  Stepped env("LunarLander-v3", {.num_envs = 2, .options = {{"enable_wind", "true"}}});
  env.reset({0, 42});
  check_row(env.row(0),
            {0.0056315423, 1.39903378, 0.57094723, -0.528300047, -0.0070018922, -0.138770401, 0, 0},
            2e-4);
  for (int t = 0; t < 40; ++t) env.step<int64_t>({t % 4, t % 4});
  check_row(env.row(0),
            {0.18003884, 0.639090896, 0.404050738, -1.12713647, -0.442932814, -0.254462481, 0, 0},
            0.02);
  check_row(env.row(1),
            {0.0139142033, 1.4336884, -0.223720595, -0.286920995, 0.375643015, 0.250600874, 0, 0},
            0.02);
}

TEST_CASE("LunarLanderContinuous flies with Gymnasium 1.4") {
  Stepped env("LunarLanderContinuous-v3", {.num_envs = 1});
  env.reset({7});
  check_row(
      env.row(0),
      {-0.00391340256, 1.40899134, -0.39640519, -0.0857376009, 0.00454147765, 0.0897916108, 0, 0},
      2e-4);
  for (int t = 0; t < 40; ++t) {
    env.step<float>(
        {0.5f * static_cast<float>(t % 3) - 0.4f, 0.3f * static_cast<float>(t % 7) - 0.9f});
  }
  check_row(env.row(0),
            {-0.187680334, 1.20060802, -0.555268526, -0.352290183, 0.222637385, 0.128731698, 0, 0},
            0.02);
}

TEST_CASE("LunarLander: the heuristic lands, the fall crashes") {
  const int64_t n = 16;
  Stepped env("LunarLander-v3", {.num_envs = n, .autoreset = Autoreset::disabled});
  env.reset_all(1);
  std::vector<double> score(n, 0);
  std::vector<uint8_t> over(n, 0);
  std::vector<int64_t> actions(n);
  for (int t = 0; t < 1000 && !std::all_of(over.begin(), over.end(), [](uint8_t o) { return o; });
       ++t) {
    for (int64_t i = 0; i < n; ++i) actions[i] = lander_action(env.row(i));
    std::vector<uint8_t> restart = over;
    if (std::any_of(over.begin(), over.end(), [](uint8_t o) { return o; })) {
      env.reset({}, {}, restart);
    }
    env.step(actions);
    for (int64_t i = 0; i < n; ++i) {
      if (over[i]) continue;
      score[i] += env.reward[i];
      over[i] = env.terminated[i] || env.truncated[i];
      if (env.terminated[i]) CHECK(std::fabs(env.reward[i]) == 100);
    }
  }
  CHECK(std::count_if(score.begin(), score.end(), [](double s) { return s > 200; }) >= n * 3 / 4);

  Stepped fall("LunarLander-v3", {.num_envs = 1});
  fall.reset({3});
  int steps = 0;
  do {
    fall.step<int64_t>({0});
  } while (!fall.terminated[0] && ++steps < 1000);
  CHECK(fall.reward[0] == -100);
  CHECK(steps < 200);
}

TEST_CASE("LunarLander gives the same bits for any number of threads") {
  ThreadPool pool(3);
  const int64_t n = 24;
  Stepped one("LunarLander-v3", {.num_envs = n}),
      many("LunarLander-v3", {.num_envs = n, .pool = &pool});
  one.reset_all(9);
  many.reset_all(9);
  for (int t = 0; t < 300; ++t) {
    const auto actions = random_actions(t, n);
    one.step(actions);
    many.step(actions);
    REQUIRE(everything(one) == everything(many));
  }
}

TEST_CASE("LunarLander saved in the middle of an episode continues with equal bits") {
  for (const char* wind : {"false", "true"}) {
    const Options options{{"enable_wind", wind}, {"gravity", "-9.5"}};
    Stepped env("LunarLander-v3", {.num_envs = 4, .options = options});
    Stepped other("LunarLander-v3", {.num_envs = 4, .options = options});
    env.reset_all(31);
    other.reset_all(77);
    int64_t t = 0;
    for (; t < 137; ++t) env.step(random_actions(t, 4));  // some have ended, some begun again
    for (int i = 0; i < 4; ++i) other.batch->load(i, env.batch->save(i));
    other.batch->observe(other.out);
    CHECK(env.obs == other.obs);
    for (; t < 400; ++t) {
      env.step(random_actions(t, 4));
      other.step(random_actions(t, 4));
      REQUIRE(everything(env) == everything(other));
    }
  }
}

TEST_CASE("LunarLanderContinuous saves too, and one instance may be forked") {
  Stepped env("LunarLanderContinuous-v3", {.num_envs = 1});
  Stepped forks("LunarLanderContinuous-v3", {.num_envs = 2});
  env.reset({5});
  forks.reset_all(0);
  for (int t = 0; t < 60; ++t) env.step<float>({0.3f, t % 5 < 2 ? 0.8f : -0.7f});
  const std::string state = env.batch->save(0);
  forks.batch->load(0, state);
  forks.batch->load(1, state);
  env.step<float>({1, 0});
  forks.step<float>({1, 0, -1, 1});
  CHECK(std::equal(env.obs.begin(), env.obs.end(), forks.row(0).begin()));
  CHECK_FALSE(std::equal(env.obs.begin(), env.obs.end(), forks.row(1).begin()));
}

TEST_CASE("LunarLander refuses states of other options and damaged ones, and goes on") {
  Stepped env("LunarLander-v3", {.num_envs = 1}), twin("LunarLander-v3", {.num_envs = 1});
  Stepped mars("LunarLander-v3", {.num_envs = 1, .options = {{"gravity", "-3.7"}}});
  env.reset({1});
  twin.reset({1});
  mars.reset({1});
  for (int t = 0; t < 20; ++t) {
    env.step<int64_t>({2});
    twin.step<int64_t>({2});
  }
  CHECK_THROWS_AS(env.batch->load(0, mars.batch->save(0)), ValueError);
  std::string damaged = env.batch->save(0);
  damaged[damaged.size() / 2] ^= 1;
  CHECK_THROWS_AS(env.batch->load(0, damaged), ValueError);
  for (int t = 0; t < 50; ++t) {
    env.step<int64_t>({t % 4});
    twin.step<int64_t>({t % 4});
    REQUIRE(everything(env) == everything(twin));
  }
}

TEST_CASE("LunarLander's gravity lies between -12 and 0") {
  for (const char* bad : {"-12", "0", "-12.5", "1", "nan"}) {
    CHECK_THROWS_AS(make_batch("LunarLander-v3", {.options = {{"gravity", bad}}}), ValueError);
  }
  CHECK_NOTHROW(make_batch("LunarLander-v3", {.options = {{"gravity", "-11.99"}}}));
}

TEST_CASE("LunarLander's picture shows the lander where it is") {
  Stepped env("LunarLander-v3", {.num_envs = 1});
  env.reset({4});
  const auto purple = [&](Canvas& canvas) {  // centre of the hull's colour
    env.batch->render(0, canvas);
    double x = 0, y = 0, count = 0;
    for (int row = 0; row < canvas.height(); ++row) {
      for (int column = 0; column < canvas.width(); ++column) {
        const uint8_t* p =
            &canvas.pixels()[(static_cast<size_t>(row) * canvas.width() + column) * 3];
        if (p[0] == 128 && p[1] == 102 && p[2] == 230) x += column, y += row, ++count;
      }
    }
    REQUIRE(count > 20);
    return Point{x / count, y / count};
  };
  for (int t = 0; t < 45; ++t) env.step<int64_t>({0});
  Canvas canvas(600, 400), half(300, 200);
  const Point at = purple(canvas), small = purple(half);
  const double x = (env.obs[0] + 1) * 300, y = 400 - (env.obs[1] * 200 + 100 + 18);
  CHECK(std::hypot(at.x - x, at.y - y) < 14);
  CHECK(std::hypot(small.x * 2 - x, small.y * 2 - y) < 14);
}
