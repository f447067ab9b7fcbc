// A run from its recipe to its last file: the loop over an Algorithm, with measurements,
// evaluations, checkpoints, a stop at Ctrl-C and resumption from any checkpoint.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "forge/config.h"
#include "forge/evaluation.h"
#include "forge/placement.h"
#include "forge/run_folder.h"
#include "trainer/algorithm.h"

namespace bessemer {

using AlgorithmFactory = std::function<std::unique_ptr<Algorithm>(
    const RunConfig& config, ThreadPool& pool, const SourceFactory& sources)>;
/// Plays an episode of the trained policy into a video file.
using VideoMaker =
    std::function<void(Algorithm& algorithm, const RunConfig& config, const std::string& file)>;

/// What a run will use, computed from the recipe and the algorithm that it names.
struct Plan {
  std::string text;  // lines for people
  int threads = 1;
  int64_t batch = 0;       // samples of a rollout
  int64_t iterations = 0;  // rollouts of the whole run
  int64_t parameters = 0;
  int64_t memory_bytes = 0;
};
Plan make_plan(const Recipe& recipe, const AlgorithmFactory& factory);

/// Why a run ended.
enum class RunEnd { steps, bar, interrupted };

struct RunSummary {
  std::string folder;
  RunEnd end = RunEnd::steps;
  int64_t steps = 0;
  double seconds = 0;                    // training, without the final evaluation and the video
  Metrics metrics;                       // of the last iteration
  double threshold = 0;                  // the environment's own bar; not a number: it has none
  std::optional<Evaluation> evaluation;  // the final one; none when interrupted
  std::optional<Aggregate> aggregate;    // of `seeds`
};

struct Runner {
  AlgorithmFactory factory;
  VideoMaker video;            // may be empty
  PlacementFactory placement;  // may be empty: a recipe that needs other processes is refused
  bool announce = true;        // lines about what happens, on stderr

  /// A new run. The folder is refused if it holds a run, unless `force`. Throws RecipeError,
  /// ValueError, IoError; NotFiniteError after a checkpoint of the last good state.
  RunSummary run(Recipe recipe, bool force);
  /// Goes on in `folder` from its last checkpoint; overrides as check_resumable() allows.
  RunSummary resume(const std::string& folder, std::span<const std::string> overrides);
  /// A new run in out=NEW that starts from the last checkpoint of `folder`.
  RunSummary fork(const std::string& folder, std::span<const std::string> overrides, bool force);
};

}  // namespace bessemer
