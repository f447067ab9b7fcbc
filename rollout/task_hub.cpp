#include "rollout/task_hub.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>

#include "core/base/trace.h"
#include "core/wire/server.h"

namespace bessemer {

using wire::Code;
using wire::Message;

namespace {

std::string random_word() {
  uint64_t words[2] = {};
  BESSEMER_CHECK(getrandom(words, sizeof words, 0) == sizeof words, IoError,
                 "[workers] getrandom failed");
  return cat(words[0], '-', words[1]);
}

}  // namespace

struct TaskHub::Door final : wire::Service {
  TaskHub& hub;
  std::deque<size_t> waiting;  // workers with an open pull, in the order they came
  bool stopping = false;
  std::unique_ptr<wire::Server> server;
  std::string address;
  std::thread thread;

  explicit Door(TaskHub& owner) : hub(owner) {}

  // Service, on the polling thread

  size_t worker_of(const wire::Session& session) {
    for (size_t i = 0; i < hub.seats_.size(); ++i)
      if (hub.seats_[i].session == session.key) return i;
    wire::refuse(Code::no_session, "[workers] another process took this worker's place");
  }

  void open(wire::Session& session, const Message& hello, Message& welcome) override {
    const std::string& name = hello.fields.text("worker");
    if (hello.fields.text("secret", "") != hub.secret_) {
      wire::refuse(Code::bad_value, "[workers] ", name, " does not know this run's secret");
    }
    const auto found = std::ranges::find(hub.names_, name);
    if (found == hub.names_.end()) {
      wire::refuse(Code::unknown_name, "[workers] no worker '", name, "' here",
                   did_you_mean(name, hub.names_));
    }
    const std::lock_guard lock(hub.mutex_);
    const auto worker = static_cast<size_t>(found - hub.names_.begin());
    leave(worker);
    Seat& seat = hub.seats_[worker];
    seat.session = session.key;
    seat.pid = hello.fields.integer("pid", 0);
    ++seat.sessions;
    for (const auto& [key, value] : hub.setup_.items) welcome.fields.set(key, value);
    hub.welcome(worker, welcome.fields);
  }

  std::optional<Message> request(wire::Session& session, Message& message) override {
    const trace::Span span("worker report");
    const std::lock_guard lock(hub.mutex_);
    const size_t worker = worker_of(session);
    const uint64_t id = message.id;
    if (hub.seats_[worker].open_pull != 0) {
      wire::refuse(Code::mismatch, "[workers] ", hub.names_[worker],
                   " asks for a second task while it waits for one");
    }
    if (message.type == "samples") {
      receive(worker, message);
    } else if (message.type == "failed") {
      fail_task(worker, message);
    } else if (message.type == "pull") {
      hub.pulled(worker, message);
    } else {
      wire::refuse(Code::unknown_type, "[workers] no request '", message.type, "'");
    }
    hub.seats_[worker].open_pull = id;
    waiting.push_back(worker);
    hand_out();
    return std::nullopt;
  }

  void close(wire::Session& session, std::string_view reason) override {
    std::string silent;
    int64_t pid = 0;
    {
      const std::lock_guard lock(hub.mutex_);
      const auto found = std::ranges::find(hub.seats_, session.key, &Seat::session);
      if (found == hub.seats_.end()) return;
      const auto worker = static_cast<size_t>(found - hub.seats_.begin());
      pid = hub.seats_[worker].pid;
      leave(worker);
      if (reason == "lease") silent = hub.names_[worker];
      hand_out();  // its task or credit may be another's
    }
    if (!silent.empty() && hub.options_.on_silent) hub.options_.on_silent(silent, pid);
  }

  Message info(const Message& ask) override {
    wire::refuse(Code::unknown_type, "[workers] '", ask.type, "' needs a session");
  }

  // Under the lock

  void receive(size_t worker, Message& message) {
    Seat& seat = hub.seats_[worker];
    if (!seat.busy) return;  // what is not wanted any more
    const uint64_t task = message.fields.count("task"), hash = message.fields.count("weights_hash");
    if (task != seat.task || hash != seat.task_hash) {
      wire::refuse(Code::mismatch, "[workers] ", hub.names_[worker], " did task ", task,
                   " with weights ", hash, ", asked for was task ", seat.task, " with weights ",
                   seat.task_hash);
    }
    const double seconds = message.fields.number("seconds", 0);
    const uint64_t steps = hub.receive(worker, message);
    seat.busy = false;
    if (seconds > 0) seat.rate = static_cast<double>(steps) / seconds;
    seat.steps += steps;
    ++seat.done;
    ++seat.queued;
    hub.changed_.notify_all();
  }

  /// The worker could not: its environments, its policy's numbers, or, before any task, its setup.
  void fail_task(size_t worker, const Message& message) {
    Seat& seat = hub.seats_[worker];
    seat.has_weights = false;  // it begins anew, whoever wants to know
    if (message.fields.find("task") && (!seat.busy || message.fields.count("task") != seat.task))
      return;  // what is not wanted any more
    hub.failure_ = {message.fields.text("kind"), message.fields.text("message")};
    seat.busy = false;
    hub.left(worker);
    hub.changed_.notify_all();
  }

  /// Nobody sits here any more: the task goes back. On the polling thread.
  void leave(size_t worker) {
    Seat& seat = hub.seats_[worker];
    std::erase(waiting, worker);
    if (seat.open_pull != 0) {  // somebody may still listen: a process that was given up too early
      server->reply_error(seat.session, std::exchange(seat.open_pull, 0), Code::no_session,
                          "[workers] this worker was given up");
    }
    seat.session.clear();
    seat.has_weights = seat.busy = false;
    seat.rate = 0;
    hub.left(worker);
  }

  /// Gives tasks to those who wait, in the order they came.
  void hand_out() {
    for (auto it = waiting.begin(); it != waiting.end();) {
      Seat& seat = hub.seats_[*it];
      if (stopping) {
        Message reply;
        reply.fields.set("stop", true);
        server->reply(seat.session, std::exchange(seat.open_pull, 0), std::move(reply));
        it = waiting.erase(it);
        continue;
      }
      std::optional<Task> task;
      if (!hub.troubled()) task = hub.next_task(*it);
      if (!task) {
        ++it;
        continue;
      }
      it = waiting.erase(it);
      give(seat, *task);
    }
  }

  void give(Seat& seat, Task& task) {
    const WeightSet& weights = *task.weights;
    wire::Map& fields = task.message.fields;
    fields.set("task", task.number);
    fields.set("version", weights.version);
    fields.set("weights_hash", weights.hash);
    if (!seat.has_weights || seat.weights != weights.hash) write_weights(task.message, weights);
    seat.has_weights = seat.busy = true;
    seat.weights = seat.task_hash = weights.hash;
    seat.task_version = weights.version;
    seat.task = task.number;
    server->reply(seat.session, std::exchange(seat.open_pull, 0), std::move(task.message));
  }
};

TaskHub::TaskHub(const TaskHubOptions& options, wire::Map setup)
    : options_(options), setup_(std::move(setup)), secret_(random_word()) {
  for (int64_t i = 0; i < options_.workers; ++i) names_.push_back(cat("worker-", i));
  seats_.resize(names_.size());
}

TaskHub::~TaskHub() = default;

void TaskHub::listen() {
  door_ = std::make_unique<Door>(*this);
  Door& door = *door_;
  wire::ServerOptions server;
  server.lease = server.max_lease = options_.lease;
  // Room for two messages a ring, the states of environments included.
  const auto message = static_cast<size_t>(options_.message_bytes);
  server.shared_bytes = std::clamp<size_t>(3 * message + (1 << 20), 1 << 20, size_t{1} << 30);
  server.socket.limits.bytes = std::max(server.socket.limits.bytes, 4 * message);
  server.socket.limits.header_bytes = size_t{16} << 20;
  door.server = std::make_unique<wire::Server>(door, server);
  door.address = door.server->bind(cat("ipc://@bessemer-", getpid(), '-', random_word()));
  door.thread = std::thread([&door] {
    trace::name_thread("hub");
    door.server->run();
  });
}

void TaskHub::close() {
  door_->server->stop();
  door_->thread.join();
  {  // what came last may wait still, and nothing is answered any more
    const std::lock_guard lock(mutex_);
    door_->waiting.clear();
    for (Seat& seat : seats_) seat.open_pull = 0;
  }
  door_->server.reset();
}

const std::string& TaskHub::address() const { return door_->address; }

void TaskHub::lost(const std::string& name, int64_t pid) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(names_, name);
  if (found == names_.end()) return;
  const auto worker = static_cast<size_t>(found - names_.begin());
  const Seat& seat = seats_[worker];
  if (seat.session.empty()) return;
  if (pid != 0 && pid != seat.pid) return;  // its replacement is here already
  door_->server->post([this, worker, session = seat.session] {
    const std::lock_guard polling(mutex_);
    if (seats_[worker].session != session) return;
    door_->leave(worker);
    door_->hand_out();
  });
}

void TaskHub::abandon(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  abandoned_ = reason;
  changed_.notify_all();
}

void TaskHub::stop() {
  const std::lock_guard lock(mutex_);
  door_->stopping = true;
  wake();
}

std::vector<WorkerStatus> TaskHub::status() const {
  const std::lock_guard lock(mutex_);
  std::vector<WorkerStatus> out;
  for (size_t i = 0; i < seats_.size(); ++i) {
    const Seat& seat = seats_[i];
    WorkerStatus one;
    one.name = names_[i];
    one.pid = seat.session.empty() ? 0 : seat.pid;
    one.state = seat.session.empty() ? WorkerStatus::State::absent
                : seat.busy          ? WorkerStatus::State::collecting
                                     : WorkerStatus::State::waiting;
    one.steps = seat.steps;
    one.steps_per_second = seat.rate;
    one.version = seat.task_version;
    one.done = seat.done;
    one.queued = seat.queued;
    one.restarts = std::max<int64_t>(0, seat.sessions - 1);
    out.push_back(std::move(one));
  }
  return out;
}

void TaskHub::raise() {
  if (!failure_) throw IoError(abandoned_);
  const Failure what = *std::exchange(failure_, std::nullopt);
  if (what.kind == "not_finite") throw NotFiniteError(what.text);
  if (what.kind == "value") throw ValueError(what.text);
  if (what.kind == "type") throw TypeError(what.text);
  if (what.kind == "io") throw IoError(what.text);
  throw Error(what.text);
}

void TaskHub::wake() {
  door_->server->post([this] {
    const std::lock_guard lock(mutex_);
    door_->hand_out();
  });
}

void TaskHub::forget_tasks() {
  for (Seat& seat : seats_) {
    seat.busy = false;
    seat.queued = 0;
  }
}

}  // namespace bessemer
