#include "forge/processes.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "core/base/trace.h"
#include "envs/client/remote_batch.h"
#include "rollout/worker_source.h"
#ifdef BESSEMER_HAS_TEXT
#include "autograd/nn/decoder_io.h"
#include "core/text/tokenizer.h"
#include "rollout/episode_hub.h"
#endif

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
        controller_(launcher_, controller_options(folder), controller_events()) {
    if (config_.server) serve(recipe.run);
    setup_ = recipe.yaml();
    workers_ = recipe.run.worker_count();
    processes_ = config_.mode != "inline";
    rate_ = recipe.run.uses() & kUsesLanguage ? "tokens_per_second" : "fps";
  }
  ~LocalPlacement() override {
    if (hub_) dismiss_workers();
    controller_.stop_all(kGrace);
  }

  SourceFactory sources() override {
    if (!processes_) return {};
    SourceFactory out;
    out.samples = [this](const SourceRequest& request) {
      return std::make_unique<WorkerSource>(*start_collectors(request), request.policy,
                                            request.normalizer);
    };
    out.fragments = [this](const SourceRequest& request) {
      return std::make_unique<WorkerFragments>(*start_collectors(request));
    };
#ifdef BESSEMER_HAS_TEXT
    out.episodes = [this](const EpisodeRequest& request) { return start_players(request); };
#endif
    return out;
  }

  void report(Metrics& metrics) const override {
    const TaskHub* hub = hub_;
    if (!hub) return;
    double running = 0, restarts = 0, queued = 0;
    for (const WorkerStatus& worker : hub->status()) {
      running += worker.state != WorkerStatus::State::absent;
      restarts += static_cast<double>(worker.restarts);
      queued += static_cast<double>(worker.queued);
      const auto add = [&](std::string_view what, double value) {
        metrics.last(cat("workers/", worker.name, "/", what), value);
      };
      add(rate_, worker.steps_per_second);
      add("version", static_cast<double>(worker.version));
      add("queued", static_cast<double>(worker.queued));
      add("restarts", static_cast<double>(worker.restarts));
    }
    metrics.last("workers/running", running);
    metrics.last("workers/restarts", restarts);
    metrics.last("workers/queued", queued);
  }

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

  /// What the controller sees goes to the hub: it knows of deaths before any lease.
  ControllerEvents controller_events() {
    ControllerEvents events;
    events.on_start = [this](const std::string& name, int pid, int64_t) { pids_[name] = pid; };
    events.on_exit = [this](const std::string& name, const ChildStatus&) {
      if (TaskHub* hub = hub_) hub->lost(name, pids_[name]);
    };
    events.on_failure = [this](const std::string&, const std::string& text) {
      if (TaskHub* hub = hub_) hub->abandon(text);
    };
    return events;
  }

  /// Lets workers finish what they collect and leave by themselves.
  void dismiss_workers() {
    owned_hub_->stop();
    const auto at_work = [](const ActorStatus& actor) {
      return actor.name.starts_with("worker-") && actor.state == ActorState::running;
    };
    const auto end = Clock::now() + std::chrono::duration<double>(kGrace);
    while (Clock::now() < end && std::ranges::any_of(controller_.status(), at_work))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

  TaskHubOptions hub_options(int64_t message_bytes) {
    TaskHubOptions options;
    options.workers = workers_;
    options.lease = config_.lease;
    options.message_bytes = message_bytes;
    options.on_silent = [this](const std::string& name, int64_t pid) {
      controller_.kill(name, pid, cat("silent for ", config_.lease, " s"));
    };
    return options;
  }

  /// Starts the hub's workers.
  template <class Hub>
  std::shared_ptr<Hub> start_workers(std::shared_ptr<Hub> hub) {
    owned_hub_ = hub;
    hub_ = hub.get();
    for (const std::string& name : hub->names()) {
      start_actor(name, {"worker", hub->address(), name}, Restart::failure,
                  {{kWorkerSecret, hub->secret()}});
    }
    return hub;
  }

  std::shared_ptr<WorkerHub> start_collectors(const SourceRequest& request) {
    WorkerHubOptions options{
        hub_options(acting_weights(0, request.policy, request.normalizer).buffer.numel()),
        request.shape, request.fragments};
    return start_workers(std::make_shared<WorkerHub>(options, setup_));
  }

#ifdef BESSEMER_HAS_TEXT
  std::shared_ptr<EpisodeHub> start_players(const EpisodeRequest& request) {
    const nn::DecoderConfig& shape = request.decoder.config();
    wire::Map setup = {{"setup", setup_},
                       {"tokenizer", request.tokenizer.json()},
                       {"decoder", nn::decoder_config_json(shape)},
                       {"compute", dtype_name(shape.compute)}};
    return start_workers(
        std::make_shared<EpisodeHub>(hub_options(0), std::move(setup), request.decoder));
  }
#endif

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
        if (Clock::now() > end) throw;
      }
    }
    run.env.address = address;
  }

  std::vector<std::string> program_;
  PlacementConfig config_;
  std::string trace_, setup_;
  int64_t workers_ = 0;
  bool processes_ = false;
  std::string_view rate_;                // what workers' steps a second are called
  std::atomic<TaskHub*> hub_{nullptr};   // what the controller's thread sees
  std::map<std::string, int64_t> pids_;  // of the last start; the controller's thread's
  LocalLauncher launcher_;
  Controller controller_;
  std::shared_ptr<TaskHub> owned_hub_;  // its thread ends before the controller does
};

}  // namespace

PlacementFactory local_placement(std::vector<std::string> program) {
  return [program = std::move(program)](Recipe& recipe, const RunFolder& folder) {
    return std::make_unique<LocalPlacement>(program, recipe, folder);
  };
}

}  // namespace bessemer
