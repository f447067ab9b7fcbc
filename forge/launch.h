// A Runner of the house: the trainer's algorithms, and films drawn by envs/render.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "forge/runner.h"

namespace bessemer {

/// `announce`: progress and what happens, on stderr. `program`: how other processes of a run are
/// started (forge/processes.h).
Runner default_runner(bool announce, std::vector<std::string> program = {});

/// The trained policy of a run folder or checkpoint: enough to judge it and to watch it.
struct TrainedPolicy {
  Recipe recipe;
  int64_t step = 0;
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Algorithm> algorithm;
};
/// `overrides` change what it is judged by: keys of env, eval and placement, rollout.max_tokens.
/// Throws ValueError for a folder without a checkpoint, a damaged, foreign or newer one, and where
/// something that the evaluation needs is gone.
TrainedPolicy load_trained_policy(const std::string& path,
                                  std::span<const std::string> overrides = {});

}  // namespace bessemer
