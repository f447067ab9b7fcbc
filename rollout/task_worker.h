// A worker process: it has a session with a hub (rollout/task_hub.h), pulls tasks and reports what
// came of them. What a task is, is the affair of its TaskWorker.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/wire/message.h"
#include "rollout/weights.h"

namespace bessemer {

class TaskWorker {
 public:
  virtual ~TaskWorker() = default;
  /// Adds what the hub wants to know before the first task.
  virtual void begin(const wire::Map& /*welcome*/, wire::Message& /*pull*/) {}
  virtual void assign(const WeightSet& weights) = 0;
  /// Carries out a task; arrays of the report stay valid until the next call.
  virtual void perform(const wire::Message& task, wire::Message& report) = 0;
};

/// Builds it from the hub's welcome.
using TaskWorkerFactory = std::function<std::unique_ptr<TaskWorker>(const wire::Map& welcome)>;

/// How a worker ended: it was told to stop, or nobody is there to work for.
enum class WorkerEnd : uint8_t { stopped, orphaned };

/// Works for the hub at `address` under `name` until it ends. What a task throws is the hub's to
/// know, and the worker goes on. Throws WireError when the hub refuses it.
WorkerEnd run_tasks(const std::string& address, const std::string& name, const std::string& secret,
                    const TaskWorkerFactory& factory);

}  // namespace bessemer
