// What people point show, doctor and run at: damaged files of a run and recipes of language models.
#include <doctest/doctest.h>

#include <fstream>

#include "core/base/error.h"
#include "forge/completions.h"
#include "forge/config.h"
#include "forge/doctor.h"
#include "tests/forge/scratch.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"

using namespace bessemer;

namespace {

constexpr const char* kSaid =
    R"({"step": 1, "kind": "train", "group": 0, "prompt": "2+3=", "completion": "5", "oracle": "5", "tokens": ["5", "\n"], "token_ids": [53, 10], "log_probs": [-0.1, null], "reward": 1, "rewards": {"solved": 1, "format": 0.5}, "advantage": 0.5, "turns": 1, "finish": "stop"}
{"step": 2, "kind": "eval", "group": 1, "prompt": "é", "completion": "\u00e4", "tokens": ["\ufffd", "\ufffd"], "log_probs": [-5, -0.01], "reward": null, "finish": "length"}
)";
constexpr const char* kMeasured =
    R"({"step": 1, "iteration": 1, "loss": 5.5, "grad_norm": 1.5, "reward": 0.25, "kl": 0, "mismatch_kl": 0, "frac_reward_zero_std": 0.5}
{"step": 2, "iteration": 2, "loss": null, "grad_norm": 150, "reward": 0.75, "kl": 0.1, "mismatch_kl": 0, "eval/score": 0.5, "rewards/solved/mean": 0.2}
)";
constexpr const char* kRecipe = R"(schema: 1
seed: 0
env: {id: ReverseText-v0, options: {min_length: 3}}
model: {kind: decoder, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, vocabulary: bytes, dtype: bf16}
init: {from: runs/sft}
reward: {from: "py:reward.py:score", deadline: 2.5}
rollout: {groups: 8, size: 4, max_tokens: 10, temperature: 0.7, top_k: 5, top_p: 0.9}
trainer:
  algo: grpo
  total_steps: 600
  batch_size: 16
  lr: 2e-4
  micro_tokens: 2048
  advantage: batch
  aggregation: constant
  clip_range_high: 0.28
  dual_clip: 3
  kl_coef: 0.05
  kl: k3
  kl_in: reward
  dynamic_sampling: 2
  overlong_buffer: 4
eval: {every: 50, episodes: 64}
)";

/// Nothing of a text may end its element or leave an attribute.
bool balanced(std::string_view page) {
  const auto count = [&](std::string_view what) {
    int64_t n = 0;
    for (size_t at = page.find(what); at != std::string_view::npos; at = page.find(what, at + 1))
      ++n;
    return n;
  };
  return count("<div") == count("</div>") && count("<span") == count("</span>") &&
         count("<script") == 0;
}

}  // namespace

TEST_CASE("completions: a damaged file is shown or refused, within its memory") {
  const Scratch scratch;
  const std::string path = scratch / "completions.jsonl";
  uint64_t read = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(400);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const std::string text = damaged(kSaid, round);
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << text;
    const PeakMemory peak;
    try {
      const std::vector<ShownCompletion> all = read_completions(path);
      CHECK(completions_text(all, false, 80).find('\x1b') == std::string::npos);
      CHECK(completions_text(all, true, 1).size() >= all.size());
      CHECK(balanced(completions_html(all, "<script>")));
      ++read;
    } catch (const ValueError& error) {
      CHECK(std::string_view(error.what()).starts_with(path + ":"));
      ++refused;
    }
    CHECK(peak.bytes() < memory_allowed(text.size()));
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("doctor: damaged measurements are looked at or refused, within their memory") {
  const Scratch scratch;
  const std::string path = scratch / "metrics.jsonl";
  const DoctorFacts facts{.algo = "grpo", .language = true, .kl_coef = 0.1, .max_tokens = 16};
  uint64_t read = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(400);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const std::string text = damaged(kMeasured, round);
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << text;
    const PeakMemory peak;
    try {
      for (const Finding& finding : diagnose(read_measured_run(path), {}, facts))
        CHECK_FALSE(finding.advice.empty());
      ++read;
    } catch (const ValueError& error) {
      CHECK(std::string_view(error.what()).starts_with(path + ":"));
      ++refused;
    }
    CHECK(peak.bytes() < memory_allowed(text.size()));
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("recipe: a damaged one of a language model is read or refused, within its memory") {
  uint64_t read = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(600);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const std::string text = damaged(kRecipe, round);
    const PeakMemory peak;
    try {
      const Recipe r = load_recipe_text(text, "r.yaml", {});
      CHECK(load_recipe_text(r.yaml(), "again.yaml", {}).yaml() == r.yaml());
      ++read;
    } catch (const RecipeError& error) {
      CHECK(std::string_view(error.what()).starts_with("r.yaml"));
      ++refused;
    }
    // yaml-cpp's scanner keeps 230 bytes for a bracket
    CHECK(peak.bytes() < 4 * memory_allowed(text.size()));
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}
