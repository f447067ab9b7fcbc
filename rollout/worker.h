// Workers of control: each collects rollouts of its rows for a hub (rollout/worker_hub.h).
#pragma once

#include "rollout/sampler.h"
#include "rollout/task_worker.h"

namespace bessemer {

/// What collects in a worker. Policy and normaliser are the sampler's, and hold what was published.
struct WorkerParts {
  std::shared_ptr<void> keep;  // what the environments stand on, as a thread pool
  std::unique_ptr<Policy> policy;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<Sampler> sampler;
};

/// Builds the rows [first_row, first_row + rows) of a run from the hub's setup.
using WorkerFactory =
    std::function<WorkerParts(const std::string& setup, int64_t first_row, int64_t rows)>;

/// What run_tasks() makes of such parts.
TaskWorkerFactory collecting(const WorkerFactory& factory);

inline WorkerEnd run_worker(const std::string& address, const std::string& name,
                            const std::string& secret, const WorkerFactory& factory) {
  return run_tasks(address, name, secret, collecting(factory));
}

}  // namespace bessemer
