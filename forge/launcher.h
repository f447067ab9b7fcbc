// Where a run's processes live. Four verbs, whoever carries them out: reserve places, start a
// program in one, watch what happens to all of them, release them again. Restart policy is the
// controller's (forge/controller.h); tests/forge/launcher_conformance.h holds any Launcher against
// what is said here.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/child.h"

namespace bessemer {

using ReservationId = uint64_t;
using ProcessId = uint64_t;  // of a launcher; never used twice

/// What is set aside together, or not at all.
struct Resources {
  int64_t places = 1;  // processes that may run at the same time
};

struct LaunchCommand {
  std::string name;                                      // for errors
  std::vector<std::string> args;                         // args[0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> env;  // added to this process's, or replacing
};

/// What happened to a process: a line that it wrote (both streams, without the newline), or its
/// end, which comes after its last line.
struct LaunchEvent {
  enum class Kind : uint8_t { line, exit };
  Kind kind = Kind::line;
  ProcessId process = 0;
  std::string text;    // of a line
  ChildStatus status;  // of an exit
};

class Launcher {
 public:
  /// Everything that still runs is killed and reaped.
  virtual ~Launcher() = default;

  /// Throws ValueError when so much is not free.
  virtual ReservationId reserve(const Resources& resources) = 0;
  /// Throws ValueError for an unknown reservation or one whose places are all taken, IoError naming
  /// the program and the system's reason when it cannot be started.
  virtual ProcessId start(ReservationId reservation, const LaunchCommand& command) = 0;
  /// What happened since the last call, in order for each process; waits up to `seconds` for the
  /// first event, and may return without one before that. An end is seen without polling. Called by
  /// one thread at a time.
  virtual std::vector<LaunchEvent> watch(double seconds) = 0;
  /// Makes a `watch` that waits return.
  virtual void wake() = 0;
  /// Ends one process with all it started (SIGTERM, `grace` seconds, then SIGKILL) and waits for
  /// its end, which `watch` reports; its place is free again. One that ended already is left alone.
  virtual void release(ProcessId process, double grace) = 0;
  /// Ends all processes of the reservations at the same time and gives their places back. Throws
  /// ValueError for an unknown one before anything is done.
  virtual void release(std::span<const ReservationId> reservations, double grace) = 0;

  /// The system's number of a process that runs; none once it ended. (No -1: kill(-1) is everyone.)
  virtual std::optional<int> pid(ProcessId process) const = 0;
};

/// Processes of this machine, killed by the kernel when this process dies.
class LocalLauncher final : public Launcher {
 public:
  explicit LocalLauncher(int64_t places = 1024);
  ~LocalLauncher() override;

  ReservationId reserve(const Resources& resources) override;
  ProcessId start(ReservationId reservation, const LaunchCommand& command) override;
  std::vector<LaunchEvent> watch(double seconds) override;
  void wake() override;
  void release(ProcessId process, double grace) override;
  void release(std::span<const ReservationId> reservations, double grace) override;
  std::optional<int> pid(ProcessId process) const override;

  /// Longest line; a longer one is reported in pieces.
  static constexpr size_t kLongestLine = size_t{1} << 16;
  /// Lines that nobody watches are held up to so many bytes; a line then says how many were lost.
  static constexpr size_t kMostPending = size_t{4} << 20;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer
