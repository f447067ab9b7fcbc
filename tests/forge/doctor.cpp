#include "forge/doctor.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>

#include "core/base/error.h"
#include "tests/forge/scratch.h"

namespace bessemer {
namespace {

using Curve = std::function<double(double)>;  // of the share of the run that is done

MeasuredRun run_of(const std::vector<std::pair<std::string, Curve>>& curves, int rows = 50) {
  MeasuredRun run;
  run.rows = rows;
  for (const auto& [name, curve] : curves)
    for (int i = 0; i < rows; ++i)
      run.series[name].push_back({i, curve(static_cast<double>(i) / (rows - 1))});
  return run;
}
Curve flat(double value) {
  return [value](double) { return value; };
}
Curve line(double from, double to) {
  return [from, to](double t) { return from + (to - from) * t; };
}

bool found(const std::vector<Finding>& findings, std::string_view rule) {
  return std::any_of(findings.begin(), findings.end(),
                     [&](const Finding& f) { return f.rule == rule; });
}

const DoctorFacts kGrpo{.algo = "grpo", .language = true, .kl_coef = 0.1, .max_tokens = 16};

TEST_CASE("doctor: a run that learns has nothing wrong") {
  const MeasuredRun run = run_of({{"reward", line(0.2, 0.9)},
                                  {"reward_std", flat(0.4)},
                                  {"frac_reward_zero_std", line(0.3, 0.2)},
                                  {"completions/clipped_ratio", flat(0.01)},
                                  {"kl", line(0, 0.2)},
                                  {"entropy", line(1, 0.4)},
                                  {"grad_norm", flat(1)},
                                  {"mismatch_kl", flat(0)},
                                  {"rewards/solved/mean", line(0.2, 0.9)},
                                  {"rewards/format/mean", line(0.95, 1)},
                                  {"eval/score", line(0.2, 0.85)}});
  CHECK(diagnose(run, {}, kGrpo).empty());
}

TEST_CASE("doctor: each rule fires on its own trouble and on no other") {
  struct Case {
    std::string rule;
    std::vector<std::pair<std::string, Curve>> curves;
  };
  const Case cases[] = {
      {"zero-spread groups", {{"frac_reward_zero_std", flat(0.9)}, {"reward", flat(0)}}},
      {"no end token", {{"completions/clipped_ratio", flat(1)}}},
      {"truncation", {{"completions/clipped_ratio", flat(0.4)}}},
      {"dead KL", {{"kl", flat(0)}}},
      {"KL grows", {{"kl", line(0, 40)}}},
      {"sampler and trainer differ", {{"mismatch_kl", flat(1e-3)}}},
      {"no gradient", {{"grad_norm", flat(0)}}},
      {"gradients grow", {{"grad_norm", [](double t) { return 0.01 * std::exp(10 * t); }}}},
      {"one reward carries the gain",
       {{"rewards/format/mean", line(0.1, 0.9)}, {"rewards/solved/mean", flat(0.1)}}},
      {"reward without the behaviour",
       {{"reward", line(0.1, 0.9)}, {"reward_std", flat(0.3)}, {"eval/score", flat(0.2)}}},
      {"pairs are not told apart", {{"rewards/accuracies", flat(0.5)}}},
      {"both answers become unlikely",
       {{"rewards/chosen", line(0, -8)}, {"rewards/margins", line(0, 1)}}},
      {"the critic explains nothing", {{"train/explained_variance", flat(0)}}},
      {"updates are too large", {{"train/clip_fraction", flat(0.7)}}},
      {"no progress", {{"rollout/ep_rew_mean", flat(9)}}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.rule);
    const auto findings = diagnose(run_of(c.curves), {}, kGrpo);
    REQUIRE(findings.size() == 1);
    CHECK(findings[0].rule == c.rule);
    CHECK_FALSE(findings[0].advice.empty());
  }
}

TEST_CASE("doctor: a solved task is a note, not a problem") {
  ShownCompletion best;
  best.reward = 1;
  const MeasuredRun run = run_of({{"frac_reward_zero_std", flat(0.99)}, {"reward", flat(0.99)}});
  const auto findings = diagnose(run, {&best, 1}, kGrpo);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].weight == Finding::Weight::note);
}

TEST_CASE("doctor: completions tell of truncation where no metric does") {
  std::vector<ShownCompletion> said(10);
  for (ShownCompletion& c : said) c.finish = "length";
  CHECK(found(diagnose(run_of({}), said, kGrpo), "no end token"));
  for (ShownCompletion& c : said) c.finish = "stop";
  CHECK(diagnose(run_of({}), said, kGrpo).empty());
}

TEST_CASE("doctor: measurements that are not finite, and damaged files") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  std::ofstream(path) << "{\"step\": 1, \"loss\": 2}\n{\"step\": 2, \"loss\": null}\n{\"step\": 3";
  const MeasuredRun run = read_measured_run(path);
  CHECK(run.rows == 2);
  CHECK(found(diagnose(run, {}, {.algo = "dpo"}), "not finite"));
  std::ofstream(path) << "{\"step\": 1}\nnonsense\n";
  CHECK_THROWS_WITH_AS(read_measured_run(path), doctest::Contains("metrics.jsonl:2"), ValueError);
}

TEST_CASE("doctor: SFT whose loss stands still") {
  CHECK(found(diagnose(run_of({{"loss", flat(3)}}), {}, {.algo = "sft"}), "the loss stands still"));
  CHECK(diagnose(run_of({{"loss", line(3, 1)}}), {}, {.algo = "sft"}).empty());
}

}  // namespace
}  // namespace bessemer
