// The batch of environments: the one interface through which samplers, Python, servers and people
// step simulators, whatever is behind it. `make_batch` finds a simulator by its id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "envs/spec.h"

namespace bessemer {

class Canvas;

enum class Outcome : uint8_t { running, terminated, truncated, fault };

/// Gymnasium's three: next_step (the step after an end ignores its action and returns the new
/// episode's first observation with reward 0), same_step (the new episode's observation comes at
/// once, the last one of the old in final_obs), disabled (the caller resets with a mask).
enum class Autoreset : uint8_t { next_step, same_step, disabled };

/// Ragged values of a batch: row i is bytes [offsets[i], offsets[i + 1]).
struct Ragged {
  std::vector<int64_t> offsets{0};
  std::string bytes;
  std::string_view row(int64_t i) const {
    return std::string_view(bytes).substr(offsets[i], offsets[i + 1] - offsets[i]);
  }
  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  void clear() {
    offsets.assign(1, 0);
    bytes.clear();
  }
  void push(std::string_view text) {
    bytes += text;
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
};

/// Where a step's results go: flat arrays that the caller owns, one entry a row, in row order. A
/// null pointer means "not wanted". `obs[c]` belongs to observation channel c; a ragged channel
/// writes to `ragged_obs[c]` instead (its `obs[c]` is null).
struct StepBuffers {
  std::vector<void*> obs;
  std::vector<Ragged*> ragged_obs;  // may be empty when no channel is ragged
  float* reward = nullptr;          // [rows]
  uint8_t* terminated = nullptr;    // [rows] 0 or 1
  uint8_t* truncated = nullptr;     // [rows]; both may be 1, as in Gymnasium
  uint8_t* fault = nullptr;         // [rows]; the reason is EnvBatch::fault_reason(row)
  std::vector<void*> final_obs;     // dense; rows that ended in this step are written
  std::vector<Ragged*> ragged_final_obs;
  uint8_t* action_mask = nullptr;     // [rows, sum of n]
  float* episode_return = nullptr;    // [rows]; written where an episode ended in this step
  int64_t* episode_length = nullptr;  // [rows]; likewise
  std::vector<float*> rewards;        // named components, may be empty
  std::vector<void*> infos;           // info channels, may be empty
};

/// Actions of the rows concerned, one dense array [rows, action shape] of the channel's dtype, or
/// text.
struct Actions {
  const void* data = nullptr;
  const Ragged* ragged = nullptr;
};

/// How classic control computes. lanes: SIMD code, whatever the batch size, so that bits do not
/// depend on how environments are split into batches. plain: scalar doubles and libm, bit-equal to
/// Gymnasium. The two differ by the last bit of sin and cos. Simulators without lanes are always
/// plain.
enum class Arithmetic : uint8_t { lanes, plain };

struct BatchOptions {
  int64_t num_envs = 1;
  Options options;  // checked against the Spec
  Autoreset autoreset = Autoreset::next_step;
  std::optional<int64_t> max_episode_steps;  // overrides the Spec's; 0 = none
  ThreadPool* pool = nullptr;                // null: step on the calling thread
  Arithmetic arithmetic = Arithmetic::lanes;
  bool check_actions = true;  // NaN and out-of-space actions: ValueError, nothing steps
};

class EnvBatch {
 public:
  virtual ~EnvBatch() = default;

  virtual const Spec& spec() const = 0;
  virtual int64_t num_envs() const = 0;
  int64_t rows() const { return num_envs() * spec().rows; }
  virtual Autoreset autoreset() const = 0;

  /// Starts new episodes where `mask` (one byte an environment) is set, or everywhere when it is
  /// empty. `seeds`: empty continues each environment's stream, else one a reset environment (a
  /// NumPy seed, as Gymnasium's reset(seed=...)). `reset_options` as Gymnasium's options ("low",
  /// "high").
  virtual void reset(std::span<const uint64_t> seeds, const Options& reset_options,
                     std::span<const uint8_t> mask, const StepBuffers& out) = 0;

  /// Steps every environment. Same bits for any number of threads.
  virtual void step(const Actions& actions, const StepBuffers& out) = 0;

  /// Asynchronous halves of step: `send` queues actions for the environments `ids`; `recv` waits
  /// until at least `at_least` environments are ready, writes their rows densely from the start of
  /// `out` and their ids to `ids`, and returns how many. A sent environment is received exactly
  /// once.
  virtual void send(const Actions& actions, std::span<const int64_t> ids) = 0;
  virtual int64_t recv(int64_t at_least, const StepBuffers& out, std::span<int64_t> ids) = 0;

  /// The whole state of environment i (RNG, episode, statistics) as bytes of variable length.
  virtual std::string save(int64_t env) const = 0;
  /// Throws ValueError for bytes that are damaged or another environment's.
  virtual void load(int64_t env, std::string_view state) = 0;

  /// save() of every environment.
  virtual std::vector<std::string> save_all() const {
    std::vector<std::string> out;
    for (int64_t env = 0; env < num_envs(); ++env) out.push_back(save(env));
    return out;
  }
  /// False where states cannot be had: a server without the capability `snapshot`.
  virtual bool can_save() const { return true; }
  /// True where the environments may be lost without this process: any call may then throw IoError.
  virtual bool remote() const { return false; }

  virtual void render(int64_t env, Canvas& canvas) const = 0;
  virtual std::string fault_reason(int64_t row) const = 0;
  /// For environments that know it: an action (as text) that reaches the highest return from here.
  /// "" where the environment has no oracle.
  virtual std::string oracle(int64_t /*row*/) const { return {}; }

  /// Observations, mask of the current state, without stepping.
  virtual void observe(const StepBuffers& out) const = 0;
};

/// Makes the environments a run asks for: `num_envs`, autoreset and pool are the caller's.
using EnvFactory = std::function<std::unique_ptr<EnvBatch>(const BatchOptions&)>;

/// Throws ValueError for an unknown id or option, naming the nearest right one.
/// An id may also name a Gymnasium class, py:file.py:Class, whose instances then live in processes
/// of their own (docs/environments.md).
std::unique_ptr<EnvBatch> make_batch(const std::string& id, const BatchOptions& options);
/// True for such an id: every call may wait for another process.
bool in_processes(const std::string& id);
const Spec& env_spec(const std::string& id);
/// All registered ids, sorted.
std::vector<std::string> env_ids();

}  // namespace bessemer
