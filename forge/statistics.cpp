#include "forge/statistics.h"

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"

namespace bessemer {

namespace {

/// Sorts `values` and averages the middle half.
double trimmed_mean(std::vector<double>& values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t cut = values.size() / 4;
  return mean(std::span<const double>(values).subspan(cut, values.size() - 2 * cut));
}

/// numpy.quantile's default: linear between the two nearest of sorted values.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

}  // namespace

double mean(std::span<const double> values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  const double center = mean(values);
  double sum = 0;
  for (double value : values) sum += (value - center) * (value - center);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

double interquartile_mean(std::span<const double> values) {
  std::vector<double> copy(values.begin(), values.end());
  return trimmed_mean(copy);
}

std::pair<double, double> bootstrap_interval(std::span<const std::vector<double>> strata,
                                             double level, int resamples, uint64_t seed) {
  const Rng rng{seed, Stream::evaluation};
  std::vector<double> statistics, pool;
  for (int resample = 0; resample < resamples; ++resample) {
    pool.clear();
    uint64_t counter = 0;
    for (const std::vector<double>& stratum : strata) {
      for (size_t i = 0; i < stratum.size(); ++i) {
        const PhiloxBlock draw = rng.at(static_cast<uint64_t>(resample), counter++);
        pool.push_back(stratum[uniform_below(draw.word[0], draw.word[1], stratum.size())]);
      }
    }
    statistics.push_back(trimmed_mean(pool));
  }
  if (statistics.empty()) return {0, 0};
  std::sort(statistics.begin(), statistics.end());
  return {quantile(statistics, (1 - level) / 2), quantile(statistics, (1 + level) / 2)};
}

std::pair<double, double> bootstrap_interval(std::span<const double> values) {
  const std::vector<double> stratum(values.begin(), values.end());
  return bootstrap_interval(std::span(&stratum, 1));
}

}  // namespace bessemer
