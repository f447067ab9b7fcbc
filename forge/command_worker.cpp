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
#ifdef BESSEMER_HAS_TEXT
#include "autograd/nn/decoder_io.h"
#include "rollout/episode_worker.h"
#endif

namespace bessemer {

namespace {

/// Environments, policy and sampler of the rows from `first_row` on.
WorkerParts build_sampler(const RunConfig& config, int64_t first_row, int64_t rows) {
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

#ifdef BESSEMER_HAS_TEXT
/// The decoder as the run has it, and the task's environments.
std::unique_ptr<TaskWorker> build_player(const RunConfig& config, const wire::Map& welcome) {
  EpisodeWorkerParts parts;
  parts.pool = std::make_unique<ThreadPool>(static_cast<int>(config.worker_threads()));
  parts.tokenizer = std::make_unique<Tokenizer>(
      Tokenizer::parse(welcome.text("tokenizer"), "the run's tokenizer.json"));
  nn::DecoderConfig shape =
      nn::parse_decoder_config(welcome.text("decoder"), "the run's config.json");
  shape.compute = dtype_parse(welcome.text("compute"));
  parts.decoder = std::make_unique<nn::Decoder>(shape, 0);
  const Spec spec = registry_factory(config.env)(BatchOptions{})->spec();
  parts.make_envs = split_factory(config.env, spec, "train");
  parts.generator.seed = static_cast<uint64_t>(config.seed);
  return episode_worker(std::move(parts));
}
#endif

std::unique_ptr<TaskWorker> build_worker(const wire::Map& welcome) {
  const RunConfig config = load_recipe_text(welcome.text("setup"), "the run's recipe", {}).run;
#ifdef BESSEMER_HAS_TEXT
  if (config.uses() & kUsesLanguage) return build_player(config, welcome);
#endif
  const auto build = [&](const std::string&, int64_t first_row, int64_t rows) {
    return build_sampler(config, first_row, rows);
  };
  return collecting(build)(welcome);
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
  const WorkerEnd end = run_tasks(arguments.positional[0], arguments.positional[1],
                                  secret ? secret : "", build_worker);
  trace::stop();
  if (end == WorkerEnd::stopped) return kExitOk;
  std::fputs("the run no longer knows this worker\n", stderr);
  return kExitFailure;
}

}  // namespace bessemer
