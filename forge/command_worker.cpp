// `worker`: what a run starts in processes of its own (forge/processes.h); people have no use for
// it.
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "core/base/trace.h"
#include "forge/commands.h"
#include "forge/config.h"
#include "forge/processes.h"
#include "rollout/worker.h"
#include "trainer/control.h"

namespace bessemer {

namespace {

/// Environments, policy and sampler of the rows from `first_row` on, from the resolved recipe.
WorkerParts build_worker(const std::string& recipe, int64_t first_row, int64_t rows) {
  const RunConfig config = load_recipe_text(recipe, "the run's recipe", {}).run;
  WorkerParts parts;
  const auto pool = std::make_shared<ThreadPool>(static_cast<int>(config.worker_threads()));
  parts.keep = pool;
  BatchOptions options;
  options.num_envs = rows;
  options.autoreset = Autoreset::same_step;
  options.pool = pool.get();
  std::unique_ptr<EnvBatch> envs = registry_factory(config.env, config.placement.lease)(options);
  parts.policy = make_policy(envs->spec(), config);
  parts.normalizer = make_normalizer(envs->spec(), config, rows);
  parts.sampler =
      make_sampler(std::move(envs), *parts.policy, *parts.normalizer, config, first_row);
  return parts;
}

}  // namespace

int command_worker(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 2, UsageError,
                 "an address and a name are needed; runs with placement.mode=processes start "
                 "their workers themselves");
  // The terminal's Ctrl-C reaches every process; the controller decides when workers end.
  std::signal(SIGINT, SIG_IGN);
  trace::start_from_environment();
  trace::name_thread("main");
  const char* secret = std::getenv(kWorkerSecret);
  const WorkerEnd end = run_worker(arguments.positional[0], arguments.positional[1],
                                   secret ? secret : "", build_worker);
  trace::stop();
  if (end == WorkerEnd::stopped) return kExitOk;
  std::fputs("the run no longer knows this worker\n", stderr);
  return kExitFailure;
}

}  // namespace bessemer
