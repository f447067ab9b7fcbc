#include "forge/processes.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "core/base/trace.h"
#include "envs/client/remote_batch.h"
#include "forge/interrupt.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

/// Seconds that a server has to come up.
constexpr double kStartPatience = 60;
/// Seconds that processes have to end by themselves.
constexpr double kGrace = 2;

/// An abstract socket address: nothing in the file system, gone with its owner.
std::string fresh_address(std::string_view what) {
  uint64_t word = 0;
  BESSEMER_CHECK(getrandom(&word, sizeof word, 0) == sizeof word, IoError, "[placement] getrandom");
  return cat("ipc://@bessemer-", what, "-", getpid(), "-", word);
}

std::vector<std::string> find_program(std::vector<std::string> program) {
  if (!program.empty()) return program;
  const char* named = std::getenv("BESSEMER_PROGRAM");
  return {named ? named : "bessemer"};
}

class LocalPlacement final : public Placement {
 public:
  LocalPlacement(std::vector<std::string> program, Recipe& recipe, const RunFolder& folder)
      : program_(find_program(std::move(program))),
        config_(recipe.run.placement),
        trace_(recipe.metrics.trace ? folder.spans().string() : ""),
        controller_(launcher_, controller_options(folder), {}) {
    if (config_.server) serve(recipe.run);
  }
  ~LocalPlacement() override { controller_.stop_all(kGrace); }

  std::string failure() const override { return controller_.failure(); }

 private:
  static ControllerOptions controller_options(const RunFolder& folder) {
    ControllerOptions options;
    options.logs = folder.logs().string();
    return options;
  }

  /// Starts `program words...` under the run's restart policy.
  void start_actor(const std::string& name, const std::vector<std::string>& words, Restart restart,
                   std::vector<std::pair<std::string, std::string>> env = {}) {
    ActorSpec spec;
    spec.name = name;
    spec.args = program_;
    spec.args.insert(spec.args.end(), words.begin(), words.end());
    spec.env = std::move(env);
    if (!trace_.empty()) spec.env.emplace_back(trace::kVariable, cat(trace_, ":", name));
    spec.restart = restart;
    spec.restarts = config_.restarts;
    controller_.add(std::move(spec));
  }

  /// The run's own server; returns once it answers.
  void serve(RunConfig& run) {
    BESSEMER_CHECK(!run.env.address, ValueError,
                   "placement.server: the environments run at env.address already");
    const std::string address = fresh_address("server");
    // Training, an evaluation's wave, and the slots of sessions that are being given up.
    const int64_t instances = std::max<int64_t>(4096, 4 * run.env.num);
    const int64_t threads =
        config_.threads > 0 ? config_.threads : std::max(1u, std::thread::hardware_concurrency());
    start_actor("server",
                {"env", "serve", run.env.id, "--bind", address, "--instances", cat(instances),
                 "--threads", cat(threads)},
                Restart::always);
    const auto end = Clock::now() + std::chrono::duration<double>(kStartPatience);
    for (;;) {
      try {
        server_info(address, 0.5);
        break;
      } catch (const wire::WireError& error) {
        controller_.check();
        if (Clock::now() > end || interrupt_requested()) throw;
      }
    }
    run.env.address = address;
  }

  std::vector<std::string> program_;
  PlacementConfig config_;
  std::string trace_;
  LocalLauncher launcher_;
  Controller controller_;
};

}  // namespace

PlacementFactory local_placement(std::vector<std::string> program) {
  return [program = std::move(program)](Recipe& recipe, const RunFolder& folder) {
    return std::make_unique<LocalPlacement>(program, recipe, folder);
  };
}

}  // namespace bessemer
