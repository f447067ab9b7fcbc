// How a set of returns is summed up. Interquartile mean and stratified bootstrap as recommended by
// Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace bessemer {

double mean(std::span<const double> values);
/// Population standard deviation (numpy.std).
double standard_deviation(std::span<const double> values);

/// Mean of what remains when floor(n / 4) values are dropped at either end
/// (scipy.stats.trim_mean(values, 0.25)). 0 for no values.
double interquartile_mean(std::span<const double> values);

/// Percentile bootstrap of the interquartile mean: every stratum is resampled with replacement to
/// its own size, the strata are pooled, and the interval holds the middle `level` of the statistic.
/// The draws are a function of `seed` alone. Strata are independent conditions (tasks); episodes of
/// one policy, or one score of each of several seeds, are a single stratum.
std::pair<double, double> bootstrap_interval(std::span<const std::vector<double>> strata,
                                             double level = 0.95, int resamples = 2000,
                                             uint64_t seed = 0);
std::pair<double, double> bootstrap_interval(std::span<const double> values);

}  // namespace bessemer
