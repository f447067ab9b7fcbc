#include "forge/launcher.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <span>

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

/// Events on their way to `watch`: filled by the thread that reads the children's output.
class Queue {
 public:
  Queue() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    BESSEMER_CHECK(wake_ >= 0, IoError, "[launcher] eventfd: ", std::strerror(errno));
  }
  ~Queue() { close(wake_); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  int fd() const { return wake_; }
  void wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
  }
  void line(ProcessId process, std::string text) {
    std::lock_guard lock(mutex_);
    if (bytes_ + text.size() > LocalLauncher::kMostPending) {
      ++lost_[process];
      return;
    }
    note_lost(process);
    bytes_ += text.size();
    push({LaunchEvent::Kind::line, process, std::move(text), {}});
  }
  void exit(ProcessId process, const ChildStatus& status) {
    std::lock_guard lock(mutex_);
    note_lost(process);
    push({LaunchEvent::Kind::exit, process, {}, status});
  }
  std::vector<LaunchEvent> take() {
    std::lock_guard lock(mutex_);
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof count);
    bytes_ = 0;
    return std::exchange(events_, {});
  }

 private:
  void push(LaunchEvent event) {
    events_.push_back(std::move(event));
    if (events_.size() == 1) wake();
  }
  void note_lost(ProcessId process) {
    const auto found = lost_.find(process);
    if (found == lost_.end()) return;
    push({LaunchEvent::Kind::line, process, cat("[", found->second, " lines were lost]"), {}});
    lost_.erase(found);
  }

  std::mutex mutex_;
  std::vector<LaunchEvent> events_;
  std::map<ProcessId, int64_t> lost_;
  size_t bytes_ = 0;
  int wake_;
};

/// Cuts one stream into lines.
class Lines {
 public:
  template <class Emit>
  void add(std::string_view piece, const Emit& emit) {
    while (!piece.empty()) {
      const size_t end = piece.find('\n');
      partial_ += piece.substr(0, end);
      piece.remove_prefix(end == std::string_view::npos ? piece.size() : end + 1);
      while (partial_.size() > LocalLauncher::kLongestLine) {
        emit(partial_.substr(0, LocalLauncher::kLongestLine));
        partial_.erase(0, LocalLauncher::kLongestLine);
      }
      if (end != std::string_view::npos) emit(std::exchange(partial_, {}));
    }
  }
  template <class Emit>
  void finish(const Emit& emit) {
    if (!partial_.empty()) emit(std::exchange(partial_, {}));
  }

 private:
  std::string partial_;
};

struct Process {
  ProcessId id = 0;
  ReservationId reservation = 0;
  std::mutex mutex;  // guards the two below
  Lines lines[2];
  bool ended = false;  // whatever escaped the group and still writes is no longer heard
  Child child;         // last: its destructor ends the calls that fill the lines
};

}  // namespace

struct LocalLauncher::Impl {
  int64_t places;
  int64_t reserved = 0;
  ReservationId last_reservation = 0;
  ProcessId last_process = 0;
  std::map<ReservationId, Resources> reservations;
  std::map<ProcessId, std::shared_ptr<Process>> running;
  Queue queue;
  mutable std::mutex mutex;  // guards all but the queue

  /// Removes a process that ended; its place is free. Called with the lock held.
  void reap(const std::shared_ptr<Process>& process) {
    if (!running.contains(process->id)) return;  // another thread was here first
    const auto status = process->child.wait(0);
    if (!status) return;
    {
      std::lock_guard lock(process->mutex);
      const auto emit = [&](std::string text) { queue.line(process->id, std::move(text)); };
      for (Lines& lines : process->lines) lines.finish(emit);
      process->ended = true;
    }
    queue.exit(process->id, *status);
    running.erase(process->id);
  }

  void reap_ended(std::span<const std::shared_ptr<Process>> processes) {
    std::lock_guard lock(mutex);
    for (const auto& process : processes) reap(process);
  }

  /// Waits until one of them ended or the queue has something; no lock is held meanwhile.
  void wait(std::span<const std::shared_ptr<Process>> processes, bool with_queue, double seconds) {
    std::vector<pollfd> fds;
    if (with_queue) fds.push_back({queue.fd(), POLLIN, 0});
    for (const auto& process : processes) fds.push_back({process->child.pidfd(), POLLIN, 0});
    poll(fds.data(), fds.size(), static_cast<int>(std::clamp(seconds * 1e3 + 0.999, 0.0, 1e9)));
  }

  void end(const std::vector<std::shared_ptr<Process>>& processes, double grace) {
    const auto left = [&] {
      std::vector<std::shared_ptr<Process>> out;
      std::lock_guard lock(mutex);
      for (const auto& process : processes) {
        reap(process);
        if (running.contains(process->id)) out.push_back(process);
      }
      return out;
    };
    const auto end = Clock::now() + std::chrono::duration<double>(grace);
    if (grace > 0) {
      std::lock_guard lock(mutex);
      for (const auto& process : processes) process->child.signal(SIGTERM);
    }
    for (auto waiting = left(); !waiting.empty(); waiting = left()) {
      const double seconds = std::chrono::duration<double>(end - Clock::now()).count();
      if (seconds <= 0) {
        std::lock_guard lock(mutex);
        for (const auto& process : waiting) {
          if (running.contains(process->id)) process->child.kill();
        }
      } else {
        wait(waiting, false, seconds);
      }
    }
  }
};

LocalLauncher::LocalLauncher(int64_t places) : impl_(std::make_unique<Impl>()) {
  impl_->places = places;
}

LocalLauncher::~LocalLauncher() {
  std::vector<std::shared_ptr<Process>> all;
  for (const auto& [id, process] : impl_->running) all.push_back(process);
  impl_->end(all, 0);
}

ReservationId LocalLauncher::reserve(const Resources& resources) {
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  BESSEMER_CHECK(resources.places >= 1, ValueError, "[launcher] ", resources.places,
                 " places asked for, expected at least 1");
  BESSEMER_CHECK(resources.places <= impl.places - impl.reserved, ValueError, "[launcher] ",
                 resources.places, " places asked for, ", impl.places - impl.reserved, " of ",
                 impl.places, " are free");
  impl.reserved += resources.places;
  impl.reservations[++impl.last_reservation] = resources;
  return impl.last_reservation;
}

ProcessId LocalLauncher::start(ReservationId reservation, const LaunchCommand& command) {
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  const auto found = impl.reservations.find(reservation);
  BESSEMER_CHECK(found != impl.reservations.end(), ValueError, "[launcher] ", command.name,
                 ": there is no reservation ", reservation);
  const auto taken = std::ranges::count_if(
      impl.running, [&](const auto& entry) { return entry.second->reservation == reservation; });
  BESSEMER_CHECK(taken < found->second.places, ValueError, "[launcher] ", command.name, ": all ",
                 found->second.places, " places of the reservation are taken");
  auto process = std::make_shared<Process>();
  process->id = impl.last_process + 1;
  process->reservation = reservation;
  ChildOptions options;
  options.args = command.args;
  options.env = command.env;
  options.capture_limit = 0;
  options.on_output = [&impl, raw = process.get()](bool is_error, std::string_view piece) {
    std::lock_guard lock(raw->mutex);
    if (raw->ended) return;
    raw->lines[is_error].add(piece,
                             [&](std::string text) { impl.queue.line(raw->id, std::move(text)); });
  };
  process->child = Child::spawn(options);
  impl.running[++impl.last_process] = process;
  impl.queue.wake();  // a watch that waits has one more to watch
  return process->id;
}

std::vector<LaunchEvent> LocalLauncher::watch(double seconds) {
  Impl& impl = *impl_;
  std::vector<std::shared_ptr<Process>> processes;
  {
    std::lock_guard lock(impl.mutex);
    for (const auto& [id, process] : impl.running) processes.push_back(process);
  }
  impl.wait(processes, true, seconds);
  impl.reap_ended(processes);
  return impl.queue.take();
}

void LocalLauncher::wake() { impl_->queue.wake(); }

void LocalLauncher::release(ProcessId process, double grace) {
  std::vector<std::shared_ptr<Process>> chosen;
  {
    std::lock_guard lock(impl_->mutex);
    const auto found = impl_->running.find(process);
    if (found != impl_->running.end()) chosen.push_back(found->second);
  }
  impl_->end(chosen, grace);
}

void LocalLauncher::release(std::span<const ReservationId> reservations, double grace) {
  Impl& impl = *impl_;
  std::vector<std::shared_ptr<Process>> chosen;
  {
    std::lock_guard lock(impl.mutex);
    for (const ReservationId id : reservations) {
      BESSEMER_CHECK(impl.reservations.contains(id), ValueError,
                     "[launcher] there is no reservation ", id);
    }
    for (const ReservationId id : reservations) {
      const auto found = impl.reservations.find(id);
      if (found == impl.reservations.end()) continue;  // named twice
      impl.reserved -= found->second.places;
      impl.reservations.erase(found);  // nothing can be started in it from here on
    }
    for (const auto& [id, process] : impl.running) {
      if (std::ranges::count(reservations, process->reservation)) chosen.push_back(process);
    }
  }
  impl.end(chosen, grace);
}

std::optional<int> LocalLauncher::pid(ProcessId process) const {
  std::lock_guard lock(impl_->mutex);
  const auto found = impl_->running.find(process);
  if (found == impl_->running.end()) return std::nullopt;
  return found->second->child.pid();
}

}  // namespace bessemer
