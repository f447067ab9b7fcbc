// Where workers report: a wire service with a thread of its own, and what all kinds of work share.
// Workers have names and a secret; each pulls a task and pushes what came of it, exactly once by
// the wire's session rules. Weights are sent where the worker has others. What a task is, is the
// affair of rollout/worker_hub.h (rows of environments) and rollout/episode_hub.h (conversations).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/wire/message.h"
#include "rollout/weights.h"

namespace bessemer {

struct TaskHubOptions {
  int64_t workers = 1;        // named worker-0, worker-1, ...
  double lease = 5;           // seconds of silence after which a worker counts as dead
  int64_t message_bytes = 0;  // of the largest message; it sizes the shared memory
  /// Called on the hub's thread when a worker that still runs was silent for longer than its lease:
  /// whoever started it ends process `pid`, if its place is not another's already.
  std::function<void(const std::string& name, int64_t pid)> on_silent;
};

struct WorkerStatus {
  enum class State : uint8_t { absent, waiting, collecting };  // waiting: for a task or for credit
  std::string name;
  int64_t pid = 0;
  State state = State::absent;
  uint64_t steps = 0;           // environment steps or sampled tokens received
  double steps_per_second = 0;  // of its last task, while it worked
  int64_t version = 0;          // of the weights it was last told to act with
  uint64_t done = 0;            // tasks
  uint64_t queued = 0;          // of them, not yet taken
  int64_t restarts = 0;         // sessions after the first
};

class TaskHub {
 public:
  virtual ~TaskHub();
  TaskHub(const TaskHub&) = delete;
  TaskHub& operator=(const TaskHub&) = delete;

  /// What workers are started with: the address, their names, and the secret that admits them,
  /// which belongs into their environment rather than their arguments.
  const std::string& address() const;
  const std::vector<std::string>& names() const { return names_; }
  const std::string& secret() const { return secret_; }

  /// The worker's process (`pid`; 0: whoever has the name) is gone: what it was asked waits for its
  /// replacement. From any thread, like all up to status().
  void lost(const std::string& name, int64_t pid = 0);
  /// No replacement will come: whoever waits for workers gets an IoError with this text.
  void abandon(const std::string& reason);
  /// Workers that wait, or come to the end of their task, are told to leave.
  void stop();
  std::vector<WorkerStatus> status() const;

 protected:
  TaskHub(const TaskHubOptions& options, wire::Map setup);
  /// Listens, on an ipc address that leaves nothing in the file system: the last thing of a
  /// derived constructor. The first thing of its destructor ends that.
  void listen();
  void close();

  struct Task {
    uint64_t number = 0;
    std::shared_ptr<const WeightSet> weights;
    wire::Message message;
    std::shared_ptr<const void> borrowed;  // what the message's arrays are in
  };

  // Under the lock, on the hub's thread. `worker` counts them.

  /// Somebody took the place: what the welcome says beside the setup.
  virtual void welcome(size_t /*worker*/, wire::Map& /*fields*/) {}
  /// The first pull of a session.
  virtual void pulled(size_t /*worker*/, const wire::Message& /*pull*/) {}
  /// What the worker is to do next; nothing: it waits until wake().
  virtual std::optional<Task> next_task(size_t worker) = 0;
  /// What came of the worker's task; returns its steps. Throws WireError for what it must not say.
  virtual uint64_t receive(size_t worker, wire::Message& samples) = 0;
  /// The worker's place is empty, or its task failed: that is to be given out again.
  virtual void left(size_t worker) = 0;

  // Under the lock, on any thread.

  struct Seat {
    std::string session;   // that sits here; empty: nobody
    uint64_t weights = 0;  // hash of the set that it has
    bool has_weights = false;
    uint64_t open_pull = 0;  // id of the request that waits for a task
    bool busy = false;
    uint64_t task = 0, task_hash = 0;  // while busy
    int64_t task_version = 0;
    // For the status.
    int64_t pid = 0, sessions = 0;
    uint64_t steps = 0, done = 0, queued = 0;
    double rate = 0;
  };
  struct Failure {
    std::string kind, text;
  };
  bool troubled() const { return failure_ || !abandoned_.empty(); }
  /// Throws what a worker's task threw (NotFiniteError, ValueError, TypeError, IoError), once, or
  /// IoError when abandoned.
  [[noreturn]] void raise();
  /// Lets the polling thread look for who may begin.
  void wake();
  /// Results of tasks that are under way are not wanted any more.
  void forget_tasks();

  mutable std::mutex mutex_;  // over all below; the polling thread and the trainer's take turns
  std::condition_variable changed_;  // something was received, or there is trouble
  std::vector<Seat> seats_;
  std::optional<Failure> failure_;
  std::string abandoned_;

 private:
  struct Door;  // the service
  const TaskHubOptions options_;
  const wire::Map setup_;
  const std::string secret_;
  std::vector<std::string> names_;
  std::unique_ptr<Door> door_;
};

}  // namespace bessemer
