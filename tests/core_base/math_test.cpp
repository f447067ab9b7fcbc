#include "core/base/math.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/base/rng.h"

using namespace bessemer;
using math::Lane;

namespace {
/// |value - exact| in units of the last place of the exact value.
double ulps(double value, long double exact) {
  const double near = std::fabs(static_cast<double>(exact));
  const double place = std::nextafter(near, 1e300) - near;
  return static_cast<double>(std::fabs((static_cast<long double>(value) - exact) / place));
}
double uniform(uint64_t i, double low, double high) {
  const PhiloxBlock block = Rng{5}.at(i);
  return low + (high - low) * uniform_double(block.word[0], block.word[1]);
}
}  // namespace

TEST_CASE("sine and cosine of a Lane are within 2 ulp, of small angles within 0.6") {
  for (const auto& [range, bound] : {std::pair{0.3, 0.6}, {4.0, 2.0}, {100.0, 2.0}}) {
    double worst = 0;
    for (uint64_t i = 0; i < 100'000; ++i) {
      const double x = uniform(i, -range, range);
      Lane sine, cosine;
      math::sin_cos(x, sine, cosine);
      worst = std::max({worst, ulps(sine.v, std::sin(static_cast<long double>(x))),
                        ulps(cosine.v, std::cos(static_cast<long double>(x)))});
    }
    CAPTURE(range);
    CHECK(worst < bound);
  }
  CHECK(math::sin(Lane(0.0)).v == 0);
  CHECK(math::cos(Lane(0.0)).v == 1);
}

TEST_CASE("wrapping and remainders agree between the scalar types") {
  for (uint64_t i = 0; i < 20'000; ++i) {
    const double x = uniform(i, -40, 40);
    const double plain = math::wrapped(x, -math::kPi, math::kPi);
    const double lane = math::wrapped(Lane(x), Lane(-math::kPi), Lane(math::kPi)).v;
    CHECK(lane == doctest::Approx(plain).epsilon(1e-12));
    CHECK(std::fabs(lane) <= math::kPi);
    const double rest = math::floor_mod(x, 2.5);
    CHECK(rest >= 0);
    CHECK(rest < 2.5);
    CHECK(math::floor_mod(Lane(x), Lane(2.5)).v == doctest::Approx(rest).epsilon(1e-12));
  }
  CHECK(math::wrapped(3.0, -math::kPi, math::kPi) == 3.0);
  CHECK(math::wrapped(Lane(3.5), Lane(-math::kPi), Lane(math::kPi)).v == 3.5 - 2 * math::kPi);
  CHECK(math::clamped(3.0, -1.0, 1.0) == 1.0);
  CHECK(math::clamped(Lane(-3.0), Lane(-1.0), Lane(1.0)).v == -1.0);
}

TEST_CASE("libm's square is asked for, and a Lane multiplies") {
  int64_t differ = 0, multiplied = 0;
  for (uint64_t i = 0; i < 200'000; ++i) {
    const double x = uniform(i, -8, 8);
    const double square = math::pow2(x);
    multiplied += math::pow2(Lane(x)).v == x * x;
    if (square != x * x) {
      ++differ;
      CHECK(ulps(square, static_cast<long double>(x) * x) < 1);
    }
  }
  CHECK(multiplied == 200'000);
  CHECK(differ < 2000);
}
