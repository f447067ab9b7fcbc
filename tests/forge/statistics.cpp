#include "forge/statistics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "forge/json.h"

using namespace bessemer;

TEST_CASE("statistics: mean, deviation and interquartile mean") {
  const std::vector<double> values{3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
  CHECK(mean(values) == doctest::Approx(3.9));
  CHECK(standard_deviation(values) == doctest::Approx(2.3430749027719964));  // numpy.std
  CHECK(interquartile_mean(values) == doctest::Approx(11.0 / 3));  // scipy.stats.trim_mean(v, 0.25)
  CHECK(interquartile_mean(std::vector<double>{1, 2, 100}) == doctest::Approx(103.0 / 3));
  CHECK(interquartile_mean(std::vector<double>{-1000, 2, 3, 1000}) == 2.5);
  CHECK(interquartile_mean({}) == 0);
  CHECK(standard_deviation(std::vector<double>{7}) == 0);
}

TEST_CASE("statistics: the bootstrap interval is that of the theory") {
  // For a uniform sample the middle half averages to 0.5 with standard error about
  // sqrt(Var of the trimmed mean) = sqrt((1/12 - 1/96 ...)/n); numpy's bootstrap of these 400
  // values (2,000 resamples) gives 0.4670 to 0.5330, plus or minus 0.002.
  std::vector<double> values(400);
  for (size_t i = 0; i < values.size(); ++i) values[i] = (static_cast<double>(i) + 0.5) / 400;
  const auto [low, high] = bootstrap_interval(values);
  CHECK(low == doctest::Approx(0.467).epsilon(0.012));
  CHECK(high == doctest::Approx(0.533).epsilon(0.012));
  CHECK(bootstrap_interval(values) == std::pair(low, high));  // the same draws every time
}

TEST_CASE("statistics: strata are resampled each to its own size") {
  // one stratum without spread: only the other one moves the statistic
  const std::vector<std::vector<double>> strata{std::vector<double>(8, 10.0),
                                                {0, 20, 0, 20, 0, 20}};
  const auto [low, high] = bootstrap_interval(strata);
  CHECK(low >= 0);
  CHECK(high <= 20);
  CHECK(low < 10);
  CHECK(high > 10);
  CHECK(bootstrap_interval(std::vector<double>{5}) == std::pair(5.0, 5.0));
  const auto [none_low, none_high] = bootstrap_interval(std::vector<double>{});
  CHECK(none_low == 0);
  CHECK(none_high == 0);
}

TEST_CASE("json: text is escaped and numbers read back") {
  JsonObject json;
  json.add("a\"b", "line\nend\x01").add("x", 0.1).add("n", int64_t{-3}).add("yes", true);
  json.add("nan", std::nan("")).add("list", std::span<const double>(std::vector<double>{1, 2.5}));
  CHECK(json.text() ==
        "{\"a\\\"b\": \"line\\nend\\u0001\", \"x\": 0.1, \"n\": -3, \"yes\": true, \"nan\": null, "
        "\"list\": [1, 2.5]}");
}
