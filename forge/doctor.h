// Why nothing is learned, in plain words: rules over what a run has measured and said. Each rule
// reads metrics.jsonl (names as TRL and SB3 have them) and completions.jsonl, nothing else.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "forge/completions.h"

namespace bessemer {

/// The rows of a metrics.jsonl, a series a name; rows without the name are left out.
struct MeasuredRun {
  struct Point {
    int64_t step;
    double value;
  };
  std::map<std::string, std::vector<Point>, std::less<>> series;
  int64_t rows = 0;
  /// Values that were not finite (null in the file), by name.
  std::map<std::string, int64_t, std::less<>> not_finite;

  bool has(std::string_view name) const { return series.contains(name); }
  /// Mean over the first or last fifth of a series (at least one point).
  double early(std::string_view name) const;
  double late(std::string_view name) const;
};
/// A last line that was cut off is left out. IoError; ValueError naming a damaged line.
MeasuredRun read_measured_run(const std::filesystem::path& metrics);

struct Finding {
  enum class Weight : uint8_t { note, warning, problem } weight = Weight::note;
  std::string rule;    // "zero-spread groups"
  std::string text;    // what was seen, with its numbers
  std::string advice;  // what to do about it
};

/// What the rules know besides measurements.
struct DoctorFacts {
  std::string algo;        // trainer.algo
  bool language = false;   // the model is a decoder
  double kl_coef = 0;      // the recipe's weight of the KL term
  int64_t max_tokens = 0;  // of a completion
};

/// Findings, the worst first. Empty: nothing looks wrong.
std::vector<Finding> diagnose(const MeasuredRun& run, std::span<const ShownCompletion> completions,
                              const DoctorFacts& facts);

}  // namespace bessemer
