// Time and steps to a score, shared by the programs that measure learning.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "bench/bench.h"
#include "trainer/algorithm.h"

namespace bessemer::bench {

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct SolveOptions {
  double threshold = 0;   // mean of 20 deterministic episodes
  int64_t every = 5'000;  // steps between checks
  int threads = 1;
};

struct Solved {
  bool reached = false;
  double seconds = 0;  // of making the algorithm and training; evaluations are not counted
  int64_t steps = 0;
};

/// Trains until the threshold is reached, or for the configuration's total_steps.
inline Solved solve(const RunConfig& config, const SolveOptions& options) {
  ThreadPool pool(options.threads);
  Solved out;
  double start = seconds_now();
  const std::unique_ptr<Algorithm> algorithm = make_algorithm(config, pool);
  Metrics metrics;
  int64_t next = options.every;
  while (!out.reached && algorithm->steps() < config.trainer.total_steps) {
    algorithm->iterate(metrics);
    if (algorithm->steps() < next) continue;
    next = algorithm->steps() + options.every;
    out.seconds += seconds_now() - start;
    double mean = 0;
    for (double r : algorithm->evaluate(20, 10'000, true).returns) mean += r / 20;
    out.reached = mean >= options.threshold;
    start = seconds_now();
  }
  if (!out.reached) out.seconds += seconds_now() - start;
  out.steps = algorithm->steps();
  return out;
}

}  // namespace bessemer::bench
