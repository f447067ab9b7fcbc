// What a run has beside this process, as the runner sees it: nothing, or a server of its own,
// workers, and the controller that keeps them alive (forge/processes.h).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/base/metrics.h"
#include "forge/config.h"
#include "forge/run_folder.h"
#include "rollout/source.h"

namespace bessemer {

class Placement {
 public:
  /// Every process that it started is gone afterwards.
  virtual ~Placement() = default;
  /// Where the algorithm's experience comes from.
  virtual SourceFactory sources() { return {}; }
  /// Adds what workers did, as "workers/...".
  virtual void report(Metrics&) const {}
  /// Why the processes cannot go on, with the last lines of the one that failed; empty while they
  /// can.
  virtual std::string failure() const { return {}; }
};

/// Starts what a recipe's placement asks for and points `recipe` to it (env.address). The folder
/// exists. Throws ValueError for what this build or program cannot start, IoError when it does not
/// come up.
using PlacementFactory =
    std::function<std::unique_ptr<Placement>(Recipe& recipe, const RunFolder& folder)>;

/// True where a recipe asks for other processes.
inline bool needs_processes(const Recipe& recipe) {
  return recipe.run.placement.mode != "inline" || recipe.run.placement.server;
}

}  // namespace bessemer
