// The hub of control (rollout/task_hub.h): each worker owns a contiguous range of rows and collects
// rollouts of them. The hub keeps where every range stood after its last samples, so that a
// replacement is handed the same state and the same task.
#pragma once

#include <deque>
#include <utility>

#include "rollout/sample_message.h"
#include "rollout/task_hub.h"

namespace bessemer {

struct WorkerHubOptions : TaskHubOptions {
  RolloutShape shape;  // of all workers together: at least one row each
  /// Most fragments finished and not taken or under way, of an asynchronous source: a worker waits
  /// until one is taken. 0: two a worker.
  int64_t fragments = 0;
};

class WorkerHub final : public TaskHub {
 public:
  /// `setup` is what a worker builds its environments and policy from; message_bytes that of a set
  /// of weights. Throws ValueError for more workers than rows.
  WorkerHub(const WorkerHubOptions& options, const std::string& setup);
  ~WorkerHub() override { close(); }

  const WorkerHubOptions& options() const { return options_; }

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
  using State = std::shared_ptr<const SourceState>;
  /// What one worker owes and where its rows stand.
  struct Range {
    int64_t first_row = 0;
    RolloutShape shape;
    // Where its rows stood after the last samples received, after the last taken, and when the
    // round began. Null: at their beginning.
    State reached, taken, round;
    uint64_t received = 0;  // tasks done; the next task has this number
    bool informed = false;  // its sampler stands where `reached` says

    uint64_t samples() const { return static_cast<uint64_t>(shape.steps * shape.rows); }
  };

  void welcome(size_t worker, wire::Map& fields) override;
  void pulled(size_t worker, const wire::Message& pull) override;
  std::optional<Task> next_task(size_t worker) override;
  uint64_t receive(size_t worker, wire::Message& samples) override;
  void left(size_t worker) override { ranges_[worker].informed = false; }
  bool may_begin(const Range& range) const;
  template <class StateOf>
  void go_back(const StateOf& state_of);

  const WorkerHubOptions options_;
  std::vector<Range> ranges_;
  std::deque<std::pair<WorkerSamples, State>> finished_;
  std::shared_ptr<const WeightSet> weights_;
  bool streaming_ = false;
  uint64_t rounds_ = 0;  // synchronous: tasks that each worker may have begun
  uint64_t produced_ = 0, taken_ = 0, lost_by_restore_ = 0;  // samples
};

}  // namespace bessemer
