// The processes of one run on this machine: a server for its environments, workers, and one
// controller that watches them.
#pragma once

#include <string>
#include <vector>

#include "forge/controller.h"
#include "forge/placement.h"

namespace bessemer {

/// Environment variable that admits a worker to its run.
inline constexpr const char* kWorkerSecret = "BESSEMER_WORKER_SECRET";

/// A Placement of child processes that run this program's commands. `program` is how to start it,
/// as {"/proc/self/exe"}; empty: $BESSEMER_PROGRAM, or `bessemer` in PATH.
PlacementFactory local_placement(std::vector<std::string> program);

}  // namespace bessemer
