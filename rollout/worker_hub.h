// Where workers report: a wire service with a thread of its own. Each worker owns a contiguous
// range of rows; it pulls tasks and pushes what it collected, each exactly once by the wire's
// session rules. The hub keeps where every range stood after its last samples, so that a
// replacement is handed the same state and the same task.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "rollout/source.h"

namespace bessemer {

struct WorkerSamples;  // rollout/sample_message.h

struct WorkerHubOptions {
  int64_t workers = 1;  // named worker-0, worker-1, ...
  RolloutShape shape;   // of all workers together: at least one row each
  /// Most fragments finished and not taken or under way, of an asynchronous source: a worker waits
  /// until one is taken. 0: two a worker.
  int64_t fragments = 0;
  double lease = 5;           // seconds of silence after which a worker counts as dead
  int64_t weights_bytes = 0;  // of a set of weights: with the shape, it sizes the shared memory
  /// Called on the hub's thread when a worker that still runs was silent for longer than its lease:
  /// whoever started it ends its process.
  std::function<void(const std::string& name)> on_silent;
};

struct WorkerStatus {
  enum class State : uint8_t { absent, waiting, collecting };  // waiting: for a task or for credit
  std::string name;
  int64_t pid = 0;
  State state = State::absent;
  int64_t first_row = 0, rows = 0;
  uint64_t steps = 0;           // environment steps received
  double steps_per_second = 0;  // of its last samples, while it collected
  int64_t version = 0;          // of the weights it was last told to act with
  uint64_t fragments = 0;       // received
  uint64_t queued = 0;          // of them, not yet taken
  int64_t restarts = 0;         // sessions after the first
};

class WorkerHub {
 public:
  /// `setup` is what a worker builds its environments and policy from. Listens at once, on an ipc
  /// address that leaves nothing in the file system. Throws ValueError for more workers than rows.
  WorkerHub(const WorkerHubOptions& options, std::string setup);
  ~WorkerHub();
  WorkerHub(const WorkerHub&) = delete;

  /// What workers are started with: the address, their names, and the secret that admits them,
  /// which belongs into their environment rather than their arguments.
  const std::string& address() const;
  const std::vector<std::string>& names() const;
  const std::string& secret() const;

  /// The worker's process (`pid`; 0: whoever has the name) is gone: what it was asked waits for its
  /// replacement. From any thread, like all up to status().
  void lost(const std::string& name, int64_t pid = 0);
  /// No replacement will come: whoever waits for samples gets an IoError with this text.
  void abandon(const std::string& reason);
  /// Workers that wait, or come to the end of what they collect, are told to leave.
  void stop();
  std::vector<WorkerStatus> status() const;
  const WorkerHubOptions& options() const;

  // For the sources of rollout/worker_source.h, on one thread.

  /// What workers act with from their next task on.
  void publish(std::shared_ptr<const WeightSet> weights);
  /// Synchronous: every worker is to collect once more, from where it stands now. After samples
  /// that failed, all of them go back to where they stood when this was last called.
  void begin_round();
  /// Asynchronous: workers collect without being asked, as far as their credits go.
  void begin_stream();
  /// The oldest samples that were not taken; nothing when none came within `seconds`. Throws what
  /// the worker's sampler threw (NotFiniteError, ValueError, IoError) and IoError when abandoned.
  std::optional<WorkerSamples> take(double seconds);
  /// Where all rows stand after what was taken. Waits for workers that have not said yet.
  SourceState state();
  /// Lets all rows go on from here. What was collected since and not taken is lost.
  void restore(const SourceState& state);
  SampleCounts counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer
