#include "trainer/gae.h"

#include <doctest/doctest.h>
#include <cmath>
#include <vector>

#include "core/base/rng.h"

using namespace bessemer;

namespace {

/// The definition, in double: A_t = sum over k of (gamma lambda)^k delta_{t+k} up to the episode's
/// end.
double reference(const GaeInputs& in, int64_t t, int64_t r) {
  double total = 0, weight = 1;
  for (int64_t k = t; k < in.steps; ++k) {
    const int64_t i = k * in.rows + r;
    const double next = k + 1 < in.steps ? in.value[i + in.rows] : in.last_value[r];
    total += weight * (in.reward[i] + (in.ended[i] ? 0 : in.gamma * next) - in.value[i]);
    if (in.ended[i]) break;
    weight *= in.gamma * in.lambda;
  }
  return total;
}

}  // namespace

TEST_CASE("advantages are the discounted sum of errors up to the end of the episode") {
  const Rng rng{12};
  for (int64_t steps : {1, 2, 33}) {
    for (double lambda : {0.0, 0.8, 1.0}) {
      const int64_t rows = 5, n = steps * rows;
      std::vector<float> reward, value, last;
      std::vector<uint8_t> ended;
      for (int64_t i = 0; i < n; ++i) {
        const PhiloxBlock block = rng.at(static_cast<uint64_t>(i));
        reward.push_back(uniform_float(block.word[0]) * 2 - 1);
        value.push_back(uniform_float(block.word[1]) * 4 - 2);
        ended.push_back(block.word[2] % 7 == 0);
        if (i < rows) last.push_back(uniform_float(block.word[3]));
      }
      const GaeInputs in{steps,        rows,        reward.data(), value.data(),
                         ended.data(), last.data(), 0.97,          lambda};
      std::vector<float> advantage(n), returns(n);
      gae(in, advantage.data(), returns.data());
      for (int64_t t = 0; t < steps; ++t) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t i = t * rows + r;
          CHECK(std::fabs(advantage[i] - reference(in, t, r)) < 1e-5);
          CHECK(returns[i] == advantage[i] + value[i]);
        }
      }
    }
  }
}
