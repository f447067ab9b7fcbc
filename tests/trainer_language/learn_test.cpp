// Each algorithm learns something tiny, goes on where it stopped with the same bits, and samples
// with the probabilities that it trains on.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/forge/scratch.h"
#include "tests/trainer_language/make.h"

using namespace bessemer;

namespace {

double reward_of(LanguageTrainer& trainer) {
  double sum = 0;
  for (int i = 0; i < 2; ++i) {
    Metrics metrics;
    trainer.iterate(metrics);
    sum += metrics.get("reward");
  }
  return sum / 2;
}

}  // namespace

TEST_CASE("sft learns the oracle's answers") {
  RunConfig config = toy_config("sft");
  Sft trainer(config, toy_pool(), low_bytes());
  const double before = run_toy(trainer, 1).get("loss");
  const Metrics after = run_toy(trainer, 40);
  CHECK(before > 5);
  CHECK(after.get("loss") < 1.5);
  CHECK(after.get("mean_token_accuracy") > 0.5);
  const EvalResult judged = trainer.evaluate(8, 1, true);
  CHECK(judged.scores);
  CHECK(judged.returns.size() == 8);
  CHECK(trainer.take_completions().size() == 8);
  CHECK(trainer.take_completions().empty());
}

TEST_CASE("grpo learns what is rewarded") {
  RunConfig config = toy_config("grpo");
  Grpo trainer(config, toy_pool(), low_bytes());
  const double before = reward_of(trainer);
  run_toy(trainer, 25);
  const double after = reward_of(trainer);
  CAPTURE(before);
  CHECK(after > before + 0.25);
}

TEST_CASE("ppo learns what is rewarded, its critic what to expect") {
  RunConfig config = toy_config("ppo");
  config.trainer.language.kl_coef = 0.001;
  PpoLanguage trainer(config, toy_pool(), low_bytes());
  const double before = reward_of(trainer);
  run_toy(trainer, 20);
  const double after = reward_of(trainer);
  CAPTURE(before);
  CHECK(after > before + 0.2);
}

TEST_CASE("dpo and reward models learn which of two answers is better") {
  RunConfig config = toy_config("dpo");
  Dpo dpo(config, toy_pool(), low_bytes());
  const Metrics first = run_toy(dpo, 1);
  CHECK(first.get("loss") == doctest::Approx(std::log(2.0)));  // the policy is the reference
  CHECK(first.get("rewards/margins") == doctest::Approx(0));
  CHECK(run_toy(dpo, 25).get("rewards/accuracies") > 0.8);

  config = toy_config("reward");
  RewardTrainer reward(config, toy_pool(), low_bytes());
  run_toy(reward, 30);
  const EvalResult judged = reward.evaluate(32, 5, true);
  double right = 0;
  for (const double r : judged.returns) right += r;
  CHECK(right / static_cast<double>(judged.returns.size()) > 0.8);
}

TEST_CASE("sampling and training agree in bits: mismatch 0 and first ratio 1, exactly") {
  for (const char* algo : {"grpo", "ppo"}) {
    for (const int64_t turns : {1, 3}) {
      CAPTURE(algo);
      CAPTURE(turns);
      RunConfig config = toy_config(algo);
      config.rollout.language.temperature = 0.8;
      config.trainer.batch_size = 8;
      const auto trainer = make_toy(config, turns);
      for (int i = 0; i < 3; ++i) {
        const Metrics metrics = run_toy(*trainer, 1);
        REQUIRE(metrics.get("mismatch_kl") == 0);
        REQUIRE(metrics.get("sampling/sampling_logp_difference/max") == 0);
        REQUIRE(metrics.get("sampling/importance_sampling_ratio/min") == 1);
        REQUIRE(metrics.get("sampling/importance_sampling_ratio/max") == 1);
        REQUIRE(metrics.get("completions/turns") == static_cast<double>(turns));
      }
    }
  }
}

TEST_CASE("a run that goes on has the bits of one that never stopped") {
  for (const char* algo : {"sft", "reward", "dpo", "grpo", "ppo"}) {
    CAPTURE(algo);
    const Scratch scratch;
    RunConfig config = toy_config(algo);
    config.trainer.lr_schedule = "linear";
    config.trainer.total_steps = 20;
    const auto whole = make_toy(config);
    run_toy(*whole, 4);
    {
      const auto half = make_toy(config);
      run_toy(*half, 2);
      half->evaluate(4, 1, true);  // judging changes nothing
      half->save(scratch.path);
    }
    const auto rest = make_toy(config);
    rest->load(scratch.path);
    run_toy(*rest, 2);
    CHECK(rest->steps() == whole->steps());
    const bool same = weights_of(*rest) == weights_of(*whole);
    CHECK(same);
  }
}

TEST_CASE("micro-batches change nothing but rounding") {
  RunConfig config = toy_config("grpo");
  config.trainer.language.micro_tokens = 100'000;
  const auto one = make_toy(config);
  config.trainer.language.micro_tokens = 40;
  const auto many = make_toy(config);
  const Metrics a = run_toy(*one, 1), b = run_toy(*many, 1);
  CHECK(a.get("loss") == doctest::Approx(b.get("loss")).epsilon(1e-5));
  CHECK(a.get("grad_norm") == doctest::Approx(b.get("grad_norm")).epsilon(1e-4));
}

TEST_CASE("only the model's tokens are trained in conversations of several turns") {
  RunConfig config = toy_config("grpo");
  const auto trainer = make_toy(config, 3);
  run_toy(*trainer, 1);
  const std::vector<CompletionRecord> shown = trainer->take_completions();
  REQUIRE(shown.size() == 8);
  for (const CompletionRecord& c : shown) {
    CHECK(c.turns == 3);
    CHECK(c.completion.find("<|im_start|>user\nq") != std::string::npos);
    REQUIRE(c.tokens.size() == c.trained.size());
    REQUIRE(c.tokens.size() == c.log_prob.size());
    int64_t own = 0;
    for (size_t i = 0; i < c.tokens.size(); ++i) {
      own += c.trained[i];
      if (!c.trained[i]) REQUIRE(c.log_prob[i] == 0);
    }
    CHECK(own >= 3);
    CHECK(own <= 3 * config.rollout.language.max_tokens);
  }
}

TEST_CASE("credit to turns: a turn's tokens have its rewards to go, against the group's") {
  struct Probe : Grpo {
    using Grpo::Grpo;
    int64_t turns = 0;
    void prepare(std::vector<Sample>& samples, Metrics& metrics) override {
      Grpo::prepare(samples, metrics);
      for (size_t group = 0; group < samples.size(); group += 4) {
        for (size_t t = 0; t < 3; ++t) {
          double mean = 0;
          for (size_t i = group; i < group + 4; ++i)
            for (size_t later = t; later < 3; ++later)
              mean += samples[i].episode.turn_reward[later] / 4.0;
          for (size_t i = group; i < group + 4; ++i) {
            const Episode& episode = samples[i].episode;
            REQUIRE(episode.turn_end.size() == 3);
            REQUIRE(episode.turn_end.back() == episode.length());
            double to_go = 0, all = 0;
            for (size_t turn = 0; turn < 3; ++turn) {
              all += episode.turn_reward[turn];
              if (turn >= t) to_go += episode.turn_reward[turn];
            }
            CHECK(episode.reward == doctest::Approx(all));
            const int64_t begin = t == 0 ? 0 : episode.turn_end[t - 1];
            REQUIRE(begin < episode.turn_end[t]);
            for (int64_t token = begin; token < episode.turn_end[t]; ++token)
              CHECK(samples[i].advantage[static_cast<size_t>(token)] ==
                    doctest::Approx(to_go - mean).epsilon(1e-5));
            ++turns;
          }
        }
      }
    }
  };
  RunConfig config = toy_config("grpo");
  config.trainer.language.credit = "turn";
  config.trainer.language.advantage = "none";
  Probe trainer(config, toy_pool(), low_bytes(3));
  CHECK(run_toy(trainer, 1).get("mismatch_kl") == 0);
  CHECK(trainer.turns == 4 * 4 * 3);
}

TEST_CASE("weights of another shape or vocabulary are refused by name") {
  const Scratch scratch;
  RunConfig config = toy_config("sft");
  Sft(config, toy_pool(), low_bytes()).save(scratch.path);
  config.init.folder = scratch.path.string();
  config.model.decoder.hidden_size = 64;
  CHECK_THROWS_WITH_AS(Sft(config, toy_pool(), low_bytes()),
                       doctest::Contains("model.hidden_size is 64, but"), ValueError);
  config.model.decoder = {};
  const Sft same(config, toy_pool(), low_bytes());
  CHECK(same.model().decoder->config().hidden_size == 32);
  config.init.folder = scratch / "nowhere";
  CHECK_THROWS_WITH_AS(Sft(config, toy_pool(), low_bytes()),
                       doctest::Contains("holds no language model"), ValueError);
}

TEST_CASE("prompts beyond the context are marked and leave the loss alone") {
  RunConfig config = toy_config("grpo");
  config.model.decoder.max_position_embeddings = 16;  // the chat's frame alone is longer
  const auto trainer = make_toy(config);
  const std::string before = weights_of(*trainer);
  const Metrics metrics = run_toy(*trainer, 1);
  CHECK(metrics.get("faults") == 1);
  CHECK(trainer->take_completions()[0].finish == "prompt_too_long");
  const bool same = weights_of(*trainer) == before;
  CHECK(same);
}

TEST_CASE("questions that are no UTF-8 are answered byte for byte") {
  for (const char* algo : {"grpo", "dpo"}) {
    RunConfig config = toy_config(algo);
    std::unique_ptr<LanguageTrainer> trainer;
    if (config.uses() == kUsesGrpo)
      trainer = std::make_unique<Grpo>(config, toy_pool(), low_bytes(1, "raw"));
    else
      trainer = std::make_unique<Dpo>(config, toy_pool(), low_bytes(1, "raw"));
    const Metrics metrics = run_toy(*trainer, 2);
    CHECK(metrics.get("grad_norm") > 0);
    trainer->evaluate(4, 1, true);
    for (const CompletionRecord& said : trainer->take_completions())
      CHECK(said.prompt.ends_with("\xff\xc3"));
  }
}

TEST_CASE("rewards that are no number mark their episodes and leave the others alone") {
  RunConfig config = toy_config("grpo");
  Grpo trainer(config, toy_pool(), low_bytes(1, "odd"));
  Metrics metrics = run_toy(trainer, 1);
  const double faults = metrics.get("faults");
  CHECK(faults > 0);
  CHECK(faults < 1);
  CHECK(metrics.get("reward") > 0);
  CHECK(metrics.get("grad_norm") > 0);
  int64_t marked = 0;
  for (const CompletionRecord& said : trainer.take_completions()) {
    if (said.finish.find("nan") == std::string::npos) continue;
    ++marked;
    CHECK(std::isnan(said.reward));
    CHECK(said.advantage == 0);
  }
  CHECK(marked > 0);
  const EvalResult judged = trainer.evaluate(16, 1, true);
  CHECK(judged.means.back().first == "eval/faults");
  CHECK(judged.means.back().second > 0);
  for (const double score : judged.returns) CHECK(score >= 0);

  config = toy_config("dpo");
  Dpo pairs(config, toy_pool(), low_bytes(1, "odd"));
  metrics = run_toy(pairs, 1);
  CHECK(metrics.get("faults") > 0);
  CHECK(metrics.get("data/pairs") > 0);
  CHECK(std::isfinite(metrics.get("data/reward")));
}
