#include "forge/runner.h"

#include <doctest/doctest.h>

#include <cmath>
#include <csignal>
#include <fstream>

#include "core/base/rng.h"
#include "core/base/text_file.h"
#include "forge/interrupt.h"
#include "tests/forge/scratch.h"
#include "trainer/checkpoint.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

/// Learns nothing, but every number depends on the seed, the steps and the whole past.
class FakeAlgorithm final : public Algorithm {
 public:
  FakeAlgorithm(const RunConfig& config, int64_t not_finite_at)
      : config_(config), not_finite_at_(not_finite_at), state_(config.seed * 1.25) {
    BESSEMER_CHECK(config.env.id == "Fake-v0", ValueError, "[env] there is no '", config.env.id,
                   "'");
    spec_.id = config.env.id;
    spec_.reward_threshold = 0.5;
  }

  const Spec& spec() const override { return spec_; }
  int64_t steps() const override { return steps_; }
  int64_t updates() const override { return steps_ / 8; }
  int64_t parameters() const override { return 12'345; }
  int64_t memory_bytes() const override { return 1 << 20; }

  void iterate(Metrics& metrics) override {
    if (not_finite_at_ > 0 && steps_ >= not_finite_at_)
      fail<NotFiniteError>("policy.0.weight is nan");
    steps_ += config_.rollout.steps * config_.env.num;
    const Rng rng{static_cast<uint64_t>(config_.seed), Stream::user};
    state_ = 0.9 * state_ + uniform_float(rng.at(static_cast<uint64_t>(steps_)).word[0]);
    metrics.mean("rollout/ep_rew_mean", state_);
    metrics.last("time/fps", 1e6 / state_);
    if (on_iterate) on_iterate(steps_);
  }

  EvalResult evaluate(int64_t episodes, int64_t seed, bool) override {
    ++evaluations;
    EvalResult result;
    for (int64_t i = 0; i < episodes; ++i) {
      result.returns.push_back(state_ + static_cast<double>(seed + i) / 100);
      result.lengths.push_back(10 + i);
    }
    return result;
  }

  void save(const fs::path& folder) const override {
    std::ofstream file(folder / "state.json", std::ios::binary);
    file.precision(17);
    file << steps_ << ' ' << state_;
    if (!file.flush()) fail<IoError>("cannot write the state");
  }
  void load(const fs::path& folder) override {
    std::ifstream file(folder / "state.json");
    file >> steps_ >> state_;
    BESSEMER_CHECK(file, ValueError, "no state");
  }
  void load_policy(const fs::path& folder) override { load(folder); }
  std::unique_ptr<Actor> actor(bool, int64_t) const override { return nullptr; }

  static inline int evaluations = 0;
  static inline std::function<void(int64_t)> on_iterate;

 private:
  RunConfig config_;
  Spec spec_;
  int64_t not_finite_at_;
  int64_t steps_ = 0;
  double state_;
};

Runner make_runner(int64_t not_finite_at = 0) {
  Runner runner;
  runner.factory = [=](const RunConfig& config, ThreadPool&, const SourceFactory&) {
    return std::make_unique<FakeAlgorithm>(config, not_finite_at);
  };
  runner.announce = false;
  return runner;
}

constexpr std::string_view kRecipe = R"(schema: 1
seed: 3
env: {id: Fake-v0, num: 4}
rollout: {steps: 8}
trainer: {total_steps: 320, batch_size: 32}
eval: {every: 96, episodes: 6}
checkpoint: {every: 64, keep: 2}
placement: {threads: 1}
)";

Recipe recipe(std::vector<std::string> overrides) {
  return load_recipe_text(kRecipe, "fake.yaml", overrides);
}

/// metrics.jsonl without what a clock says.
std::string rows(const std::string& folder) {
  std::istringstream in(read_text_file(folder + "/metrics.jsonl"));
  std::string out, line;
  while (std::getline(in, line)) {
    const size_t begin = line.find(", \"time/fps\"");
    const size_t end = line.find_first_of(",}", begin + 2);
    out += line.erase(begin, end - begin) + "\n";
  }
  return out;
}

std::string state_of(const std::string& folder) {
  return read_text_file((find_checkpoint(folder) / "state.json").string());
}

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("runner: a run leaves everything in its folder") {
  const Scratch scratch;
  const std::string out = scratch / "a";
  const RunSummary summary = make_runner().run(recipe({"out=" + out}), false);
  CHECK(summary.end == RunEnd::steps);
  CHECK(summary.steps == 320);
  REQUIRE(summary.evaluation);
  CHECK(summary.evaluation->returns.size() == 6);
  CHECK(summary.metrics.has("rollout/ep_rew_mean"));
  for (const char* name : {"recipe.yaml", "metrics.jsonl", "eval.json", "checkpoints/latest"}) {
    CHECK_MESSAGE(fs::exists(fs::path(out) / name), name);
  }
  const auto all = list_checkpoints(out + "/checkpoints");
  REQUIRE(all.size() == 2);
  CHECK(all[1].filename() == "step-000000000320");
  CHECK(recipe_of_run(out, {}).run.trainer.total_steps == 320);
  const std::string text = rows(out);
  CHECK(std::count(text.begin(), text.end(), '\n') == 10);
  CHECK(text.find("{\"step\": 96, \"iteration\": 3") != std::string::npos);
  CHECK(std::count_if(text.begin(), text.end(), [](char c) { return c == '\n'; }) == 10);
  size_t evaluations = 0;
  for (size_t at = 0; (at = text.find("eval/mean_reward", at)) != std::string::npos; ++at)
    ++evaluations;
  CHECK(evaluations == 3);
  const std::string json = read_text_file(out + "/eval.json");
  for (const char* key : {"mean", "std", "iqm", "interval", "returns", "lengths", "step"}) {
    CHECK_MESSAGE(json.find(cat("\"", key, "\": ")) != std::string::npos, key);
  }
}

TEST_CASE("runner: a folder with a run is refused, replaced by force, and strangers are safe") {
  const Scratch scratch;
  const std::string out = scratch / "a";
  Runner runner = make_runner();
  runner.run(recipe({"out=" + out}), false);
  CHECK(error_of([&] { runner.run(recipe({"out=" + out}), false); }).find("holds a run already") !=
        std::string::npos);
  runner.run(recipe({"out=" + out, "trainer.total_steps=32"}), true);
  CHECK(list_checkpoints(out + "/checkpoints").size() == 1);

  fs::create_directory(scratch / "mine");
  std::ofstream(scratch / "mine/thesis.txt") << "years of work";
  CHECK(error_of([&] {
          runner.run(recipe({"out=" + (scratch / "mine")}), true);
        }).find("holds files that are no run") != std::string::npos);
  CHECK(fs::exists(scratch / "mine/thesis.txt"));
  std::ofstream(scratch / "file") << "x";
  CHECK(error_of([&] {
          runner.run(recipe({"out=" + (scratch / "file")}), false);
        }).find("no folder") != std::string::npos);
  CHECK(error_of([&] {
          runner.run(recipe({"out=" + (scratch / "file/below")}), false);
        }).find("cannot make the run folder") == 0);
}

TEST_CASE("runner: a folder belongs to one process at a time") {
  const Scratch scratch;
  const std::string out = scratch / "a";
  Runner runner = make_runner();
  runner.run(recipe({"out=" + out}), false);
  const RunLock lock(RunFolder{out});  // as another process would hold it
  const std::string busy = "another process is running in " + out;
  CHECK(error_of([&] { runner.resume(out, {}); }) == busy);
  CHECK(error_of([&] { runner.run(recipe({"out=" + out}), true); }) == busy);
  CHECK(fs::exists(out + "/eval.json"));
}

TEST_CASE("runner: an environment that does not exist is reported where the recipe names it") {
  const Scratch scratch;
  Runner runner = make_runner();
  CHECK(error_of([&] {
          runner.run(recipe({"env.id=Fork-v0", "out=" + (scratch / "a")}), false);
        }) == "override 'env.id=Fork-v0': [env] there is no 'Fork-v0'");
  CHECK_FALSE(fs::exists(scratch / "a"));
}

TEST_CASE("runner: interrupted and resumed equals uninterrupted") {
  const Scratch scratch;
  Runner runner = make_runner();
  runner.run(recipe({"out=" + (scratch / "whole")}), false);
  for (int64_t at : {32, 96, 160, 288}) {
    const std::string out = scratch / cat("cut", at);
    FakeAlgorithm::on_iterate = [=](int64_t steps) {
      if (steps == at) std::raise(SIGINT);
    };
    {
      const InterruptGuard guard;
      const RunSummary cut = runner.run(recipe({"out=" + out}), false);
      CHECK(cut.end == RunEnd::interrupted);
      CHECK(cut.steps == at);
      CHECK_FALSE(cut.evaluation.has_value());
    }
    FakeAlgorithm::on_iterate = nullptr;
    {
      const InterruptGuard guard;
      const RunSummary rest = runner.resume(out, {});
      CHECK(rest.end == RunEnd::steps);
    }
    CHECK(rows(out) == rows(scratch / "whole"));
    CHECK(state_of(out) == state_of(scratch / "whole"));
    CHECK(read_text_file(out + "/eval.json") == read_text_file(scratch / "whole/eval.json"));
  }
}

TEST_CASE("runner: a run that died goes on from its last checkpoint, or from the start") {
  const Scratch scratch;
  Runner runner = make_runner();
  runner.run(recipe({"out=" + (scratch / "whole")}), false);
  for (int64_t at : {32, 192}) {  // before the first checkpoint, and between two
    const std::string out = scratch / cat("died", at);
    FakeAlgorithm::on_iterate = [=](int64_t steps) {
      if (steps == at + 32) throw std::runtime_error("power cut");
    };
    CHECK_THROWS_WITH(runner.run(recipe({"out=" + out}), false), "power cut");
    FakeAlgorithm::on_iterate = nullptr;
    runner.resume(out, {});
    CHECK(rows(out) == rows(scratch / "whole"));
    CHECK(state_of(out) == state_of(scratch / "whole"));
  }
}

TEST_CASE("runner: a complete run is left alone unless it gets more steps") {
  const Scratch scratch;
  Runner runner = make_runner();
  const std::string out = scratch / "a";
  runner.run(recipe({"out=" + out}), false);
  const std::string before = rows(out);
  const RunSummary again = runner.resume(out, {});
  CHECK(again.steps == 320);
  REQUIRE(again.evaluation);
  CHECK(rows(out) == before);

  const std::vector<std::string> more{"trainer.total_steps=480"};
  CHECK(runner.resume(out, more).steps == 480);
  runner.run(recipe({"out=" + (scratch / "long"), "trainer.total_steps=480"}), false);
  CHECK(rows(out) == rows(scratch / "long"));
  CHECK(state_of(out) == state_of(scratch / "long"));
  CHECK(recipe_of_run(out, {}).run.trainer.total_steps == 480);
}

TEST_CASE("runner: what resume refuses, and what fork makes of it") {
  const Scratch scratch;
  Runner runner = make_runner();
  const std::string out = scratch / "a";
  runner.run(recipe({"out=" + out}), false);
  const std::vector<std::string> lr{"trainer.lr=0.5"};
  CHECK(error_of([&] { runner.resume(out, lr); }).find("--fork out=NEW") != std::string::npos);
  const std::vector<std::string> moved{"out=" + (scratch / "b")};
  CHECK(error_of([&] { runner.resume(out, moved); }).find("resumed in its own folder") !=
        std::string::npos);
  CHECK(error_of([&] { runner.fork(out, lr, false); }).find("out=NEW") != std::string::npos);
  const std::vector<std::string> changes{"out=" + (scratch / "b"), "trainer.lr=0.5",
                                         "trainer.total_steps=400"};
  const RunSummary forked = runner.fork(out, changes, false);
  CHECK(forked.steps == 416);  // 320 + 3 rollouts of 32
  CHECK(recipe_of_run(scratch / "b", {}).run.trainer.lr == 0.5);
  CHECK(read_text_file(scratch / "b/parent.yaml").find("step-000000000320") != std::string::npos);
  CHECK(load_recipe(scratch / "b/parent.yaml", {}).run.trainer.lr == 3e-4);
  CHECK(rows(scratch / "b").starts_with("{\"step\": 352"));
  CHECK(error_of([&] { runner.resume(scratch / "none", {}); }).find("there is no run folder") == 0);
}

TEST_CASE("runner: a damaged checkpoint stops a resume and names the file") {
  const Scratch scratch;
  Runner runner = make_runner();
  const std::string out = scratch / "a";
  runner.run(recipe({"out=" + out}), false);
  const std::string state = (find_checkpoint(out) / "state.json").string();
  fs::resize_file(state, 1);
  const std::vector<std::string> more{"trainer.total_steps=480"};
  CHECK(error_of([&] { runner.resume(out, more); }).find("damaged checkpoint: " + state) == 0);
}

TEST_CASE("runner: bars end a run when every one of them is reached") {
  const Scratch scratch;
  Runner runner = make_runner();
  const RunSummary summary =
      runner.run(recipe({"out=" + (scratch / "a"),
                         "trainer.stop={eval/mean_reward: -1, rollout/ep_rew_mean: -1}"}),
                 false);
  CHECK(summary.end == RunEnd::bar);
  CHECK(summary.steps == 96);
  CHECK(error_of([&] {
          runner.run(recipe({"out=" + (scratch / "b"), "trainer.stop.eval/mean_rewrad=1"}), false);
        }) ==
        "override 'trainer.stop.eval/mean_rewrad=1': no evaluation measures 'eval/mean_rewrad', "
        "did you mean 'eval/mean_reward'?");
  CHECK(error_of([&] {
          runner.run(
              recipe({"out=" + (scratch / "b"), "trainer.stop.eval/mean_reward=1", "eval.every=0"}),
              false);
        }).find("'eval.every' is above 0") != std::string::npos);
}

TEST_CASE("runner: a loss that is not finite leaves a checkpoint of the last good state") {
  const Scratch scratch;
  const std::string out = scratch / "a";
  const std::string error = error_of([&] { make_runner(160).run(recipe({"out=" + out}), false); });
  CHECK(error == "stopped after 160 steps: policy.0.weight is nan; the last good state is " + out +
                     "/checkpoints/step-000000000160");
  CHECK(latest_checkpoint(out + "/checkpoints").filename() == "step-000000000160");
  CHECK(make_runner().resume(out, {}).steps == 320);
}

TEST_CASE("runner: seeds give runs of their own and an aggregate") {
  const Scratch scratch;
  const std::string out = scratch / "many";
  const auto many = [&](std::string folder) {
    return load_recipe_text(
        "schema: 1\nseeds: 3\n" + std::string(kRecipe.substr(kRecipe.find("env:"))), "fake.yaml",
        std::vector<std::string>{"out=" + folder});
  };
  Runner runner = make_runner();
  const RunSummary summary = runner.run(many(out), false);
  REQUIRE(summary.aggregate);
  CHECK(summary.aggregate->scores.size() == 3);
  CHECK(summary.aggregate->bar == 0.5);
  CHECK(rows(out + "/seed-0") != rows(out + "/seed-1"));
  CHECK(recipe_of_run(out + "/seed-2", {}).run.seed == 2);
  const std::string json = read_text_file(out + "/aggregate.json");
  CHECK(json.find("\"reached\": 3") != std::string::npos);

  // stopped in the second of them
  const std::string cut = scratch / "cut";
  int iterations = 0;
  FakeAlgorithm::on_iterate = [&](int64_t) {
    if (++iterations == 14) request_interrupt();
  };
  {
    const InterruptGuard guard;
    CHECK(runner.run(many(cut), false).end == RunEnd::interrupted);
  }
  FakeAlgorithm::on_iterate = nullptr;
  CHECK_FALSE(fs::exists(cut + "/aggregate.json"));
  {
    const InterruptGuard guard;
    CHECK(runner.resume(cut, {}).end == RunEnd::steps);
  }
  CHECK(read_text_file(cut + "/aggregate.json") == json);
  CHECK(rows(cut + "/seed-1") == rows(out + "/seed-1"));
}

TEST_CASE("runner: the plan") {
  const Plan plan = make_plan(recipe({"placement.threads=2"}), make_runner().factory);
  CHECK(plan.threads == 2);
  CHECK(plan.batch == 32);
  CHECK(plan.iterations == 10);
  CHECK(plan.parameters == 12'345);
  CHECK(plan.memory_bytes == 1 << 20);
  CHECK(plan.text.find("12.3 k parameters") != std::string::npos);
}
