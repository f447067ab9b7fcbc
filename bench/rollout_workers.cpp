// Workers beside the trainer alone: bytes of samples from a worker's memory into the trainer's
// beside a copy of as many bytes; APPO with two workers beside PPO in one process at as many
// gradient steps; how long a dead and a silent worker go unseen, and until their rows go on.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "bench/bench.h"
#include "bench/solve.h"
#include "core/wire/client.h"
#include "forge/controller.h"
#include "rollout/sample_message.h"
#include "rollout/worker.h"
#include "rollout/worker_source.h"
#include "trainer/control.h"

namespace bessemer::bench {
namespace {

constexpr const char* kSecret = "BENCH_WORKERS_SECRET";

/// configs/ppo_lunarlander.yaml and configs/appo_lunarlander.yaml.
RunConfig lander(const std::string& algo, int64_t seed) {
  RunConfig config;
  config.seed = seed;
  config.env.id = "LunarLander-v3";
  config.env.num = 16;
  config.env.normalize_reward = true;
  config.rollout.steps = algo == "appo" ? 512 : 1024;
  config.trainer.algo = algo;
  config.trainer.batch_size = 64;
  config.trainer.epochs = 4;
  config.trainer.gamma = 0.999;
  config.trainer.gae_lambda = 0.98;
  config.trainer.ent_coef = 0.01;
  config.trainer.lr = 1e-3;
  config.trainer.lr_schedule = "linear";
  config.trainer.total_steps = 1'000'000;
  config.placement.max_staleness = 8;
  return config;
}

/// What a worker runs: rows of the lander; the hub's setup is the algorithm and the seed.
WorkerParts lander_rows(const std::string& setup, int64_t first_row, int64_t rows) {
  const size_t space = setup.find(' ');
  const RunConfig config = lander(setup.substr(0, space), std::atoll(setup.c_str() + space));
  const auto pool = std::make_shared<ThreadPool>(1);
  BatchOptions options;
  options.num_envs = rows;
  options.autoreset = Autoreset::same_step;
  options.pool = pool.get();
  std::unique_ptr<EnvBatch> envs = registry_factory(config.env)(options);
  WorkerParts out;
  out.keep = pool;
  out.policy = make_policy(envs->spec(), config);
  out.normalizer = make_normalizer(envs->spec(), config, rows);
  out.sampler = make_sampler(std::move(envs), *out.policy, *out.normalizer, config, first_row);
  return out;
}

/// What a worker does that has nothing to compute: pushes one rollout again and again.
void flood(const std::string& address, const std::string& name, const std::string& secret) {
  wire::Message hello;
  hello.fields = {{"worker", name}, {"secret", secret}};
  wire::ClientOptions options;
  options.shared_bytes = size_t{1} << 30;
  options.socket.limits.bytes = size_t{1} << 40;
  wire::Client client(address, std::move(hello), options);
  std::vector<int64_t> sizes;  // the shape's members, as the setup lists them
  const std::string& setup = client.welcome().fields.text("setup");
  for (const char* at = setup.c_str(); *at;) {
    char* end = nullptr;
    sizes.push_back(std::strtoll(at, &end, 10));
    at = end;
  }
  const Rollout rollout = make_rollout({sizes.at(0), sizes.at(1), sizes.at(2), sizes.at(3), 0, 0});
  SourceState state;
  const auto rows = static_cast<size_t>(rollout.rows);
  state.counter.resize(rows);
  state.starts.resize(rows);
  state.envs.resize(rows);
  const RolloutMessage samples(rollout, {});
  const StateMessage after(state);
  wire::Message report("pull");
  after.write(report);
  while (true) {
    const wire::Message task = client.call(std::move(report), 1e7);
    if (task.fields.flag("stop", false)) return;
    report = wire::Message("samples");
    report.fields = {{"task", task.fields.count("task")},
                     {"weights_hash", task.fields.count("weights_hash")}};
    samples.write(report);
    after.write(report);
  }
}

/// A hub and its worker processes, which run this program.
class Crew {
 public:
  Crew(const WorkerHubOptions& options, const std::string& setup, const char* work)
      : hub_(silence_kills(options), setup), controller_(launcher_, {}, events()) {
    for (const std::string& name : hub_.names()) {
      ActorSpec spec;
      spec.name = name;
      spec.args = {"/proc/self/exe", work, hub_.address(), name};
      spec.env = {{kSecret, hub_.secret()}};
      controller_.add(std::move(spec));
    }
  }
  ~Crew() { controller_.stop_all(1); }
  WorkerHub& hub() { return hub_; }

  int64_t pid(const std::string& name) const {
    for (const WorkerStatus& worker : hub_.status())
      if (worker.name == name) return worker.pid;
    return 0;
  }
  /// Processor seconds of the workers that run now.
  double cpu_seconds() const {
    double total = 0;
    for (const WorkerStatus& worker : hub_.status()) {
      if (worker.pid == 0) continue;
      FILE* file = std::fopen(cat("/proc/", worker.pid, "/schedstat").c_str(), "r");
      unsigned long long nanoseconds = 0;
      if (file && std::fscanf(file, "%llu", &nanoseconds) == 1) total += 1e-9 * nanoseconds;
      if (file) std::fclose(file);
    }
    return total;
  }
  double seen() const { return seen_; }  // when a worker's end was known

 private:
  WorkerHubOptions silence_kills(WorkerHubOptions options) {
    options.on_silent = [this](const std::string& name, int64_t pid) {
      seen_ = seconds_now();
      std::thread([this, name, pid] { controller_.kill(name, pid, "silent"); }).detach();
    };
    return options;
  }
  ControllerEvents events() {
    ControllerEvents out;
    out.on_exit = [this](const std::string& name, const ChildStatus&) {
      if (seen_ == 0) seen_ = seconds_now();
      hub_.lost(name);
    };
    return out;
  }

  LocalLauncher launcher_;
  std::atomic<double> seen_{0};
  WorkerHub hub_;
  Controller controller_;
};

/// Bytes a second of fragments of one shape, from workers that do nothing else.
double channel_rate(const RolloutShape& shape, int64_t workers, double seconds) {
  WorkerHubOptions options;
  options.workers = workers;
  options.shape = shape;
  Crew crew(
      options,
      cat(shape.steps, " ", shape.rows / workers, " ", shape.components, " ", shape.obs_bytes),
      "--flood");
  WorkerFragments source(crew.hub());
  source.publish(make_weights(0, {}));
  double bytes = 0, start = 0;
  for (int64_t taken = 0; start == 0 || seconds_now() - start < seconds; ++taken) {
    const std::optional<Fragment> fragment = source.take(10);
    if (taken == 2 * workers) start = seconds_now();  // rings, pages and buffers are there now
    if (start > 0 && taken > 2 * workers)
      bytes += static_cast<double>(rollout_bytes(fragment->rollout));
  }
  return bytes / (seconds_now() - start);
}

/// Of memory, not of caches: samples of one fragment are cold when the next ones have passed.
double copy_rate() {
  constexpr size_t bytes = size_t{256} << 20;
  std::vector<std::byte> from(bytes, std::byte{1}), to(bytes);
  Subject copy{cat("copy of ", bytes),
               [&] {
                 std::memcpy(to.data(), from.data(), bytes);
                 keep(to[bytes / 2]);
               },
               static_cast<double>(bytes)};
  std::vector<Subject> one{std::move(copy)};
  measure(one, 5, 0.1);
  return one[0].rate();
}

void channel(Report& report) {
  struct Case {
    const char* name;
    RolloutShape shape;
  };
  const Case cases[] = {
      {"lander rows, 1024 x 16", {1024, 16, 1, 32, 0, 0}},
      {"pixel rows, 64 x 16 of 4 x 84 x 84", {64, 16, 1, 4 * 84 * 84, 0, 0}},
  };
  for (const Case& c : cases) {
    for (int64_t workers : {1, 2}) {
      std::vector<double> rates, copies;
      for (int repeat = 0; repeat < 3; ++repeat) {
        rates.push_back(channel_rate(c.shape, workers, 0.5));
        copies.push_back(copy_rate());
      }
      report.figure(
          cat("samples from ", workers, workers == 1 ? " worker, " : " workers, ", c.name),
          median(rates) / 1e6, "MB/s", "copy", median(rates) / median(copies));
    }
  }
}

struct Trained {
  double seconds = 0;                 // wall time
  double trainer = 0, workers = 0;    // processor seconds
  double waiting = 0, staleness = 0;  // APPO: share of the time, versions
  double cores() const { return (trainer + workers) / seconds; }
};

double own_cpu_seconds() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

/// Wall time of about `updates` gradient steps, after the first iteration.
Trained train(Algorithm& algorithm, int64_t updates, const std::function<double()>& worker_cpu) {
  Metrics metrics;
  algorithm.iterate(metrics);
  const int64_t before = algorithm.updates();
  const double own = own_cpu_seconds(), others = worker_cpu(), start = seconds_now();
  Trained out;
  int64_t iterations = 0;
  for (; algorithm.updates() < before + updates; ++iterations) {
    algorithm.iterate(metrics);
    if (metrics.has("rollout/staleness_mean")) {
      out.waiting += metrics.get("time/waiting");
      out.staleness += metrics.get("rollout/staleness_mean");
    }
  }
  const double share =
      static_cast<double>(updates) / static_cast<double>(algorithm.updates() - before);
  out.seconds = (seconds_now() - start) * share;
  out.trainer = (own_cpu_seconds() - own) * share;
  out.workers = (worker_cpu() - others) * share;
  out.waiting /= static_cast<double>(iterations);
  out.staleness /= static_cast<double>(iterations);
  return out;
}

Trained train_ppo(int64_t seed, int threads, int64_t updates) {
  ThreadPool pool(threads);
  const auto ppo = make_algorithm(lander("ppo", seed), pool);
  return train(*ppo, updates, [] { return 0.0; });
}

/// With two worker processes.
Trained train_over_workers(const std::string& algo, int64_t seed, int64_t updates) {
  ThreadPool pool(1);
  std::unique_ptr<Crew> crew;
  const auto start = [&](const SourceRequest& request) {
    WorkerHubOptions options;
    options.workers = 2;
    options.shape = request.shape;
    options.fragments = request.fragments;
    crew = std::make_unique<Crew>(options, cat(algo, " ", seed), "--worker");
  };
  SourceFactory sources;
  sources.fragments = [&](const SourceRequest& request) {
    start(request);
    return std::make_unique<WorkerFragments>(crew->hub());
  };
  sources.samples = [&](const SourceRequest& request) {
    start(request);
    return std::make_unique<WorkerSource>(crew->hub(), request.policy, request.normalizer);
  };
  const auto algorithm = make_algorithm(lander(algo, seed), pool, sources);
  return train(*algorithm, updates, [&] { return crew->cpu_seconds(); });
}

void learning(Report& report) {
  constexpr int64_t kUpdates = 10 * 1024;  // of 64 samples, four times each: 164 k steps
  struct Case {
    std::string name;
    std::function<Trained(int64_t seed)> run;
    std::vector<Trained> runs;
    double median_of(const std::function<double(const Trained&)>& of) const {
      std::vector<double> values;
      for (const Trained& run : runs) values.push_back(of(run));
      return median(values);
    }
  };
  Case cases[] = {
      {"PPO inline, threads=1", [](int64_t seed) { return train_ppo(seed, 1, kUpdates); }, {}},
      {"APPO, 2 workers",
       [](int64_t seed) { return train_over_workers("appo", seed, kUpdates); },
       {}},
      {"PPO inline, threads=2", [](int64_t seed) { return train_ppo(seed, 2, kUpdates); }, {}},
      {"PPO, 2 workers",
       [](int64_t seed) { return train_over_workers("ppo", seed, kUpdates); },
       {}},
  };
  for (int64_t seed = 1; seed <= 5; ++seed)
    for (Case& c : cases) c.runs.push_back(c.run(seed));
  const auto seconds = [](const Trained& run) { return run.seconds; };
  const double one = cases[0].median_of(seconds), two = cases[2].median_of(seconds);
  for (const Case& c : cases) {
    const double own = c.median_of(seconds);
    report.figure(cat(c.name, ": ", kUpdates, " gradient steps on LunarLander"), own, "s",
                  "as fast as PPO threads=1", one / own);
    report.figure(cat(c.name, ": cores used"),
                  c.median_of([](const Trained& run) { return run.cores(); }), "cores",
                  "as fast as PPO threads=2", two / own);
    // Where others compute too, these say what the machine alone would allow.
    report.figure(cat(c.name, ": trainer's processor time"),
                  c.median_of([](const Trained& run) { return run.trainer; }), "s");
    report.figure(cat(c.name, ": workers' processor time"),
                  c.median_of([](const Trained& run) { return run.workers; }), "s");
  }
  report.figure("APPO's trainer waits for samples",
                cases[1].median_of([](const Trained& run) { return run.waiting; }), "of the time");
  report.figure("staleness of APPO's samples",
                cases[1].median_of([](const Trained& run) { return run.staleness; }), "versions");
}

/// Ends worker-1 with `signal` in the middle of its work; seconds until that is known, and from
/// then until samples of its replacement are here.
std::pair<double, double> disturb(int signal, double lease) {
  const RunConfig config = lander("appo", 1);
  BatchOptions one;
  one.num_envs = 1;
  const Spec spec = registry_factory(config.env)(one)->spec();
  const auto policy = make_policy(spec, config);
  const auto normalizer = make_normalizer(spec, config, config.env.num);
  WorkerHubOptions options;
  options.workers = 2;
  options.shape = rollout_shape(spec, config, *policy, *normalizer, config.env.num);
  options.lease = lease;
  Crew crew(options, "appo 1", "--worker");
  WorkerFragments source(crew.hub());
  source.publish(acting_weights(0, *policy, *normalizer));
  const std::string name = crew.hub().names()[1];
  for (int64_t taken = 0; taken < 6;) taken += source.take(1).has_value();
  const double start = seconds_now();
  ::kill(static_cast<pid_t>(crew.pid(name)), signal);
  while (crew.seen() == 0) source.take(0.001);
  const double seen = crew.seen();
  // Its rows go on when the replacement has something; what the dead one finished comes before.
  while (true) {
    const std::optional<Fragment> fragment = source.take(1);
    const auto status = crew.hub().status();
    if (fragment && fragment->worker == name && status[1].restarts > 0) break;
  }
  return {seen - start, seconds_now() - seen};
}

void faults(Report& report) {
  std::vector<double> seen, back;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const auto [detection, recovery] = disturb(SIGKILL, 5);
    seen.push_back(detection);
    back.push_back(recovery);
  }
  report.figure("a killed worker is seen after", median(seen) * 1e3, "ms");
  report.figure("samples of its replacement after", median(back), "s");
  const auto [detection, recovery] = disturb(SIGSTOP, 5);
  report.figure("a stopped worker is seen after (lease 5 s)", detection, "s");
  report.figure("samples of its replacement after", recovery, "s");
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer;
  using namespace bessemer::bench;
  if (argc == 4 && std::strcmp(argv[1], "--worker") == 0) {
    run_worker(argv[2], argv[3], std::getenv(kSecret), lander_rows);
    return 0;
  }
  if (argc == 4 && std::strcmp(argv[1], "--flood") == 0) {
    flood(argv[2], argv[3], std::getenv(kSecret));
    return 0;
  }
  Report report(argc, argv);
  const auto wanted = [&](const char* part) {
    return argc < 2 || argv[1][0] == '-' || std::strcmp(argv[1], part) == 0;
  };
  if (wanted("channel")) channel(report);
  if (wanted("learning")) learning(report);
  if (wanted("faults")) faults(report);
}
