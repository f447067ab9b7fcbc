#include "trainer/vtrace.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "trainer/gae.h"

using namespace bessemer;

namespace {

struct Data {
  int64_t steps, rows;
  std::vector<float> log_prob, old_log_prob, reward, value, last_value;
  std::vector<uint8_t> ended;
  VtraceInputs inputs() const {
    VtraceInputs in;
    in.steps = steps;
    in.rows = rows;
    in.log_prob = log_prob.data();
    in.old_log_prob = old_log_prob.data();
    in.reward = reward.data();
    in.value = value.data();
    in.ended = ended.data();
    in.last_value = last_value.data();
    in.gamma = 0.97;
    return in;
  }
};

/// `drift` is how far the two policies' log-probabilities lie apart.
Data draw(int64_t steps, int64_t rows, float drift) {
  Data data{steps, rows, {}, {}, {}, {}, {}, {}};
  const Rng rng{31};
  for (int64_t i = 0; i < steps * rows; ++i) {
    const PhiloxBlock a = rng.at(static_cast<uint64_t>(i), 0),
                      b = rng.at(static_cast<uint64_t>(i), 1);
    data.old_log_prob.push_back(-2 * uniform_float(a.word[0]) - 0.1f);
    data.log_prob.push_back(data.old_log_prob.back() + drift * (2 * uniform_float(a.word[1]) - 1));
    data.reward.push_back(uniform_float(a.word[2]) * 2 - 1);
    data.value.push_back(uniform_float(a.word[3]) * 4 - 2);
    data.ended.push_back(b.word[0] % 7 == 0);
    if (i < rows) data.last_value.push_back(uniform_float(b.word[1]));
  }
  return data;
}

/// Equation 1 of the paper as it stands there, in double: v_s = V(x_s) + the sum over t >= s of
/// gamma^(t-s) (product of c_i, i from s to t-1) delta_t, up to the episode's end; lambda
/// multiplies each c_i.
double target(const VtraceInputs& in, int64_t s, int64_t r) {
  double total = in.value[s * in.rows + r], weight = 1;
  for (int64_t t = s; t < in.steps; ++t) {
    const int64_t i = t * in.rows + r;
    const double ratio = std::exp(static_cast<double>(in.log_prob[i]) - in.old_log_prob[i]);
    const double next = t + 1 < in.steps ? in.value[i + in.rows] : in.last_value[r];
    const double delta = in.reward[i] + (in.ended[i] ? 0 : in.gamma * next) - in.value[i];
    total += weight * std::min(in.rho, ratio) * delta;
    if (in.ended[i]) break;
    weight *= in.gamma * in.lambda * std::min(in.c, ratio);
  }
  return total;
}

/// r_s + gamma v_{s+1} - V(x_s) of section 4.2; below lambda 1 the next target is mixed with the
/// next value.
double advantage(const VtraceInputs& in, int64_t s, int64_t r) {
  const int64_t i = s * in.rows + r;
  double next = 0;
  if (!in.ended[i]) {
    next = s + 1 < in.steps
               ? in.lambda * target(in, s + 1, r) + (1 - in.lambda) * in.value[i + in.rows]
               : in.last_value[r];
  }
  return in.reward[i] + in.gamma * next - in.value[i];
}

}  // namespace

TEST_CASE("targets and advantages are the paper's sums, in float64") {
  for (int64_t steps : {1, 2, 33}) {
    const Data data = draw(steps, 5, 1.5f);
    for (double lambda : {0.0, 0.9, 1.0}) {
      for (double bound : {0.5, 1.0, 2.0, 1e9}) {
        VtraceInputs in = data.inputs();
        in.lambda = lambda;
        in.rho = bound;
        in.c = 0.8 * bound;
        Vtrace out;
        vtrace(in, out);
        for (int64_t t = 0; t < steps; ++t) {
          for (int64_t r = 0; r < 5; ++r) {
            const int64_t i = t * 5 + r;
            const double v = target(in, t, r), a = advantage(in, t, r);
            CHECK(std::fabs(out.target[i] - v) < 1e-5 * (1 + std::fabs(v)));
            CHECK(std::fabs(out.advantage[i] - a) < 1e-5 * (1 + std::fabs(a)));
            CHECK(out.weight[i] == std::min(static_cast<float>(bound), out.ratio[i]));
          }
        }
      }
    }
  }
}

TEST_CASE("one row by hand") {
  // gamma 0.5, rho 1, c 1, ratios 0.5, 2 and 1, values 1 2 4, last value 8, rewards 1 0 2:
  // delta = 1, 0, 2;  e = 2, 1, 0.5 * 1 + 0.5 * 0.5 * 1;  A = delta + 0.5 e'
  Data data{3, 1, {}, {}, {1, 0, 2}, {1, 2, 4}, {8}, {0, 0, 0}};
  data.log_prob = {std::log(0.5f), std::log(2.0f), 0};
  data.old_log_prob = {0, 0, 0};
  VtraceInputs in = data.inputs();
  in.gamma = 0.5;
  Vtrace out;
  vtrace(in, out);
  const std::vector<float> targets = {1.75f, 3, 6}, advantages = {1.5f, 1, 2};
  for (size_t i = 0; i < 3; ++i) {
    CHECK(out.target[i] == doctest::Approx(targets[i]));
    CHECK(out.advantage[i] == doctest::Approx(advantages[i]));
  }
}

TEST_CASE("on the policy's own experience it is generalised advantage estimation, to the bit") {
  const Data data = draw(64, 6, 0);
  for (double lambda : {0.0, 0.95, 1.0}) {
    VtraceInputs in = data.inputs();
    in.lambda = lambda;
    in.rho = 1;
    in.c = 3;  // c = min(3, 1)
    Vtrace out;
    vtrace(in, out);
    std::vector<float> advantages(64 * 6), returns(64 * 6);
    gae({64, 6, in.reward, in.value, in.ended, in.last_value, in.gamma, lambda}, advantages.data(),
        returns.data());
    CHECK(out.advantage == advantages);
    CHECK(out.target == returns);
  }
}

TEST_CASE("on its own experience with lambda 1 the targets are n-step returns") {
  const Data data = draw(20, 3, 0);
  const VtraceInputs in = data.inputs();
  Vtrace out;
  vtrace(in, out);
  for (int64_t r = 0; r < 3; ++r) {
    double ret = data.last_value[r];
    for (int64_t t = 19; t >= 0; --t) {
      const int64_t i = t * 3 + r;
      ret = data.reward[i] + (data.ended[i] ? 0 : in.gamma * ret);
      CHECK(out.target[i] == doctest::Approx(ret).epsilon(1e-5));
    }
  }
}

TEST_CASE("weights are cut at their bounds: beyond them the ratio does not matter") {
  Data data = draw(16, 4, 0);
  for (float& x : data.log_prob) x += 0.7f;  // every ratio is about 2
  Vtrace near, far;
  vtrace(data.inputs(), near);
  for (float& x : data.log_prob) x += 2;
  vtrace(data.inputs(), far);
  CHECK(near.target == far.target);
  CHECK(near.advantage == far.advantage);
  CHECK(near.weight == std::vector<float>(64, 1.0f));
  CHECK(near.ratio != far.ratio);
  // an action that the policy would never take teaches nothing about its value
  for (float& x : data.log_prob) x = -std::numeric_limits<float>::infinity();
  vtrace(data.inputs(), far);
  CHECK(far.target == data.value);
  CHECK(far.weight == std::vector<float>(64, 0.0f));
}

TEST_CASE("nothing crosses the end of an episode") {
  Data data = draw(12, 2, 1);
  std::fill(data.ended.begin(), data.ended.end(), uint8_t{0});
  data.ended[5 * 2] = data.ended[5 * 2 + 1] = 1;
  Vtrace before, after;
  vtrace(data.inputs(), before);
  for (size_t i = 6 * 2; i < 12 * 2; ++i) data.reward[i] += 100;
  for (size_t i = 6 * 2; i < 12 * 2; ++i) data.value[i] -= 50;
  vtrace(data.inputs(), after);
  for (size_t i = 0; i < 12; ++i) {
    CHECK(before.target[i] == after.target[i]);
    CHECK(before.advantage[i] == after.advantage[i]);
  }
  CHECK(before.target[12] != after.target[12]);
}

TEST_CASE("an episode cut by a time limit is bootstrapped as one that goes on") {
  // The same eight steps twice: going on with V = 3, and cut with gamma * 3 added to the reward.
  Data on = draw(8, 1, 1);
  std::fill(on.ended.begin(), on.ended.end(), uint8_t{0});
  on.last_value = {3};
  Data cut = on;
  cut.ended[7] = 1;
  cut.reward[7] += static_cast<float>(0.97 * 3);
  cut.last_value = {-40};  // of the next episode
  Vtrace a, b;
  vtrace(on.inputs(), a);
  vtrace(cut.inputs(), b);
  for (size_t i = 0; i < 8; ++i) {
    CHECK(a.target[i] == doctest::Approx(b.target[i]).epsilon(1e-5));
    CHECK(a.advantage[i] == doctest::Approx(b.advantage[i]).epsilon(1e-5));
  }
}

TEST_CASE("a step without outcome is judged by its value") {
  Data data = draw(6, 1, 1);
  std::fill(data.ended.begin(), data.ended.end(), uint8_t{0});
  data.ended[3] = 1;
  const std::vector<uint8_t> fault = {0, 0, 0, 1, 0, 0};
  VtraceInputs in = data.inputs();
  in.fault = fault.data();
  Vtrace out;
  vtrace(in, out);
  CHECK(out.advantage[3] == 0);
  CHECK(out.target[3] == data.value[3]);
  const double want = data.reward[2] + in.gamma * data.value[3] - data.value[2];
  CHECK(out.advantage[2] == doctest::Approx(want).epsilon(1e-5));
}

TEST_CASE("bounds that would forbid learning are refused") {
  const Data data = draw(2, 1, 1);
  VtraceInputs in = data.inputs();
  in.rho = 0;
  Vtrace out;
  CHECK_THROWS_WITH_AS(vtrace(in, out), "[vtrace] bounds of weights are above 0, got 0 and 1",
                       ValueError);
}
