// A number that is not finite leaves a run at its last good state, from which it can go on.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <limits>

#include "tests/forge/scratch.h"
#include "tests/trainer_language/make.h"

using namespace bessemer;

namespace {

constexpr const char* kAlgos[] = {"sft", "reward", "dpo", "grpo", "ppo"};

/// Iterates until it fails; the message, or "" where it does not.
std::string failure(LanguageTrainer& trainer, int64_t iterations) {
  try {
    run_toy(trainer, iterations);
  } catch (const NotFiniteError& error) {
    return error.what();
  }
  return "";
}

/// Everything that a checkpoint holds of a trainer's progress.
std::string saved(const LanguageTrainer& trainer) {
  const Scratch scratch;
  trainer.save(scratch.path);
  std::string out = weights_of(trainer);
  for (const char* name : {"train.safetensors", "state.json"}) {
    std::ifstream file(scratch / name, std::ios::binary);
    out.append(std::istreambuf_iterator<char>(file), {});
  }
  return out;
}

void poison(const LanguageTrainer& trainer) {
  Tensor weight = trainer.model().decoder->named_parameters()[3].second;
  weight.data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  weight.bump();
}

}  // namespace

TEST_CASE("a learning rate that blows up leaves the weights from before it") {
  for (const char* algo : kAlgos) {
    CAPTURE(algo);
    RunConfig config = toy_config(algo);
    const std::string fresh = saved(*make_toy(config));
    config.trainer.lr = 1e30;
    config.trainer.batch_size = 8;
    const auto trainer = make_toy(config);
    const std::string message = failure(*trainer, 3);
    INFO(message);
    CHECK(message.starts_with(cat("[", algo, "] ")));
    CHECK((message.find("finite") < message.size() || message.find("nan") < message.size()));
    CHECK(message.find("at step ") != std::string::npos);
    CHECK(message.find("(back at step 0, the last good one)") != std::string::npos);
    CHECK(trainer->steps() == 0);
    CHECK(trainer->updates() == 0);
    const auto without_recipe = [](std::string text) {  // the learning rate belongs to its hash
      const size_t at = text.rfind("\"recipe\"");
      return text.erase(at, text.find('\n', at) - at);
    };
    const bool same = without_recipe(saved(*trainer)) == without_recipe(fresh);
    CHECK(same);
  }
}

TEST_CASE("a run that failed goes on from its last good iteration with the same bits") {
  for (const char* algo : kAlgos) {
    CAPTURE(algo);
    RunConfig config = toy_config(algo);
    config.trainer.batch_size = 8;  // two steps an iteration where it samples itself
    config.trainer.epochs = 1;
    const auto whole = make_toy(config), hurt = make_toy(config);
    run_toy(*whole, 14);
    run_toy(*hurt, 11);
    // Every iteration's beginning is kept where it has several steps, else every eighth.
    const int64_t good = config.steps_per_iteration() > 1 ? 2 * 10 : 8;
    poison(*hurt);
    const std::string message = failure(*hurt, 1);
    INFO(message);
    CHECK(message.find(cat("(back at step ", good, ", ")) != std::string::npos);
    CHECK(hurt->steps() == good);
    while (hurt->steps() < whole->steps()) run_toy(*hurt, 1);
    const bool same = saved(*hurt) == saved(*whole);
    CHECK(same);
  }
}

TEST_CASE("weights that cannot be judged are not good either") {
  for (const char* algo : {"sft", "reward", "grpo"}) {
    CAPTURE(algo);
    const auto trainer = make_toy(toy_config(algo));
    run_toy(*trainer, 2);
    poison(*trainer);
    CHECK_THROWS_WITH_AS(trainer->evaluate(4, 1, true), doctest::Contains("(back at step 0, "),
                         NotFiniteError);
    CHECK(trainer->evaluate(4, 1, true).returns.size() > 0);
  }
}

/// Environments of a server that is away whenever `away` says so of a number of resets.
class Elsewhere final : public EnvBatch {
 public:
  Elsewhere(std::unique_ptr<EnvBatch> here, int64_t& resets, std::function<bool(int64_t)> away)
      : here_(std::move(here)), resets_(resets), away_(std::move(away)) {}
  const Spec& spec() const override { return here_->spec(); }
  int64_t num_envs() const override { return here_->num_envs(); }
  Autoreset autoreset() const override { return here_->autoreset(); }
  void reset(std::span<const uint64_t> seeds, const Options& options, std::span<const uint8_t> mask,
             const StepBuffers& out) override {
    if (away_(++resets_)) fail<IoError>("the server is gone");
    here_->reset(seeds, options, mask, out);
  }
  void step(const Actions& actions, const StepBuffers& out) override { here_->step(actions, out); }
  void send(const Actions& actions, std::span<const int64_t> ids) override {
    here_->send(actions, ids);
  }
  int64_t recv(int64_t at_least, const StepBuffers& out, std::span<int64_t> ids) override {
    return here_->recv(at_least, out, ids);
  }
  std::string save(int64_t env) const override { return here_->save(env); }
  void load(int64_t env, std::string_view state) override { here_->load(env, state); }
  void render(int64_t env, Canvas& canvas) const override { here_->render(env, canvas); }
  std::string fault_reason(int64_t row) const override { return here_->fault_reason(row); }
  void observe(const StepBuffers& out) const override { here_->observe(out); }

 private:
  std::unique_ptr<EnvBatch> here_;
  int64_t& resets_;
  std::function<bool(int64_t)> away_;
};

TEST_CASE("after any other error a run stands where its iteration began") {
  const RunConfig config = toy_config("grpo");
  const auto whole = make_toy(config);
  run_toy(*whole, 3);
  int64_t resets = 0, made = 0;
  std::function<bool(int64_t)> away;
  const EnvFactory envs = [&](const BatchOptions& options) {
    ++made;
    return std::make_unique<Elsewhere>(low_bytes()(options), resets, away);
  };
  away = [](int64_t reset) { return reset == 3 || reset == 4; };  // kept ones, then new ones
  Grpo lost(config, toy_pool(), envs);
  run_toy(lost, 2);
  const std::string before = saved(lost);
  CHECK_THROWS_AS(run_toy(lost, 1), IoError);
  bool same = saved(lost) == before;
  CHECK(same);
  run_toy(lost, 1);
  same = saved(lost) == saved(*whole);
  CHECK(same);

  resets = made = 0;
  away = [](int64_t reset) { return reset == 3; };
  Grpo kept(config, toy_pool(), envs);
  run_toy(kept, 3);
  CHECK(made == 3);  // for the spec, for two plays, and after they were gone
  same = saved(kept) == saved(*whole);
  CHECK(same);
}
