// Child processes: started without leaking descriptors, watched through a pidfd, always reaped, and
// killed by the kernel when this process dies.
//
// One keeper thread, which lives as long as the process, starts every child and reads its captured
// output. It has to be one and lasting: PR_SET_PDEATHSIG fires when the *thread* that forked ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace bessemer {

/// How a child ended: an exit code, or the signal that killed it.
struct ChildStatus {
  int exit_code = -1;
  int signal = 0;
  bool ok() const { return exit_code == 0; }
  /// "exit code 3", "signal 9 (Killed)".
  std::string text() const;
};

/// Captured output: at most the last `limit` bytes; `dropped` counts what was let go before them.
struct ChildOutput {
  std::string text;
  uint64_t dropped = 0;
};

struct ChildOptions {
  enum class Stream : uint8_t { inherit, null, capture };

  std::vector<std::string> args;                         // args[0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> env;  // added to this process's, or replacing
  std::string cwd;                                       // empty: this process's
  Stream output = Stream::capture;                       // stdout
  Stream errors = Stream::capture;                       // stderr
  size_t capture_limit = size_t{1} << 20;                // bytes kept of each stream
  std::vector<int> pass_fds;                             // become 3, 4, ... in the child
  /// Called on the keeper thread with every piece read; must be short and must not throw.
  std::function<void(bool is_error, std::string_view piece)> on_output;
};

/// A started process and its process group. Moves; the destructor kills and reaps.
class Child {
 public:
  Child() = default;
  /// Throws IoError naming the program and the system's reason when it cannot be started.
  static Child spawn(const ChildOptions& options);
  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) noexcept;
  ~Child();

  explicit operator bool() const { return state_ != nullptr; }
  int pid() const;
  /// Readable (poll, epoll) once the process has ended. Owned by this object.
  int pidfd() const;
  bool running();

  /// Waits until the process ends or `seconds` passed (negative: for ever); nothing in the second
  /// case. What is left of its process group is killed before it is reaped.
  std::optional<ChildStatus> wait(double seconds = -1);
  void signal(int number);
  /// SIGTERM, `grace` seconds, then SIGKILL to the whole group; reaps.
  ChildStatus stop(double grace = 1);
  /// SIGKILL to the whole group; reaps.
  ChildStatus kill();

  ChildOutput output() const;
  ChildOutput errors() const;

 private:
  struct State;
  friend struct ChildKeeper;
  std::shared_ptr<State> state_;
};

struct ChildResult {
  ChildStatus status;
  bool timed_out = false;
  ChildOutput output, errors;
};
/// Runs to the end or to the deadline in seconds (then killed, `timed_out`).
ChildResult run_child(const ChildOptions& options, double deadline);

}  // namespace bessemer
