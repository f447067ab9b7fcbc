// Rewards that a Python function gives, in a process of its own: slow, wrong or dead ones cost a
// marked item, never a crash. The function has TRL's signature:
//     def reward(prompts, completions, **columns) -> list[float]
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "core/wire/value.h"
#include "envs/server/python_host.h"

namespace bessemer {

struct RewardOptions {
  double deadline = 30;         // seconds that a call may take
  int64_t processes = 1;        // among which a call's items are divided, in order
  double start_deadline = 120;  // seconds to import the code
  int64_t memory = 0;           // MiB that a process may allocate; 0: no limit
};

/// A score, or why there is none. A function that raises, hangs, dies or gives another number of
/// scores marks all items of its call; NaN, infinity and what is no number mark their own.
struct Score {
  double value = std::numeric_limits<double>::quiet_NaN();
  std::string fault;  // empty: `value` counts
  bool good() const { return fault.empty(); }
};

/// Used by one thread at a time.
class RewardHost {
 public:
  /// `spec` is py:file.py:function or py:module:function; it is loaded now. Throws ValueError when
  /// there is no such function, HostError when loading fails, IoError without an interpreter.
  explicit RewardHost(const std::string& spec, const RewardOptions& options = {});

  /// One score a completion. `prompts` and every list of `columns` (name -> list) have as many
  /// items as `completions`, texts or lists of messages. A process that ended is started again for
  /// the next call.
  std::vector<Score> score(const wire::List& prompts, const wire::List& completions,
                           const wire::Map& columns = {});
  std::vector<Score> score(const std::vector<std::string>& prompts,
                           const std::vector<std::string>& completions,
                           const wire::Map& columns = {});

 private:
  void start(HostProcess& process);
  RewardOptions options_;
  std::vector<HostProcess> processes_;
};

}  // namespace bessemer
