#include "rollout/worker_hub.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "core/base/trace.h"
#include "core/wire/server.h"
#include "rollout/sample_message.h"

namespace bessemer {

using wire::Code;
using wire::Map;
using wire::Message;

namespace {

using Clock = std::chrono::steady_clock;

std::string random_word() {
  uint64_t words[2] = {};
  BESSEMER_CHECK(getrandom(words, sizeof words, 0) == sizeof words, IoError,
                 "[workers] getrandom failed");
  return cat(words[0], '-', words[1]);
}

/// What one worker owes and where its rows stand.
struct Seat {
  std::string name;
  int64_t first_row = 0;
  RolloutShape shape;
  // Where its rows stood after the last samples received, after the last taken, and when the round
  // began. Null: at their beginning.
  std::shared_ptr<const SourceState> reached, taken, round;
  uint64_t received = 0;  // samples, that is tasks done; the next task has this number

  // The session that sits here; empty: nobody.
  std::string session;
  bool informed = false;  // its sampler stands where `reached` says
  uint64_t weights = 0;   // hash of the set that it has
  bool has_weights = false;
  uint64_t open_pull = 0;  // id of the request that waits for a task
  bool busy = false;       // it was given task `received`
  uint64_t task_hash = 0;
  int64_t task_version = 0;

  // For the status.
  int64_t pid = 0, sessions = 0;
  uint64_t steps = 0, queued = 0;
  double rate = 0;
};

struct Failure {
  std::string kind, text;
};

}  // namespace

struct WorkerHub::Impl final : wire::Service {
  WorkerHubOptions options;
  std::string setup, bound, secret = random_word();
  std::vector<std::string> names;
  std::vector<Seat> seats;

  mutable std::mutex mutex;  // over all below; the polling thread and the source's take turns
  std::condition_variable changed;
  std::deque<size_t> waiting;  // seats with an open pull, in the order they came
  std::deque<std::pair<WorkerSamples, std::shared_ptr<const SourceState>>> finished;
  std::shared_ptr<const WeightSet> weights;
  bool streaming = false;
  uint64_t rounds = 0;  // synchronous: tasks that each worker may have begun
  uint64_t produced = 0, taken = 0, lost_by_restore = 0;  // samples
  std::optional<Failure> failure;
  std::string abandoned;
  bool stopping = false;

  std::unique_ptr<wire::Server> server;
  std::thread thread;

  // Service, on the polling thread

  Seat& seat_of(const wire::Session& session) {
    for (Seat& seat : seats)
      if (seat.session == session.key) return seat;
    wire::refuse(Code::no_session, "[workers] another process took this worker's place");
  }

  void open(wire::Session& session, const Message& hello, Message& welcome) override {
    const std::string& name = hello.fields.text("worker");
    if (hello.fields.text("secret", "") != secret) {
      wire::refuse(Code::bad_value, "[workers] ", name, " does not know this run's secret");
    }
    const auto found = std::ranges::find(names, name);
    if (found == names.end()) {
      wire::refuse(Code::unknown_name, "[workers] no worker '", name, "' here",
                   did_you_mean(name, names));
    }
    const std::lock_guard lock(mutex);
    Seat& seat = seats[static_cast<size_t>(found - names.begin())];
    leave(seat);
    seat.session = session.key;
    seat.pid = hello.fields.integer("pid", 0);
    ++seat.sessions;
    welcome.fields.set("setup", setup);
    welcome.fields.set("first_row", seat.first_row);
    welcome.fields.set("rows", seat.shape.rows);
    welcome.fields.set("begin", seat.reached == nullptr);
  }

  std::optional<Message> request(wire::Session& session, Message& message) override {
    const trace::Span span("worker report");
    const std::lock_guard lock(mutex);
    Seat& seat = seat_of(session);
    if (message.type == "samples") {
      receive(seat, message);
    } else if (message.type == "failed") {
      fail_task(seat, message);
    } else if (message.type == "pull") {
      begin(seat, message);
    } else {
      wire::refuse(Code::unknown_type, "[workers] no request '", message.type, "'");
    }
    seat.open_pull = message.id;
    waiting.push_back(static_cast<size_t>(&seat - seats.data()));
    hand_out();
    return std::nullopt;
  }

  void close(wire::Session& session, std::string_view reason) override {
    std::string silent;
    {
      const std::lock_guard lock(mutex);
      const auto found = std::ranges::find(seats, session.key, &Seat::session);
      if (found == seats.end()) return;
      leave(*found);
      if (reason == "lease") silent = found->name;
      hand_out();  // its credit may be another's
    }
    if (!silent.empty() && options.on_silent) options.on_silent(silent);
  }

  Message info(const Message& ask) override {
    wire::refuse(Code::unknown_type, "[workers] '", ask.type, "' needs a session");
  }

  // Under the lock

  /// The first pull of a session: a worker at the very beginning says where that is.
  void begin(Seat& seat, const Message& message) {
    std::optional<SourceState> state = read_state(message, seat.shape.rows);
    if (!state || seat.reached) return;
    seat.reached = seat.taken = std::make_shared<const SourceState>(std::move(*state));
    if (!seat.round) seat.round = seat.reached;
    seat.informed = true;
    changed.notify_all();
  }

  /// The worker could not: its environments, its policy's numbers, or, before any task, its setup.
  void fail_task(Seat& seat, const Message& message) {
    if (message.fields.find("task") &&
        (!seat.busy || message.fields.count("task") != seat.received)) {
      return;  // what was asked before a restore
    }
    failure = {message.fields.text("kind"), message.fields.text("message")};
    seat.busy = seat.informed = seat.has_weights = false;
    changed.notify_all();
  }

  void receive(Seat& seat, Message& message) {
    if (!seat.busy) return;  // what was asked before a restore
    const uint64_t task = message.fields.count("task"), hash = message.fields.count("weights_hash");
    if (task != seat.received || hash != seat.task_hash) {
      wire::refuse(Code::mismatch, "[workers] ", seat.name, " did task ", task, " with weights ",
                   hash, ", asked for was task ", seat.received, " with weights ", seat.task_hash);
    }
    check_rollout_message(message, seat.shape);
    std::optional<SourceState> state = read_state(message, seat.shape.rows);
    if (!state) wire::refuse(Code::malformed, "[workers] samples without the state after them");
    seat.busy = false;
    seat.reached = std::make_shared<const SourceState>(std::move(*state));
    const auto samples = static_cast<uint64_t>(seat.shape.steps * seat.shape.rows);
    const double seconds = message.fields.number("seconds", 0);
    if (seconds > 0) seat.rate = static_cast<double>(samples) / seconds;
    seat.steps += samples;
    ++seat.queued;
    produced += samples;
    WorkerSamples done;
    done.worker = seat.name;
    done.index = &seat - seats.data();
    done.number = seat.received++;
    done.version = seat.task_version;
    done.first_row = seat.first_row;
    done.shape = seat.shape;
    const uint64_t id = message.id;
    done.message = std::move(message);
    message.id = id;
    finished.emplace_back(std::move(done), seat.reached);
    changed.notify_all();
  }

  /// Nobody sits here any more: the task goes back. On the polling thread.
  void leave(Seat& seat) {
    std::erase(waiting, static_cast<size_t>(&seat - seats.data()));
    if (seat.open_pull != 0) {  // somebody may still listen: a process that was given up too early
      server->reply_error(seat.session, seat.open_pull, Code::no_session,
                          "[workers] this worker was given up");
    }
    seat.session.clear();
    seat.informed = seat.has_weights = seat.busy = false;
    seat.open_pull = 0;
    seat.rate = 0;
  }

  int64_t credits() const {
    return options.fragments > 0 ? options.fragments : 2 * options.workers;
  }

  bool may_begin(const Seat& seat) const {
    if (!weights || failure || !abandoned.empty()) return false;
    if (!streaming) return seat.received < rounds;
    const auto busy = std::ranges::count_if(seats, &Seat::busy);
    return static_cast<int64_t>(finished.size()) + busy < credits();
  }

  /// Gives tasks to those who wait, in the order they came.
  void hand_out() {
    for (auto it = waiting.begin(); it != waiting.end();) {
      Seat& seat = seats[*it];
      if (stopping) {
        Message reply;
        reply.fields.set("stop", true);
        server->reply(seat.session, std::exchange(seat.open_pull, 0), std::move(reply));
        it = waiting.erase(it);
        continue;
      }
      if (!may_begin(seat)) {
        ++it;
        continue;
      }
      it = waiting.erase(it);
      give(seat);
    }
  }

  void give(Seat& seat) {
    Message reply;
    reply.fields = {
        {"task", seat.received}, {"version", weights->version}, {"weights_hash", weights->hash}};
    std::optional<StateMessage> state;
    if (!seat.informed && seat.reached) {
      state.emplace(*seat.reached);
      state->write(reply);
    }
    if (!seat.has_weights || seat.weights != weights->hash) write_weights(reply, *weights);
    seat.informed = seat.has_weights = seat.busy = true;
    seat.weights = seat.task_hash = weights->hash;
    seat.task_version = weights->version;
    server->reply(seat.session, std::exchange(seat.open_pull, 0), std::move(reply));
  }

  /// Lets the polling thread look for who may begin.
  void wake() {
    server->post([this] {
      const std::lock_guard lock(mutex);
      hand_out();
    });
  }

  [[noreturn]] void raise() {
    const Failure what = *std::exchange(failure, std::nullopt);
    if (what.kind == "not_finite") throw NotFiniteError(what.text);
    if (what.kind == "value") throw ValueError(what.text);
    if (what.kind == "type") throw TypeError(what.text);
    if (what.kind == "io") throw IoError(what.text);
    throw Error(what.text);
  }

  /// Every range goes on from `state_of(seat)`; what is not taken is dropped.
  template <class StateOf>
  void go_back(const StateOf& state_of) {
    for (auto& [samples, state] : finished)
      lost_by_restore += static_cast<uint64_t>(samples.shape.steps * samples.shape.rows);
    finished.clear();
    rounds = 0;
    for (Seat& seat : seats) {
      seat.reached = seat.taken = state_of(seat);
      seat.informed = seat.busy = false;
      seat.queued = 0;
    }
  }
};

WorkerHub::WorkerHub(const WorkerHubOptions& options, std::string setup)
    : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  BESSEMER_CHECK(options.workers >= 1 && options.workers <= options.shape.rows, ValueError,
                 "placement.workers is ", options.workers, ", but there are ", options.shape.rows,
                 " instances (env.num) to share");
  impl.options = options;
  impl.setup = std::move(setup);
  for (int64_t i = 0; i < options.workers; ++i) {
    Seat seat;
    seat.name = cat("worker-", i);
    seat.first_row = options.shape.rows * i / options.workers;
    seat.shape = options.shape;
    seat.shape.rows = options.shape.rows * (i + 1) / options.workers - seat.first_row;
    impl.names.push_back(seat.name);
    impl.seats.push_back(std::move(seat));
  }
  wire::ServerOptions server;
  server.lease = server.max_lease = options.lease;
  const auto samples = static_cast<size_t>(rollout_bytes(impl.seats.back().shape));
  // Room for two messages a ring, the states of environments included.
  const size_t message = std::max(samples, static_cast<size_t>(options.weights_bytes));
  server.shared_bytes = std::clamp<size_t>(3 * message + (1 << 20), 1 << 20, size_t{1} << 30);
  server.socket.limits.bytes = std::max(server.socket.limits.bytes, 4 * message);
  server.socket.limits.header_bytes = size_t{16} << 20;
  impl.server = std::make_unique<wire::Server>(impl, server);
  impl.bound = impl.server->bind(cat("ipc://@bessemer-", getpid(), '-', random_word()));
  impl.thread = std::thread([&impl] {
    trace::name_thread("hub");
    impl.server->run();
  });
}

WorkerHub::~WorkerHub() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->waiting.clear();
    for (Seat& seat : impl_->seats) seat.open_pull = 0;  // nothing is answered any more
  }
  impl_->server->stop();
  impl_->thread.join();
  impl_->server.reset();
}

const std::string& WorkerHub::address() const { return impl_->bound; }
const std::vector<std::string>& WorkerHub::names() const { return impl_->names; }
const std::string& WorkerHub::secret() const { return impl_->secret; }
const WorkerHubOptions& WorkerHub::options() const { return impl_->options; }

void WorkerHub::lost(const std::string& name, int64_t pid) {
  const std::lock_guard lock(impl_->mutex);
  const auto found = std::ranges::find(impl_->seats, name, &Seat::name);
  if (found == impl_->seats.end() || found->session.empty()) return;
  if (pid != 0 && pid != found->pid) return;  // its replacement is here already
  Seat& seat = *found;
  impl_->server->post([&impl = *impl_, &seat, session = seat.session] {
    const std::lock_guard polling(impl.mutex);
    if (seat.session != session) return;
    impl.leave(seat);
    impl.hand_out();
  });
}

void WorkerHub::abandon(const std::string& reason) {
  const std::lock_guard lock(impl_->mutex);
  impl_->abandoned = reason;
  impl_->changed.notify_all();
}

void WorkerHub::stop() {
  const std::lock_guard lock(impl_->mutex);
  impl_->stopping = true;
  impl_->wake();
}

std::vector<WorkerStatus> WorkerHub::status() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<WorkerStatus> out;
  for (const Seat& seat : impl_->seats) {
    WorkerStatus one;
    one.name = seat.name;
    one.pid = seat.session.empty() ? 0 : seat.pid;
    one.state = seat.session.empty() ? WorkerStatus::State::absent
                : seat.busy          ? WorkerStatus::State::collecting
                                     : WorkerStatus::State::waiting;
    one.first_row = seat.first_row;
    one.rows = seat.shape.rows;
    one.steps = seat.steps;
    one.steps_per_second = seat.rate;
    one.version = seat.task_version;
    one.fragments = seat.received;
    one.queued = seat.queued;
    one.restarts = std::max<int64_t>(0, seat.sessions - 1);
    out.push_back(std::move(one));
  }
  return out;
}

void WorkerHub::publish(std::shared_ptr<const WeightSet> weights) {
  const std::lock_guard lock(impl_->mutex);
  impl_->weights = std::move(weights);
  impl_->wake();
}

void WorkerHub::begin_round() {
  Impl& impl = *impl_;
  const std::lock_guard lock(impl.mutex);
  for (Seat& seat : impl.seats) seat.round = seat.taken;
  uint64_t most = 0;
  for (const Seat& seat : impl.seats) most = std::max(most, seat.received);
  for (Seat& seat : impl.seats) seat.received = most;
  impl.rounds = most + 1;
  impl.wake();
}

void WorkerHub::begin_stream() {
  const std::lock_guard lock(impl_->mutex);
  impl_->streaming = true;
  impl_->wake();
}

std::optional<WorkerSamples> WorkerHub::take(double seconds) {
  const trace::Span span("wait for workers");
  Impl& impl = *impl_;
  std::unique_lock lock(impl.mutex);
  const auto ready = [&] {
    return !impl.finished.empty() || impl.failure || !impl.abandoned.empty();
  };
  const auto limit = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::min(seconds, 1e8)));
  impl.changed.wait_until(lock, Clock::now() + limit, ready);
  if (impl.failure || (impl.finished.empty() && !impl.abandoned.empty())) {
    if (!impl.streaming) impl.go_back([](const Seat& seat) { return seat.round; });
    if (!impl.failure) throw IoError(impl.abandoned);
    impl.raise();
  }
  if (impl.finished.empty()) return std::nullopt;
  auto [samples, state] = std::move(impl.finished.front());
  impl.finished.pop_front();
  Seat& seat = impl.seats[static_cast<size_t>(samples.index)];
  seat.taken = std::move(state);
  --seat.queued;
  impl.taken += static_cast<uint64_t>(samples.shape.steps * samples.shape.rows);
  if (impl.streaming) impl.wake();
  return std::move(samples);
}

SourceState WorkerHub::state() {
  Impl& impl = *impl_;
  std::unique_lock lock(impl.mutex);
  impl.changed.wait(lock, [&] {
    return !impl.abandoned.empty() ||
           std::ranges::all_of(impl.seats, [](const Seat& seat) { return seat.taken != nullptr; });
  });
  SourceState out;
  for (const Seat& seat : impl.seats) {
    if (!seat.taken) throw IoError(impl.abandoned);
    out.append(*seat.taken);
  }
  return out;
}

void WorkerHub::restore(const SourceState& state) {
  Impl& impl = *impl_;
  const std::lock_guard lock(impl.mutex);
  const RolloutShape& shape = impl.options.shape;
  BESSEMER_CHECK(state.rows() == shape.rows, ValueError, "[workers] the saved state is of ",
                 state.rows(), " rows, here are ", shape.rows);
  BESSEMER_CHECK(static_cast<int64_t>(state.states.size()) == shape.rows * shape.state_size,
                 ValueError, "[workers] the saved recurrent states are of another policy");
  impl.go_back([&](const Seat& seat) {
    return std::make_shared<const SourceState>(state.slice(seat.first_row, seat.shape.rows));
  });
  impl.wake();
}

SampleCounts WorkerHub::counts() const {
  const std::lock_guard lock(impl_->mutex);
  SampleCounts out;
  out.produced = impl_->produced;
  out.taken = impl_->taken;
  for (const auto& [samples, state] : impl_->finished)
    out.queued += static_cast<uint64_t>(samples.shape.steps * samples.shape.rows);
  if (impl_->lost_by_restore > 0) out.lost.emplace_back("restored", impl_->lost_by_restore);
  return out;
}

}  // namespace bessemer
