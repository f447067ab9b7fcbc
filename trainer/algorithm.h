// What forge drives: an algorithm that collects and learns in turns, and can be saved between
// turns.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/metrics.h"
#include "core/base/thread_pool.h"
#include "envs/spec.h"
#include "rollout/source.h"
#include "trainer/completion.h"
#include "trainer/config.h"

namespace bessemer {

struct EvalResult {
  std::vector<double> returns;   // language: the score of each held-out item
  std::vector<int64_t> lengths;  // language: tokens of the answers
  /// Further means by name, as "eval/mean_turns"; control has none.
  std::vector<std::pair<std::string, double>> means;
  bool scores = false;  // `returns` are scores from 0 to 1: "eval/score" instead of a mean reward
  std::string_view unit = "items";  // what has been scored
};

class Algorithm {
 public:
  virtual ~Algorithm() = default;
  virtual const Spec& spec() const = 0;
  virtual int64_t steps() const = 0;         // environment steps so far
  virtual int64_t updates() const = 0;       // optimiser steps so far
  virtual int64_t parameters() const = 0;    // trainable scalars
  virtual int64_t memory_bytes() const = 0;  // buffers, weights and optimiser state, for the plan
  /// False where a run that goes on from a checkpoint begins its episodes anew: the environments'
  /// server takes no snapshots.
  virtual bool exact_resume() const { return true; }

  /// One rollout and the updates on it; adds what it measured under SB3's names. Throws
  /// NotFiniteError when a loss, gradient or output is not finite; the weights are then the last
  /// good ones.
  virtual void iterate(Metrics& metrics) = 0;

  /// Runs `episodes` episodes on environments of its own, seeds seed .. seed + episodes - 1; the
  /// same bits for any number of threads; normaliser statistics are frozen.
  virtual EvalResult evaluate(int64_t episodes, int64_t seed, bool deterministic) = 0;

  /// Writes / reads model.safetensors, train.safetensors and state.json in `folder` (no renaming
  /// here: trainer/checkpoint.h makes the folder atomic). load() throws ValueError for another
  /// shape.
  virtual void save(const std::filesystem::path& folder) const = 0;
  virtual void load(const std::filesystem::path& folder) = 0;
  /// Weights and normalisers only: enough to act.
  virtual void load_policy(const std::filesystem::path& folder) = 0;

  /// Completions worth showing since the last call; control has none.
  virtual std::vector<CompletionRecord> take_completions() { return {}; }

  /// A policy acting in one environment, for rendering: returns action bytes for one observation.
  virtual std::unique_ptr<class Actor> actor(bool deterministic, int64_t seed) const = 0;
};

/// Acts in a small batch; owns recurrent state. `obs` and `actions` are dense arrays of the Spec's
/// first observation and action channel; `starts` marks rows whose episode begins.
class Actor {
 public:
  virtual ~Actor() = default;
  virtual void act(const void* obs, const uint8_t* starts, const uint8_t* action_mask, int64_t rows,
                   void* actions) = 0;
};

/// `sources`: where experience comes from. Throws ValueError for an unknown trainer.algo.
std::unique_ptr<Algorithm> make_algorithm(const RunConfig& config, ThreadPool& pool,
                                          const SourceFactory& sources = {});

}  // namespace bessemer
