// What an evaluation found, as numbers, JSON and one line for people.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/base/metrics.h"
#include "trainer/algorithm.h"

namespace bessemer {

struct Evaluation {
  std::vector<double> returns;
  std::vector<int64_t> lengths;
  int64_t step = 0;  // of the policy that was judged
  int64_t seed = 0;  // of the first episode
  bool deterministic = true;
  double mean = 0, std = 0, iqm = 0;
  std::pair<double, double> interval;  // 95 % bootstrap interval of the interquartile mean
  /// Of a language model: `returns` are scores of held-out items, `means` what else was measured.
  bool scores = false;
  std::string_view unit = "items";  // of the scores
  std::vector<std::pair<std::string, double>> means;
};

/// Runs the episodes and sums them up.
Evaluation evaluate(Algorithm& algorithm, int64_t episodes, int64_t seed, bool deterministic);

/// {"mean", "std", "iqm", "interval", "min", "max", "episodes", "seed", ..., "returns", "lengths"}
std::string evaluation_json(const Evaluation& evaluation);
/// "mean 487.3 ± 20.1, IQM 500 (95 % interval 480 to 500), 100 episodes"
std::string evaluation_text(const Evaluation& evaluation);
/// The names under which an evaluation of the run appears among the metrics, and can stop it; those
/// of a language model's answers beside its environment's own ("eval/rewards/...").
std::vector<std::string> evaluation_metric_names(const RunConfig& run);
/// True where a language model is judged by held-out examples or pairs, not by its answers.
bool judged_by_data(const RunConfig& run);
void add_evaluation(const Evaluation& evaluation, Metrics& metrics);

/// Several seeds of one recipe: one score (mean return) a seed.
struct Aggregate {
  std::vector<int64_t> seeds;
  std::vector<double> scores;
  double bar = 0;  // not a number: none
};
/// {"mean", "std", "iqm", "interval", "bar", "reached", "seeds", "scores"}
std::string aggregate_json(const Aggregate& aggregate);
std::string aggregate_text(const Aggregate& aggregate);

}  // namespace bessemer
