// Where experience comes from: this process (rollout/sampler.h) or workers
// (rollout/worker_source.h). Trainers see these interfaces only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rollout/policy.h"
#include "rollout/rollout.h"
#include "rollout/weights.h"

namespace bessemer {

class EpisodeSource;
class Normalizer;
class Tokenizer;
namespace nn {
class Decoder;
}

/// Where environments stand between two rollouts: with the weights, all that decides what comes
/// next. Everything is listed row by row, so that states of neighbouring ranges can be joined and
/// cut.
struct SourceState {
  std::vector<int64_t> counter;   // steps so far, [rows]; equal in synchronous runs
  std::vector<uint8_t> starts;    // [rows]: an episode begins with the current observation
  std::vector<float> states;      // [rows, state_size], recurrent policies
  std::vector<std::string> envs;  // [environments], as EnvBatch::save gives them

  int64_t rows() const { return static_cast<int64_t>(starts.size()); }
  bool empty() const { return starts.empty(); }
  /// Adds the rows that follow.
  void append(const SourceState& next);
  /// `rows` rows from `first` on.
  SourceState slice(int64_t first, int64_t rows) const;
};

struct SamplerOptions {
  int64_t steps = 128;
  uint64_t seed = 1;
  int64_t first_row = 0;  // of all rows of the run: draws and seeds are keyed by the global row
  double gamma = 0.99;
  bool truncation_bootstrap = true;
  bool clip_actions = true;
  int64_t sde_sample_freq = -1;
};

/// Synchronous: every rollout is collected with the policy as it is.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  /// Fills rollout() with the next `steps` steps of all rows; `episodes` receives those that ended,
  /// in order of time, then row. Throws NotFiniteError when the policy's outputs are not finite.
  virtual void collect(int64_t version, std::vector<EpisodeEnd>& episodes) = 0;
  virtual const Rollout& rollout() const = 0;
  /// What a checkpoint holds, and going on from it; ValueError for a state of other environments.
  virtual SourceState state() const = 0;
  virtual void restore(const SourceState& state) = 0;
  virtual int64_t memory_bytes() const = 0;
};

/// What one worker's rows did with one set of weights.
struct Fragment {
  std::string worker;
  uint64_t number = 0;  // counts the worker's fragments from 0, over its restarts
  int64_t version = 0;  // of the weights
  int64_t first_row = 0;
  Rollout rollout;
  std::vector<EpisodeEnd> episodes;
};

/// The books of an asynchronous source, in samples. produced = taken + queued + what was lost; the
/// unfinished fragment of a worker that died was never produced.
struct SampleCounts {
  uint64_t produced = 0, taken = 0, queued = 0;
  std::vector<std::pair<std::string, uint64_t>> lost;  // by reason
};

/// Asynchronous: whoever collects goes on with the newest weights that it has seen.
class FragmentSource {
 public:
  virtual ~FragmentSource() = default;
  virtual void publish(const WeightSet& weights) = 0;
  /// The oldest finished fragment; nothing when none came within `seconds`.
  virtual std::optional<Fragment> take(double seconds) = 0;
  virtual SampleCounts counts() const = 0;
  /// Where each row stands after the last of its fragments that was taken: fragments still queued
  /// are collected anew by a run that goes on from here.
  virtual SourceState state() const = 0;
  virtual void restore(const SourceState& state) = 0;
  virtual int64_t memory_bytes() const = 0;
};

/// What a source needs to know of the run. Policy and normaliser are the trainer's own.
struct SourceRequest {
  const Policy& policy;
  const Normalizer& normalizer;
  int64_t rows = 0;
  RolloutShape shape;  // of all rows
  SamplerOptions options;
  int64_t fragments = 0;  // asynchronous: most fragments finished or under way; 0: as it likes
};

/// The same of a trainer of language. Decoder and tokenizer are its own.
struct EpisodeRequest {
  const nn::Decoder& decoder;
  const Tokenizer& tokenizer;
};

/// How a trainer gets its source when the work is placed elsewhere; empty: in this process.
struct SourceFactory {
  std::function<std::unique_ptr<SampleSource>(const SourceRequest&)> samples;
  std::function<std::unique_ptr<FragmentSource>(const SourceRequest&)> fragments;
  std::function<std::shared_ptr<EpisodeSource>(const EpisodeRequest&)> episodes;
};

}  // namespace bessemer
