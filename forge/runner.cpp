#include "forge/runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "core/base/text_file.h"
#include "core/base/trace.h"
#include "forge/completion_log.h"
#include "forge/interrupt.h"
#include "forge/plan_language.h"
#include "forge/provide.h"
#include "forge/sinks.h"
#include "trainer/checkpoint.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// True where the interval [before, after] of steps holds a multiple of `every`; its end belongs to
/// it.
bool due(int64_t every, int64_t before, int64_t after) {
  return every > 0 && after / every > before / every;
}

bool reached(const std::vector<std::pair<std::string, double>>& stop, const Metrics& metrics) {
  return !stop.empty() && std::all_of(stop.begin(), stop.end(), [&](const auto& bar) {
    return metrics.has(bar.first) && metrics.get(bar.first) >= bar.second;
  });
}

/// Bars on evaluations need evaluations.
void check_stop(const Recipe& recipe) {
  for (const auto& [name, bound] : recipe.run.trainer.stop) {
    if (!name.starts_with("eval/")) continue;
    const bool answers = (recipe.run.uses() & kUsesLanguage) && !judged_by_data(recipe.run);
    if (answers && name.starts_with("eval/rewards/")) continue;
    const std::vector<std::string> names = evaluation_metric_names(recipe.run);
    const std::string where = recipe.where(cat("trainer.stop.", name));
    BESSEMER_CHECK(std::find(names.begin(), names.end(), name) != names.end(), RecipeError, where,
                   "no evaluation measures '", name, "'", did_you_mean(name, names));
    BESSEMER_CHECK(recipe.run.eval.every > 0, RecipeError, where, "'trainer.stop' waits for ", name,
                   ", which is only measured where 'eval.every' is above 0");
  }
}

std::string title(const Recipe& recipe, int threads, const std::string& folder) {
  return cat(recipe.run.env.id, " · ", recipe.run.trainer.algo, " · seed ", recipe.run.seed, " · ",
             threads, threads == 1 ? " thread" : " threads", " · ", folder);
}

/// Makes the algorithm; what it refuses is reported where the recipe says it.
std::unique_ptr<Algorithm> make_algorithm_of(const Recipe& recipe, const AlgorithmFactory& factory,
                                             ThreadPool& pool, const SourceFactory& sources) {
  try {
    return factory(recipe.run, pool, sources);
  } catch (const ValueError& error) {
    const std::string_view what = error.what();
    std::string where = recipe.where(what.substr(0, what.find_first_of(" :,")));
    if (where.empty() && what.starts_with("[env]")) {
      where = recipe.where("env.id");
      for (const auto& [name, value] : recipe.run.env.options) {
        const bool named = what.find(cat("'", name, "'")) != std::string_view::npos ||
                           what.find(cat(" ", name, " is ")) != std::string_view::npos;
        if (named) where = recipe.where(cat("env.options.", name));
      }
    }
    throw RecipeError(cat(where, what));
  }
}

/// Other processes need a build that can start them.
void check_placement(const Runner& runner, const Recipe& recipe) {
  BESSEMER_CHECK(runner.placement || !needs_processes(recipe), RecipeError,
                 recipe.where("placement"),
                 "placement: this build starts no other processes: it was made without libzmq, "
                 "cppzmq and msgpack");
}

std::unique_ptr<Placement> place(const Runner& runner, Recipe& recipe, const RunFolder& folder) {
  if (!needs_processes(recipe)) return std::make_unique<Placement>();
  check_placement(runner, recipe);
  return runner.placement(recipe, folder);
}

/// Traces this process while it lives, then joins what all processes of the run left.
class TraceScope {
 public:
  explicit TraceScope(const RunFolder& folder) : folder_(folder) {
    trace::start(folder_.spans().string(), "trainer");
    trace::name_thread("main");
  }
  ~TraceScope() {
    trace::stop();
    try {
      trace::merge(folder_.spans().string(), folder_.trace().string());
    } catch (const std::exception& error) {  // a full disk; the run itself went well
      std::fprintf(stderr, "no trace: %s\n", error.what());
    }
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  const RunFolder& folder_;
};

/// One run inside its folder, from wherever its algorithm stands to its end.
class Session {
 public:
  Session(const Runner& runner, Recipe recipe, RunFolder folder)
      : runner_(runner),
        recipe_(std::move(recipe)),
        config_(recipe_.run),
        folder_(std::move(folder)),
        pool_(static_cast<int>(config_.placement.threads)),
        placement_(place(runner, recipe_, folder_)),
        algorithm_(make_algorithm_of(recipe_, runner.factory, pool_, placement_->sources())) {
    summary_.folder = folder_.root.string();
    summary_.threshold = algorithm_->spec().reward_threshold;
    serve_metrics();
  }

  void load(const fs::path& checkpoint) {
    algorithm_->load(checkpoint);
    first_step_ = algorithm_->steps();
  }

  /// The summary of a run that is complete already; nothing is written.
  RunSummary judge_again() {
    summary_.steps = first_step_;
    summary_.evaluation = evaluation();
    return std::move(summary_);
  }

  /// `resumed`: the folder may hold measurements of later steps than the algorithm's.
  RunSummary train(bool resumed, bool with_video) {
    open_sinks(resumed);
    if (recipe_.metrics.trace) trace_.emplace(folder_);
    const auto begin = Clock::now();
    const int64_t batch = config_.steps_per_iteration();
    bool go_on = algorithm_->steps() < config_.trainer.total_steps;
    while (go_on) {
      const int64_t before = algorithm_->steps();
      Metrics metrics;
      iterate(metrics);
      placement_->report(metrics);
      const int64_t after = algorithm_->steps();
      std::optional<IoError> lost;
      if (due(config_.eval.every, before, after)) {
        try {
          judge();
          add_evaluation(*judged_, metrics);
        } catch (const IoError& error) {
          lost = error;
        }
      }
      show_completions(after);
      const MetricsRow row{after, after / batch, seconds_since(begin), metrics};
      for (const auto& sink : sinks_) sink->write(row);
      if (lost) stop_without_environments(*lost);
      if (after >= config_.trainer.total_steps) {
        go_on = false;
      } else if (reached(config_.trainer.stop, metrics)) {
        summary_.end = RunEnd::bar;
        go_on = false;
      } else if (interrupt_requested()) {
        summary_.end = RunEnd::interrupted;
        go_on = false;
      } else if (due(config_.checkpoint.every, before, after)) {
        checkpoint();
      }
      summary_.metrics = std::move(metrics);
      trace::flush();
    }
    summary_.seconds = seconds_since(begin);
    summary_.steps = algorithm_->steps();
    if (summary_.steps > first_step_ || !resumed) checkpoint();
    sinks_.clear();
    if (summary_.end != RunEnd::interrupted) finish(with_video);
    return std::move(summary_);
  }

 private:
  /// Before anything is written, so that a port in use leaves nothing behind.
  void serve_metrics() {
    if (!recipe_.metrics.prometheus) return;
    int port = 0;
    const std::string& address = *recipe_.metrics.prometheus;
    sinks_.push_back(prometheus_sink(address,
                                     {{"env", config_.env.id},
                                      {"algo", config_.trainer.algo},
                                      {"folder", folder_.root.string()}},
                                     &port));
    if (!runner_.announce) return;
    std::fprintf(stderr, "metrics at http://%s:%d/metrics\n",
                 parse_host_port(address).first.c_str(), port);
  }

  void iterate(Metrics& metrics) {
    try {
      algorithm_->iterate(metrics);
    } catch (const NotFiniteError& error) {
      stop_not_finite(error);
    } catch (const IoError& error) {
      stop_without_environments(error);
    }
  }

  [[noreturn]] void stop_not_finite(const NotFiniteError& error) {
    const fs::path saved = checkpoint();
    throw NotFiniteError(cat("stopped after ", algorithm_->steps(), " steps: ", error.what(),
                             "; the last good state is ", saved.string()));
  }

  /// The environments, or what collects in them, are gone for good: what they stood on before the
  /// rollout is known here.
  [[noreturn]] void stop_without_environments(const IoError& error) {
    if (!needs_processes(recipe_) && !config_.env.address) throw;
    const std::string failure = placement_->failure();
    const fs::path saved = checkpoint();
    throw IoError(cat("stopped after ", algorithm_->steps(),
                      " steps: ", failure.empty() ? error.what() : failure, "\nits last state is ",
                      saved.string(), "; go on with: ./bessemer run --resume ",
                      folder_.root.string()));
  }

  void open_sinks(bool resumed) {
    const int64_t step = algorithm_->steps();
    if (resumed) {
      truncate_jsonl(folder_.metrics().string(), step);
      truncate_jsonl(folder_.completions().string(), step);
    }
    completions_.emplace(folder_.completions().string(),
                         recipe_.metrics.console && runner_.announce);
    if (recipe_.metrics.jsonl) sinks_.push_back(jsonl_sink(folder_.metrics().string()));
    if (recipe_.metrics.tensorboard) {
      sinks_.push_back(tensorboard_sink(folder_.root.string(),
                                        resumed ? std::optional<int64_t>(step) : std::nullopt));
    }
    if (recipe_.metrics.console && runner_.announce) {
      sinks_.push_back(console_sink({title(recipe_, pool_.threads(), folder_.root.string()), step,
                                     config_.trainer.total_steps}));
    }
  }

  Evaluation evaluation() {
    const trace::Span span("evaluate");
    return evaluate(*algorithm_, config_.eval.episodes, config_.eval.seed,
                    config_.eval.deterministic);
  }

  void judge() {
    try {
      judged_ = evaluation();
    } catch (const NotFiniteError& error) {
      stop_not_finite(error);
    }
  }

  /// The rows of a checkpoint's steps are handed over before it is.
  fs::path checkpoint() {
    const trace::Span span("checkpoint");
    for (const auto& sink : sinks_) sink->flush();
    if (completions_) completions_->flush();
    return write_checkpoint(folder_.checkpoints(), algorithm_->steps(), config_.checkpoint.keep,
                            [&](const fs::path& folder) { algorithm_->save(folder); });
  }

  void show_completions(int64_t step) {
    const std::vector<CompletionRecord> completions = algorithm_->take_completions();
    if (completions.empty()) return;
    // the block of measurements is drawn first, so that it is not torn apart
    for (const auto& sink : sinks_)
      if (completions.back().kind == "eval") sink->flush();
    completions_->write(step, completions);
  }

  void finish(bool with_video) {
    if (!judged_ || judged_->step != algorithm_->steps()) judge();
    summary_.evaluation = std::move(judged_);
    show_completions(algorithm_->steps());
    completions_->flush();
    if (with_video && runner_.video) runner_.video(*algorithm_, config_, folder_.video().string());
    // last, because it says that the run is complete
    write_text_file(folder_.evaluation().string(), evaluation_json(*summary_.evaluation) + "\n");
    if (!runner_.announce) return;
    const double rate =
        static_cast<double>(summary_.steps - first_step_) / std::max(summary_.seconds, 1e-9);
    std::fprintf(stderr, "%s\n%s steps in %s (%s/s)%s, in %s\n",
                 evaluation_text(*summary_.evaluation).c_str(),
                 short_number(static_cast<double>(summary_.steps)).c_str(),
                 clock_text(summary_.seconds).c_str(), short_number(rate).c_str(),
                 summary_.end == RunEnd::bar ? ", stopped at its bar" : "",
                 summary_.folder.c_str());
  }

  const Runner& runner_;
  Recipe recipe_;
  const RunConfig& config_;
  RunFolder folder_;
  std::optional<TraceScope> trace_;  // ends after all processes and threads below
  ThreadPool pool_;
  std::unique_ptr<Placement> placement_;
  std::unique_ptr<Algorithm> algorithm_;
  int64_t first_step_ = 0;
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::optional<CompletionLog> completions_;
  std::optional<Evaluation> judged_;
  RunSummary summary_;
};

/// The run was complete when `folder` was last left, and the recipe asks for no more steps than
/// then.
bool complete(const RunFolder& folder, const Recipe& recipe) {
  if (!fs::exists(folder.evaluation())) return false;
  const Recipe before = recipe_of_run(folder.root.string(), {});
  return recipe.run.trainer.total_steps <= before.run.trainer.total_steps;
}

void write_recipe(const RunFolder& folder, const Recipe& recipe) {
  Recipe kept = recipe;
  kept.out = folder.root.string();
  write_text_file(folder.recipe().string(), kept.yaml());
}

/// Recipe of one of several seeds.
Recipe single(const Recipe& recipe, int64_t seed, const RunFolder& folder) {
  Recipe one = recipe;
  one.seeds.reset();
  one.run.seed = seed;
  one.out = folder.root.string();
  return one;
}

/// A run that begins in a new folder. What is wrong with the recipe is found before the folder is
/// made; processes need the folder for their logs.
struct Beginning {
  std::unique_ptr<Session> session;
  std::optional<RunLock> lock;

  Beginning(const Runner& runner, const Recipe& recipe, const RunFolder& folder, bool force,
            const fs::path& checkpoint = {}) {
    const auto make = [&] {
      session = std::make_unique<Session>(runner, provide(runner, recipe), folder);
      if (!checkpoint.empty()) session->load(checkpoint);
    };
    check_placement(runner, recipe);
    const bool late = needs_processes(recipe);
    if (late) {
      make_plan(recipe, runner.factory);
    } else {
      make();
    }
    lock.emplace(create_run_folder(folder, force));
    write_recipe(folder, recipe);
    if (late) make();
  }
};

/// Trains in `folder` from its last checkpoint, or from the start where there is none.
RunSummary go_on(const Runner& runner, const Recipe& recipe, const RunFolder& folder,
                 bool with_video) {
  const RunLock lock(folder);
  check_writable(folder);
  Session session(runner, provide(runner, recipe), folder);
  const fs::path checkpoint = latest_checkpoint(folder.checkpoints());
  if (!checkpoint.empty()) {
    verify_checkpoint(checkpoint);
    session.load(checkpoint);
    if (complete(folder, recipe)) return session.judge_again();
  }
  fs::remove(folder.evaluation());  // of an earlier end
  fs::remove(folder.video());
  write_recipe(folder, recipe);
  return session.train(true, with_video);
}

/// Every seed of a recipe: complete ones are judged again, others go on, missing ones begin.
RunSummary run_seeds(const Runner& runner, const Recipe& recipe, const RunFolder& folder) {
  Aggregate aggregate;
  RunSummary last;
  for (int64_t seed = 0; seed < *recipe.seeds; ++seed) {
    const RunFolder place = folder.seed(seed);
    const Recipe one = single(recipe, seed, place);
    if (!fs::exists(place.recipe())) {
      create_run_folder(place, false);
      write_recipe(place, one);
    }
    RunSummary summary = go_on(runner, one, place, seed == 0);
    if (summary.end == RunEnd::interrupted) {
      summary.folder = folder.root.string();
      return summary;
    }
    aggregate.bar = recipe.run.eval.bar.value_or(summary.threshold);
    aggregate.seeds.push_back(seed);
    aggregate.scores.push_back(summary.evaluation->mean);
    last = std::move(summary);
  }
  write_text_file(folder.aggregate().string(), aggregate_json(aggregate) + "\n");
  if (runner.announce) std::fprintf(stderr, "%s\n", aggregate_text(aggregate).c_str());
  last.folder = folder.root.string();
  last.aggregate = std::move(aggregate);
  return last;
}

}  // namespace

Plan make_plan(const Recipe& recipe, const AlgorithmFactory& factory) {
  check_stop(recipe);
  const RunConfig& config = recipe.run;
  const bool language = config.uses() & kUsesLanguage;
  Recipe planned = recipe;
  std::vector<Prerequisite> prerequisites;
  if (language) {
    use_paths(planned);
    prerequisites = prerequisites_of(recipe);
    planned = planned_recipe(std::move(planned), prerequisites);
  }
  ThreadPool pool(static_cast<int>(config.placement.threads));
  const std::unique_ptr<Algorithm> algorithm = make_algorithm_of(planned, factory, pool, {});
  Plan plan;
  plan.threads = pool.threads();
  plan.batch = config.steps_per_iteration();
  plan.iterations = (config.trainer.total_steps + plan.batch - 1) / plan.batch;
  plan.parameters = algorithm->parameters();
  plan.memory_bytes = algorithm->memory_bytes();
  const auto line = [&](std::string_view name, const std::string& text) {
    plan.text += cat(name, std::string(14 - name.size(), ' '), text, "\n");
  };
  const int64_t minibatches =
      (plan.batch + config.trainer.batch_size - 1) / config.trainer.batch_size;
  const std::string unit = language ? "items" : "episodes";
  line("environment", language ? config.env.id.empty() ? "none" : config.env.id
                               : cat(config.env.id, ", ", config.env.num, " instances"));
  line("algorithm",
       cat(config.trainer.algo, ", ", short_number(static_cast<double>(plan.parameters)),
           " parameters on ", recipe.device));
  line("threads", cat(plan.threads, " (placement.mode: ", config.placement.mode, ")"));
  if (config.placement.mode != "inline") {
    const int64_t workers = config.worker_count(), rows = config.env.num;
    const int64_t most = (rows + workers - 1) / workers, threads = config.worker_threads();
    line("workers", cat(workers, workers == 1 ? " process" : " processes", " of ", threads,
                        threads == 1 ? " thread, " : " threads, ",
                        language ? "which generate and play the episodes"
                                 : cat(rows % workers == 0 ? "" : cat(rows / workers, " or "), most,
                                       " instances each"),
                        "; lease ", config.placement.lease, " s"));
  }
  if (language) {
    language_plan(recipe, prerequisites, line);
  } else {
    if (config.placement.server) {
      line("server", "the environments run in a process of this run");
    } else if (config.env.address) {
      line("server", cat(*config.env.address, ", waited for ", config.placement.lease,
                         " s when it goes away"));
    }
    line("rollout", cat(plan.batch, " samples = ", config.rollout.steps, " steps x ",
                        config.env.num, " instances"));
    line("updates", cat(config.trainer.epochs, " epochs x ", minibatches, " minibatches of ",
                        std::min(config.trainer.batch_size, plan.batch)));
  }
  line("steps", cat(config.trainer.total_steps, " in ", plan.iterations, " iterations"));
  const int64_t stale = config.placement.max_staleness;
  line("staleness",
       config.trainer.algo == "appo" && config.placement.mode != "inline"
           ? cat("at most ", stale, " policy versions; older experience is dropped and counted")
       : language && stale > 0
           ? cat("generation is ", stale, stale == 1 ? " iteration" : " iterations",
                 " ahead: its weights are those of so many iterations before")
           : "0 policy versions (synchronous)");
  line("memory", cat(short_number(static_cast<double>(plan.memory_bytes)), "B"));
  line("evaluation",
       cat(config.eval.every > 0 ? cat("every ", config.eval.every, " steps and ") : "",
           "at the end, ",
           config.eval.sweep ? cat("all of ", *config.eval.sweep)
                             : cat(config.eval.episodes, " ", unit)));
  line("checkpoints",
       cat(config.checkpoint.every > 0 ? cat("every ", config.checkpoint.every, " steps and ") : "",
           "at the end, the newest ", config.checkpoint.keep, " kept"));
  if (recipe.seeds) line("seeds", cat("0 to ", *recipe.seeds - 1, ", one after the other"));
  line("resume", algorithm->exact_resume()
                     ? "with the same bits, from any checkpoint"
                     : cat("inexact: ", config.env.address.value_or("the environments' host"),
                           " takes no snapshots, so episodes begin anew"));
  line("folder", recipe.out.empty() ? default_run_folder(recipe.name) : recipe.out);
  return plan;
}

RunSummary Runner::run(Recipe recipe, bool force) {
  check_stop(recipe);
  if (recipe.out.empty()) recipe.out = default_run_folder(recipe.name);
  const RunFolder folder{recipe.out};
  if (recipe.seeds) {
    make_plan(recipe, factory);  // so that a wrong recipe leaves no folder behind
    const RunLock lock = create_run_folder(folder, force);
    write_recipe(folder, recipe);
    return unless_interrupted([&] { return run_seeds(*this, recipe, folder); });
  }
  return unless_interrupted([&] {
    const Beginning beginning(*this, recipe, folder, force);
    return beginning.session->train(false, true);
  });
}

RunSummary Runner::resume(const std::string& path, std::span<const std::string> overrides) {
  const RunFolder folder{path};
  const Recipe before = recipe_of_run(path, {});
  Recipe after = recipe_of_run(path, overrides);
  BESSEMER_CHECK(after.out == before.out, RecipeError, after.where("out"),
                 "a run is resumed in its own folder; --fork starts a new one in out=NEW");
  check_resumable(before, after);
  check_stop(after);
  after.out = path;
  if (after.seeds) {
    const RunLock lock(folder);
    write_recipe(folder, after);
    return unless_interrupted([&] { return run_seeds(*this, after, folder); });
  }
  if (complete(folder, after) && announce) {
    std::fprintf(stderr, "%s is complete; a larger trainer.total_steps goes on with it\n",
                 path.c_str());
  }
  return unless_interrupted([&] { return go_on(*this, after, folder, true); });
}

RunSummary Runner::fork(const std::string& path, std::span<const std::string> overrides,
                        bool force) {
  const Recipe before = recipe_of_run(path, {});
  const Recipe after = recipe_of_run(path, overrides);
  BESSEMER_CHECK(after.out != before.out && !after.out.empty(), RecipeError,
                 "--fork needs a folder for the new run: out=NEW");
  BESSEMER_CHECK(!after.seeds, RecipeError, after.where("seeds"),
                 "a fork starts from one run, not from several seeds");
  check_stop(after);
  const fs::path checkpoint = find_checkpoint(path);
  verify_checkpoint(checkpoint);
  const RunFolder folder{after.out};
  return unless_interrupted([&] {
    const Beginning beginning(*this, after, folder, force, checkpoint);
    write_text_file(folder.parent_recipe().string(),
                    cat("# forked from ", checkpoint.string(), ", a run of\n", before.yaml()));
    return beginning.session->train(false, true);
  });
}

}  // namespace bessemer
