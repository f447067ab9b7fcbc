// User code in processes of its own: python/bessemer/_host.py behind a socket. It may print, hang,
// leak or die; what happens is told as a reason, never as a crash here.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/child.h"
#include "core/wire/value.h"

namespace bessemer {

struct HostOptions {
  int64_t processes = 0;        // that share the instances; 0: as many as instances, at most
                                // twice the cores or 8
  double deadline = 30;         // seconds that a step, a reset or a call may take
  double start_deadline = 120;  // seconds to import the code and build the instances
  int64_t memory = 0;           // MiB that a process may allocate; 0: no limit
};

/// The Python to run user code with: what set_host_interpreter said, BESSEMER_PYTHON, the
/// virtual environment BESSEMER_VENV, or python3 in PATH. Throws IoError where there is none.
std::string host_interpreter();
void set_host_interpreter(std::string path);

/// The process is not there any more, or was ended; what() is the reason in words.
class HostGone : public Error {
 public:
  using Error::Error;
};

/// The user's code refused what it was asked; what() has its traceback.
class HostError : public Error {
 public:
  using Error::Error;
};

/// One process. Used by one thread at a time.
class HostProcess {
 public:
  using Clock = std::chrono::steady_clock;

  /// `target` is file.py:Name or module:Name, `kind` "env" or "function". Starts nothing.
  HostProcess(std::string target, std::string kind, const HostOptions& options);
  ~HostProcess();
  HostProcess(HostProcess&&) noexcept;
  HostProcess& operator=(HostProcess&&) = delete;

  /// Starts it, anew where it ran before, and asks it to load the target; the answer to that is the
  /// first frame. Throws IoError when there is no interpreter.
  void start();
  bool started() const { return channel_ >= 0; }

  /// Queues a frame; `flush` sends what is queued. Throws HostGone.
  void push(char letter, std::string_view payload);
  void flush();
  /// The next frame (letter and payload), or nothing when `end` passed. Throws HostGone when the
  /// process ended, and whatever wait_check throws.
  std::optional<std::string> receive(Clock::time_point end);
  /// The answer to what concerns the whole process. Throws HostGone (also when it takes longer),
  /// ValueError for a target or option that cannot be used, HostError for an exception.
  std::string answer(double seconds);

  /// Ends the process at once.
  void kill();
  /// Lets it close its environments, then ends it.
  void stop(double grace);
  const std::string& target() const { return target_; }

 private:
  [[noreturn]] void gone();
  std::string take_frame();

  std::string target_, kind_;
  HostOptions options_;
  Child child_;
  int channel_ = -1;
  std::string outgoing_, incoming_;
  size_t read_at_ = 0;
};

/// A deadline so many seconds from now.
HostProcess::Clock::time_point host_deadline(double seconds);

}  // namespace bessemer
