#include "rollout/normalizer.h"

#include <doctest/doctest.h>
#include <algorithm>
#include <cmath>

#include "core/base/rng.h"
#include "rollout/runner.h"

using namespace bessemer;

namespace {
std::vector<float> draws(int64_t n, float scale, float shift) {
  std::vector<float> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(shift + scale * uniform_float(Rng{5}.at(static_cast<uint64_t>(i)).word[0]));
  return out;
}
}  // namespace

TEST_CASE("moments merged batch by batch are those of all rows at once") {
  const int64_t columns = 3, rows = 500;
  const std::vector<float> x = draws(rows * columns, 4, -1);
  RunningMoments moments(columns);
  int64_t at = 0;
  for (int64_t n : {1, 99, 250, 150}) {
    moments.update(n, x.data() + at * columns);
    at += n;
  }
  for (int64_t c = 0; c < columns; ++c) {
    double mean = 0, variance = 0;
    for (int64_t r = 0; r < rows; ++r) mean += x[r * columns + c] / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r)
      variance += std::pow(x[r * columns + c] - mean, 2) / static_cast<double>(rows);
    // the prior weighs as 1e-4 of a row
    CHECK(moments.mean[c] == doctest::Approx(mean).epsilon(1e-5));
    CHECK(moments.variance[c] == doctest::Approx(variance).epsilon(1e-5));
  }
  CHECK(moments.count == doctest::Approx(500.0001));
}

TEST_CASE("observations are centred, scaled and clipped; statistics move only in update") {
  NormalizerOptions options;
  options.normalize_obs = true;
  options.clip_obs = 1.5;
  Normalizer normalizer(options, Dtype::f32, 2, 4);
  const std::vector<float> x = draws(4 * 100 * 2, 10, 3), zeros(400, 0);
  const std::vector<uint8_t> never(400, 0);
  std::vector<float> before(800), after(800);
  normalizer.inputs(400, x.data(), before.data());
  CHECK(before[0] == 1.5f);  // far above the prior's deviation of 1
  normalizer.update(100, x.data(), zeros.data(), never.data());
  normalizer.inputs(400, x.data(), after.data());
  double mean = 0, squares = 0;
  for (int64_t r = 0; r < 400; ++r) mean += after[r * 2] / 400.0;
  for (int64_t r = 0; r < 400; ++r) squares += after[r * 2] * after[r * 2] / 400.0;
  CHECK(std::fabs(mean) < 0.05);
  CHECK(squares > 0.8);
  CHECK(squares <= 1.05);
  CHECK(*std::max_element(after.begin(), after.end()) <= 1.5f);
}

TEST_CASE("rewards are divided by the deviation of the discounted return, the mean stays") {
  NormalizerOptions options;
  options.normalize_reward = true;
  options.gamma = 0.5;
  options.clip_reward = 3;
  Normalizer normalizer(options, Dtype::f32, 1, 1);
  CHECK(normalizer.reward(2) == doctest::Approx(2));
  // returns: 4, 4·0.5 + 2 = 4, end; 8, 8·0.5 = 4
  const std::vector<float> reward = {4, 2, 8, 0}, obs(4, 0);
  const std::vector<uint8_t> ended = {0, 1, 0, 0};
  normalizer.update(4, obs.data(), reward.data(), ended.data());
  const double deviation = std::sqrt((1 + 1 + 9 + 1) / 4.0);  // of 4, 4, 8, 4 about 5
  CHECK(normalizer.reward(2) == doctest::Approx(2 / deviation).epsilon(1e-3));
  CHECK(normalizer.reward(1000) == 3);
  CHECK(normalizer.reward(-1000) == -3);
  CHECK(normalizer.discounted_returns()[0] == doctest::Approx(4));
}

TEST_CASE("pixels are scaled to [0, 1] unless told otherwise") {
  const uint8_t pixels[] = {0, 51, 255};
  float out[3];
  Normalizer({}, Dtype::u8, 3, 1).inputs(1, pixels, out);
  CHECK(out[1] == doctest::Approx(0.2));
  CHECK(out[2] == doctest::Approx(1.0));
  NormalizerOptions raw;
  raw.scale_pixels = false;
  Normalizer(raw, Dtype::u8, 3, 1).inputs(1, pixels, out);
  CHECK(out[2] == 255);
  CHECK_THROWS_AS(Normalizer({}, Dtype::boolean, 3, 1), TypeError);
}

TEST_CASE("actions reach the environment clipped, offset and in its dtype") {
  Channel torque;
  torque.name = "action";
  torque.shape = {2};
  torque.low = {-1, -2};
  torque.high = {1, 2};
  const float chosen[] = {5, -0.5, -3, -3};
  float clipped[4];
  ActionWriter(torque, true).write(2, chosen, clipped);
  CHECK(clipped[0] == 1);
  CHECK(clipped[1] == -0.5f);
  CHECK(clipped[2] == -1);
  CHECK(clipped[3] == -2);
  ActionWriter(torque, false).write(2, chosen, clipped);
  CHECK(clipped[0] == 5);
  Channel choice;
  choice.kind = SpaceKind::discrete;
  choice.dtype = Dtype::i64;
  choice.n = {3};
  choice.start = -1;
  const float index[] = {2, 0};
  int64_t actions[2];
  ActionWriter(choice, true).write(2, index, actions);
  CHECK(actions[0] == 1);
  CHECK(actions[1] == -1);
}
