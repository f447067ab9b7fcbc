// The loop of a worker: pull a task, take in weights, collect, push what came out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "rollout/sampler.h"

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

/// How a worker ended: it was told to stop, or nobody is there to work for.
enum class WorkerEnd : uint8_t { stopped, orphaned };

/// Works for the hub at `address` under `name` until it ends. Throws WireError when the hub refuses
/// it, and what a task threw that the hub cannot be told.
WorkerEnd run_worker(const std::string& address, const std::string& name, const std::string& secret,
                     const WorkerFactory& factory);

}  // namespace bessemer
