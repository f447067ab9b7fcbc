#include "forge/controller.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <thread>

#include "core/base/error.h"
#include "forge/actor_log.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

constexpr std::string_view kOwnLog = "controller";
constexpr double kLongestBackoff = 0.8;

struct Actor {
  ActorSpec spec;
  ActorStatus status;
  std::unique_ptr<ActorLog> log;
  ReservationId reservation = 0;
  ProcessId process = 0;  // 0: none
  int64_t in_row = 0;     // restarts since it last was steady
  Clock::time_point started, due;
};

}  // namespace

std::string_view actor_state_name(ActorState state) {
  constexpr std::string_view names[] = {"running", "restarting", "finished", "failed"};
  return names[static_cast<int>(state)];
}

struct Controller::Impl {
  Launcher& launcher;
  ControllerOptions options;
  ControllerEvents events;
  mutable std::mutex mutex;  // guards what follows
  std::vector<std::unique_ptr<Actor>> actors;
  std::unique_ptr<ActorLog> own_log;
  std::string failure;
  bool stopping = false;
  std::vector<std::function<void()>> calls;  // to be made without the lock
  std::atomic<bool> over{false};
  std::thread thread;

  Impl(Launcher& launcher_, ControllerOptions options_, ControllerEvents events_)
      : launcher(launcher_), options(std::move(options_)), events(std::move(events_)) {
    if (!options.logs.empty()) {
      std::error_code error;
      std::filesystem::create_directories(options.logs, error);
      BESSEMER_CHECK(!error, IoError, "cannot make the folder ", options.logs, ": ",
                     error.message());
    }
    own_log = std::make_unique<ActorLog>(std::string(kOwnLog), log_path(kOwnLog), 0);
    thread = std::thread([this] { loop(); });
  }

  std::string log_path(std::string_view name) const {
    return options.logs.empty() ? "" : cat(options.logs, "/", name, ".log");
  }

  Actor* find(const std::string& name) const {
    for (const auto& actor : actors) {
      if (actor->spec.name == name) return actor.get();
    }
    return nullptr;
  }
  Actor& known(const std::string& name) const {
    Actor* actor = find(name);
    BESSEMER_CHECK(actor, ValueError, "[controller] there is no actor '", name, "'");
    return *actor;
  }

  void start(Actor& actor) {
    actor.process =
        launcher.start(actor.reservation, {actor.spec.name, actor.spec.args, actor.spec.env});
    actor.started = Clock::now();
    actor.status.state = ActorState::running;
    actor.status.pid = launcher.pid(actor.process);
    own_log->add(cat(actor.spec.name, actor.status.restarts ? " started again" : " started",
                     ", pid ", actor.status.pid.value_or(0)));
    if (!events.on_start) return;
    calls.push_back([this, name = actor.spec.name, pid = actor.status.pid.value_or(0),
                     restarts = actor.status.restarts] { events.on_start(name, pid, restarts); });
  }

  void ended(Actor& actor, const ChildStatus& status) {
    actor.process = 0;
    actor.status.pid.reset();
    actor.status.last_exit = status;
    own_log->add(cat(actor.spec.name, " ended: ", status.text()));
    if (events.on_exit) {
      calls.push_back([this, name = actor.spec.name, status] { events.on_exit(name, status); });
    }
    decide(actor, cat("ended with ", status.text()), status.ok());
  }

  /// What follows an end. `text` says what happened.
  void decide(Actor& actor, const std::string& text, bool ok) {
    const auto now = Clock::now();
    const ActorSpec& spec = actor.spec;
    if (stopping || (ok && spec.restart != Restart::always)) {
      actor.status.state = ActorState::finished;
      return;
    }
    if (now - actor.started >= seconds(options.steady)) actor.in_row = 0;
    if (spec.restart == Restart::never || actor.in_row >= spec.restarts) {
      give_up(actor, text);
      return;
    }
    const double pause =
        actor.in_row == 0
            ? 0
            : std::min(std::ldexp(options.backoff, static_cast<int>(actor.in_row - 1)),
                       kLongestBackoff);
    ++actor.in_row;
    actor.status.state = ActorState::restarting;
    actor.due = now + seconds(pause);
  }

  void give_up(Actor& actor, const std::string& text) {
    actor.status.state = ActorState::failed;
    std::string reason = cat(actor.spec.name, " ", text);
    if (actor.in_row > 0) reason += cat(", after ", actor.in_row, " restarts in a row");
    own_log->add(reason);
    const std::string lines = actor.log->tail();
    if (lines.empty()) {
      reason += "; it wrote nothing";
    } else {
      reason += cat("; its last lines",
                    actor.log->path().empty() ? "" : cat(" (", actor.log->path(), ")"), ":\n",
                    lines.substr(0, lines.size() - 1));
    }
    if (failure.empty()) failure = reason;
    if (events.on_failure) {
      calls.push_back([this, name = actor.spec.name, reason] { events.on_failure(name, reason); });
    }
  }

  void restart_due() {
    const auto now = Clock::now();
    for (const auto& actor : actors) {
      if (stopping || actor->status.state != ActorState::restarting || actor->due > now) continue;
      ++actor->status.restarts;
      try {
        start(*actor);
      } catch (const Error& error) {
        actor->started = now;
        decide(*actor, cat("cannot be started: ", error.what()), false);
      }
    }
  }

  /// Until something has to be done without an event.
  double idle() const {
    const auto now = Clock::now();
    auto next = now + std::chrono::hours(1);
    for (const auto& actor : actors) {
      if (actor->status.state == ActorState::restarting) next = std::min(next, actor->due);
    }
    return std::chrono::duration<double>(next - now).count();
  }

  void handle(const LaunchEvent& event) {
    for (const auto& actor : actors) {
      if (actor->process != event.process) continue;
      if (event.kind == LaunchEvent::Kind::line) {
        actor->log->add(event.text);
      } else {
        ended(*actor, event.status);
      }
      return;
    }
  }

  void loop() {
    for (bool last = false; !last;) {
      last = over;  // one more round, so that the last lines and ends are seen
      double pause = 0;
      {
        std::lock_guard lock(mutex);
        if (!last) pause = idle();
      }
      const std::vector<LaunchEvent> seen = launcher.watch(pause);
      {
        std::lock_guard lock(mutex);
        for (const LaunchEvent& event : seen) handle(event);
        restart_due();
      }
      call();
    }
  }

  void call() {
    std::vector<std::function<void()>> now;
    {
      std::lock_guard lock(mutex);
      now.swap(calls);
    }
    for (const auto& function : now) function();
  }
};

Controller::Controller(Launcher& launcher, ControllerOptions options, ControllerEvents events)
    : impl_(std::make_unique<Impl>(launcher, std::move(options), std::move(events))) {}

Controller::~Controller() { stop_all(0); }

void Controller::add(ActorSpec spec) {
  Impl& impl = *impl_;
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '-' || c == '.';
  };
  BESSEMER_CHECK(!spec.name.empty() && spec.name[0] != '.' && std::ranges::all_of(spec.name, plain),
                 ValueError, "[controller] an actor cannot be called '", spec.name, "'");
  {
    std::lock_guard lock(impl.mutex);
    BESSEMER_CHECK(!impl.stopping, ValueError, "[controller] ", spec.name,
                   " comes after everything was stopped");
    BESSEMER_CHECK(!impl.find(spec.name) && spec.name != kOwnLog, ValueError,
                   "[controller] there is an actor '", spec.name, "' already");
    auto actor = std::make_unique<Actor>();
    actor->log =
        std::make_unique<ActorLog>(spec.name, impl.log_path(spec.name), impl.options.tail_lines);
    actor->status.name = spec.name;
    actor->spec = std::move(spec);
    actor->reservation = impl.launcher.reserve({1});
    try {
      impl.start(*actor);
    } catch (...) {
      impl.launcher.release(std::span(&actor->reservation, 1), 0);
      throw;
    }
    impl.actors.push_back(std::move(actor));
  }
  impl.launcher.wake();  // its on_start is waiting
}

void Controller::kill(const std::string& name, int64_t pid, const std::string& reason) {
  ProcessId process = 0;
  {
    std::lock_guard lock(impl_->mutex);
    Actor& actor = impl_->known(name);
    process = actor.process;
    if (process == 0 || actor.status.pid != pid) return;
    impl_->own_log->add(cat(name, " is killed: ", reason));
    actor.log->add(cat("[", reason, ": killed]"));
  }
  impl_->launcher.release(process, 0);
}

void Controller::stop_all(double grace) {
  Impl& impl = *impl_;
  if (!impl.thread.joinable()) return;
  std::vector<ReservationId> reservations;
  {
    std::lock_guard lock(impl.mutex);
    impl.stopping = true;
    for (const auto& actor : impl.actors) {
      reservations.push_back(actor->reservation);
      if (actor->status.state == ActorState::restarting) {
        actor->status.state = ActorState::finished;
      }
    }
  }
  impl.launcher.release(reservations, grace);
  impl.over = true;
  impl.launcher.wake();
  impl.thread.join();
}

std::vector<ActorStatus> Controller::status() const {
  std::lock_guard lock(impl_->mutex);
  std::vector<ActorStatus> out;
  for (const auto& actor : impl_->actors) out.push_back(actor->status);
  return out;
}

std::string Controller::tail(const std::string& name) const {
  std::lock_guard lock(impl_->mutex);
  return impl_->known(name).log->tail();
}

std::string Controller::failure() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->failure;
}

void Controller::check() const {
  const std::string text = failure();
  if (!text.empty()) fail<Error>(text);
}

void Controller::note(const std::string& text) {
  std::lock_guard lock(impl_->mutex);
  impl_->own_log->add(text);
}

}  // namespace bessemer
