// One controller of a run: it starts the run's other processes by name, keeps a log of each, sees
// their deaths at once, starts them again as their policy says, and takes all of them with it when
// it goes. Who hangs is seen by those who wait for it (rollout/task_hub.h), and ended here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/child.h"
#include "forge/launcher.h"

namespace bessemer {

/// When an actor that ended is started again.
enum class Restart : uint8_t {
  never,
  failure,  // any end but exit code 0
  always,   // a server: it is not meant to end
};

struct ActorSpec {
  std::string name;                                      // also of its log: [A-Za-z0-9_.-]+
  std::vector<std::string> args;                         // args[0] is looked up in PATH
  std::vector<std::pair<std::string, std::string>> env;  // added to this process's, or replacing
  Restart restart = Restart::failure;
  /// Most restarts in a row; an actor that ran for `ControllerOptions::steady` begins anew.
  int64_t restarts = 3;
};

enum class ActorState : uint8_t {
  running,
  restarting,  // dead, and started again in a moment
  finished,    // ended as it should
  failed,      // ended for good: no restart is left
};
std::string_view actor_state_name(ActorState state);

struct ActorStatus {
  std::string name;
  ActorState state = ActorState::running;
  std::optional<int> pid;  // while it runs
  int64_t restarts = 0;    // since the beginning
  ChildStatus last_exit;   // of the last end, if any
};

struct ControllerOptions {
  std::string logs;        // folder, made when missing; empty: no log files
  double backoff = 0.1;    // seconds before the second restart in a row; doubles, at most 0.8; the
                           // first one is at once
  double steady = 60;      // seconds of life after which restarts are counted from 0 again
  size_t tail_lines = 20;  // kept of each actor for error messages
};

/// Callbacks run on the controller's thread, one at a time, without its lock: they may call it, but
/// must neither block nor throw, nor stop or destroy it.
struct ControllerEvents {
  /// It ended in whatever way, the controller's own doing included.
  std::function<void(const std::string& name, const ChildStatus& status)> on_exit;
  /// It runs (again); `restarts` since the beginning.
  std::function<void(const std::string& name, int pid, int64_t restarts)> on_start;
  /// It ended for good although it should not have. `text` says how, with the tail of its log.
  std::function<void(const std::string& name, const std::string& text)> on_failure;
};

class Controller {
 public:
  /// `launcher` outlives the controller. Throws IoError where the log folder cannot be made.
  Controller(Launcher& launcher, ControllerOptions options, ControllerEvents events = {});
  /// stop_all(0).
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  /// Starts an actor. Throws ValueError for a name that is taken or cannot name a file, IoError
  /// where the program cannot be started.
  void add(ActorSpec spec);
  /// Ends a hung actor as if it had crashed (SIGKILL); its policy decides what follows. Nothing
  /// happens where process `pid` has ended meanwhile: what runs now is its replacement.
  void kill(const std::string& name, int64_t pid, const std::string& reason);
  /// Ends every actor (SIGTERM, `grace` seconds, SIGKILL) and restarts none. Nothing runs
  /// afterwards, and nothing can be added.
  void stop_all(double grace);

  std::vector<ActorStatus> status() const;
  /// The last lines that an actor wrote, newest last.
  std::string tail(const std::string& name) const;
  /// What on_failure said first; empty while every actor does as it should.
  std::string failure() const;
  /// Throws Error with failure(), unless that is empty.
  void check() const;
  /// Adds a line of the controller's own to logs/controller.log.
  void note(const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer
