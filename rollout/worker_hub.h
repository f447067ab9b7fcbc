// Where workers report: a wire service with a thread of its own. Each worker owns a contiguous
// range of rows; it pulls tasks and pushes what it collected, exactly once by the wire's session
// rules.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rollout/source.h"

namespace bessemer {

struct WorkerHubOptions {
  int64_t workers = 1;
  int64_t rows = 1;                // of all workers together, at least one each
  double lease = 5;                // seconds of silence after which a worker counts as dead
  size_t message_bytes = 1 << 20;  // of a worker's samples or of the weights: sizes shared memory
  /// Most fragments that are finished or under way, an asynchronous source's credits.
  int64_t fragments = 2;
};

struct WorkerStatus {
  enum class State : uint8_t { absent, idle, collecting, waiting };  // waiting: the queue is full
  std::string name;
  int64_t pid = 0;
  State state = State::absent;
  int64_t first_row = 0, rows = 0;
  uint64_t steps = 0;           // environment steps received from it
  double steps_per_second = 0;  // while it collected, lately
  int64_t version = 0;          // of the weights it was last told to act with
  uint64_t fragments = 0;       // received
  uint64_t queued = 0;          // of them, not yet taken
  int64_t restarts = 0;         // sessions after the first
};

class WorkerHub {
 public:
  /// `setup` is what a worker builds its environments and policy from. Starts to listen at once.
  WorkerHub(const WorkerHubOptions& options, std::string setup);
  ~WorkerHub();
  WorkerHub(const WorkerHub&) = delete;

  /// What workers connect to, and the names that they may take: worker-0, worker-1, ...
  const std::string& address() const;
  const std::vector<std::string>& names() const;

  /// The worker's process is gone; what it was asked waits for its replacement. From any thread.
  void lost(const std::string& name);
  /// No replacement will come: whoever waits for samples gets an IoError with this text.
  void abandon(const std::string& reason);
  std::vector<WorkerStatus> status() const;

 private:
  friend class WorkerSource;
  friend class WorkerFragments;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer
