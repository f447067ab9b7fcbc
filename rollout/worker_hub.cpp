#include "rollout/worker_hub.h"

#include <algorithm>
#include <chrono>

#include "core/base/trace.h"

namespace bessemer {

using wire::Code;
using wire::Map;
using wire::Message;

namespace {

using Clock = std::chrono::steady_clock;

std::vector<int64_t> cuts(const WorkerHubOptions& options) {
  BESSEMER_CHECK(options.workers >= 1 && options.workers <= options.shape.rows, ValueError,
                 "placement.workers is ", options.workers, ", but there are ", options.shape.rows,
                 " instances (env.num) to share");
  std::vector<int64_t> out;
  for (int64_t i = 0; i <= options.workers; ++i)
    out.push_back(options.shape.rows * i / options.workers);
  return out;
}

/// The options with room for what the worker with the most rows sends.
TaskHubOptions with_room(const WorkerHubOptions& options) {
  TaskHubOptions out = options;
  RolloutShape most = options.shape;
  most.rows -= cuts(options)[static_cast<size_t>(options.workers - 1)];
  out.message_bytes = std::max(out.message_bytes, rollout_bytes(most));
  return out;
}

}  // namespace

WorkerHub::WorkerHub(const WorkerHubOptions& options, const std::string& setup)
    : TaskHub(with_room(options), {{"setup", setup}}), options_(options) {
  const std::vector<int64_t> rows = cuts(options);
  for (size_t i = 0; i + 1 < rows.size(); ++i) {
    Range range;
    range.first_row = rows[i];
    range.shape = options.shape;
    range.shape.rows = rows[i + 1] - rows[i];
    ranges_.push_back(std::move(range));
  }
  listen();
}

void WorkerHub::welcome(size_t worker, Map& fields) {
  const Range& range = ranges_[worker];
  fields.set("first_row", range.first_row);
  fields.set("rows", range.shape.rows);
  fields.set("begin", range.reached == nullptr);
}

/// A worker at the very beginning says where that is.
void WorkerHub::pulled(size_t worker, const Message& pull) {
  Range& range = ranges_[worker];
  std::optional<SourceState> state = read_state(pull, range.shape.rows);
  if (!state || range.reached) return;
  range.reached = range.taken = std::make_shared<const SourceState>(std::move(*state));
  if (!range.round) range.round = range.reached;
  range.informed = true;
  changed_.notify_all();
}

bool WorkerHub::may_begin(const Range& range) const {
  if (!weights_) return false;
  if (!streaming_) return range.received < rounds_;
  const int64_t credits = options_.fragments > 0 ? options_.fragments : 2 * options_.workers;
  return static_cast<int64_t>(finished_.size()) + std::ranges::count_if(seats_, &Seat::busy) <
         credits;
}

std::optional<TaskHub::Task> WorkerHub::next_task(size_t worker) {
  Range& range = ranges_[worker];
  if (!may_begin(range)) return std::nullopt;
  Task task;
  task.number = range.received;
  task.weights = weights_;
  if (!range.informed && range.reached) {
    const auto state = std::make_shared<const StateMessage>(*range.reached);
    state->write(task.message);
    task.borrowed = state;
  }
  range.informed = true;
  return task;
}

uint64_t WorkerHub::receive(size_t worker, Message& message) {
  Range& range = ranges_[worker];
  check_rollout_message(message, range.shape);
  std::optional<SourceState> state = read_state(message, range.shape.rows);
  if (!state) wire::refuse(Code::malformed, "[workers] samples without the state after them");
  range.reached = std::make_shared<const SourceState>(std::move(*state));
  produced_ += range.samples();
  WorkerSamples done;
  done.worker = names()[worker];
  done.index = static_cast<int64_t>(worker);
  done.number = range.received++;
  done.version = seats_[worker].task_version;
  done.first_row = range.first_row;
  done.shape = range.shape;
  done.message = std::move(message);
  finished_.emplace_back(std::move(done), range.reached);
  return range.samples();
}

/// Every range goes on from `state_of(range)`; what is not taken is dropped.
template <class StateOf>
void WorkerHub::go_back(const StateOf& state_of) {
  for (const auto& [samples, state] : finished_)
    lost_by_restore_ += ranges_[static_cast<size_t>(samples.index)].samples();
  finished_.clear();
  rounds_ = 0;
  for (Range& range : ranges_) {
    range.reached = range.taken = state_of(range);
    range.informed = false;
  }
  forget_tasks();
}

void WorkerHub::publish(std::shared_ptr<const WeightSet> weights) {
  const std::lock_guard lock(mutex_);
  weights_ = std::move(weights);
  wake();
}

void WorkerHub::begin_round() {
  const std::lock_guard lock(mutex_);
  uint64_t most = 0;
  for (const Range& range : ranges_) most = std::max(most, range.received);
  for (Range& range : ranges_) {
    range.round = range.taken;
    range.received = most;
  }
  rounds_ = most + 1;
  wake();
}

void WorkerHub::begin_stream() {
  const std::lock_guard lock(mutex_);
  streaming_ = true;
  wake();
}

std::optional<WorkerSamples> WorkerHub::take(double seconds) {
  const trace::Span span("wait for workers");
  std::unique_lock lock(mutex_);
  const auto limit = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::min(seconds, 1e8)));
  changed_.wait_until(lock, Clock::now() + limit, [&] { return !finished_.empty() || troubled(); });
  if (failure_ || (finished_.empty() && troubled())) {
    if (!streaming_) go_back([](const Range& range) { return range.round; });
    raise();
  }
  if (finished_.empty()) return std::nullopt;
  auto [samples, state] = std::move(finished_.front());
  finished_.pop_front();
  const auto worker = static_cast<size_t>(samples.index);
  ranges_[worker].taken = std::move(state);
  --seats_[worker].queued;
  taken_ += ranges_[worker].samples();
  if (streaming_) wake();
  return std::move(samples);
}

SourceState WorkerHub::state() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return !abandoned_.empty() ||
           std::ranges::all_of(ranges_, [](const Range& range) { return range.taken != nullptr; });
  });
  SourceState out;
  for (const Range& range : ranges_) {
    if (!range.taken) throw IoError(abandoned_);
    out.append(*range.taken);
  }
  return out;
}

void WorkerHub::restore(const SourceState& state) {
  const std::lock_guard lock(mutex_);
  const RolloutShape& shape = options_.shape;
  BESSEMER_CHECK(state.rows() == shape.rows, ValueError, "[workers] the saved state is of ",
                 state.rows(), " rows, here are ", shape.rows);
  BESSEMER_CHECK(static_cast<int64_t>(state.states.size()) == shape.rows * shape.state_size,
                 ValueError, "[workers] the saved recurrent states are of another policy");
  go_back([&](const Range& range) {
    return std::make_shared<const SourceState>(state.slice(range.first_row, range.shape.rows));
  });
  wake();
}

SampleCounts WorkerHub::counts() const {
  const std::lock_guard lock(mutex_);
  SampleCounts out;
  out.produced = produced_;
  out.taken = taken_;
  for (const auto& [samples, state] : finished_)
    out.queued += ranges_[static_cast<size_t>(samples.index)].samples();
  if (lost_by_restore_ > 0) out.lost.emplace_back("restored", lost_by_restore_);
  return out;
}

}  // namespace bessemer
