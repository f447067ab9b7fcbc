// Every switch of GRPO and PPO changes what docs/post_training.md says: the loss that a trainer
// reports against a computation in double from the completions that it shows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "autograd/engine.h"
#include "tests/forge/scratch.h"
#include "tests/trainer_language/make.h"
#include "trainer/token_loss.h"

using namespace bessemer;

namespace {

struct Said {
  std::vector<double> old, now, reference, value;  // one entry a token
  double env = 0, reward = 0, kl = 0, advantage = 0;
  bool cut = false, used = true;
  double length() const { return static_cast<double>(old.size()); }
};

std::vector<Pack> packs_of(const LanguageTrainer& trainer, const CompletionRecord& c) {
  const Turn turn{Role::user, c.prompt};
  Text text{conversation_prompt(*trainer.model().tokenizer, std::span(&turn, 1)), {}};
  text.continuations.push_back({c.tokens, c.trained});
  return pack_texts(std::span(&text, 1), {});
}

std::vector<double> log_probs(const LanguageTrainer& trainer, const CompletionRecord& c) {
  const std::vector<float> out = text_log_probs(*trainer.model().decoder, packs_of(trainer, c), 1);
  return {out.begin(), out.end()};
}

std::vector<double> values(const LanguageTrainer& trainer, const CompletionRecord& c) {
  const NoGrad no_grad;
  const Pack pack = packs_of(trainer, c).at(0);
  const Tensor x = pack_rows(pack_hidden(*trainer.model().decoder, pack), pack);
  const Tensor value = (*trainer.model().head)(x);
  const auto all = value.values<float>();
  return {all.begin(), all.end()};
}

double kl_of(const std::string& kind, double lp, double ref) {
  const double d = lp - ref;
  return kind == "k1" ? d : kind == "k2" ? d * d / 2 : std::exp(-d) + d - 1;
}

double mean(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
double deviation(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += (v - mean(x)) * (v - mean(x));
  return std::sqrt(sum / static_cast<double>(x.size() - 1));
}

/// A trainer of `config` whose second iteration is looked at: the reference is behind it, and the
/// second of two epochs has other weights than those that sampled.
struct Look {
  Metrics metrics;
  std::vector<Said> said;
};

Look look(RunConfig config) {
  config.rollout.language.groups = 2;
  config.rollout.language.size = 4;
  config.trainer.batch_size = 8;
  config.trainer.lr = 1e-2;
  const auto start = make_toy(config), trainer = make_toy(config);
  run_toy(*trainer, 1);
  trainer->take_completions();
  const Scratch scratch;
  trainer->save(scratch.path);
  const auto before = make_toy(config);
  before->load(scratch.path);
  RunConfig once = config;
  once.trainer.epochs = 1;
  const auto after = make_toy(once);  // the weights between the two epochs
  after->load(scratch.path);
  run_toy(*after, 1);
  Look out;
  out.metrics = run_toy(*trainer, 1);
  for (const CompletionRecord& c : trainer->take_completions()) {
    Said& one = out.said.emplace_back();
    one.old = log_probs(*before, c);
    one.now = log_probs(*after, c);
    one.reference = log_probs(*start, c);
    if (before->model().head) one.value = values(*before, c);
    one.env = c.rewards.at(0).second;
    one.reward = c.reward;
    one.cut = c.cut;
    size_t next = 0;
    for (size_t i = 0; i < c.tokens.size(); ++i)
      if (c.trained[i]) REQUIRE(one.old[next++] == static_cast<double>(c.log_prob[i]));
  }
  REQUIRE(out.said.size() == 8);
  return out;
}

void shape(const RunConfig& config, std::vector<Said>& said) {
  const PostTraining& keys = config.trainer.language;
  const auto most = static_cast<double>(config.rollout.language.max_tokens);
  for (Said& one : said) {
    double reward = one.env - keys.missing_eos_penalty * one.cut;
    if (keys.overlong_buffer > 0) {
      const auto buffer = static_cast<double>(keys.overlong_buffer);
      const double over = one.length() - (most - buffer);
      reward -= keys.overlong_factor * std::clamp(over / buffer, 0.0, 1.0);
    }
    REQUIRE(one.reward == doctest::Approx(reward));
    one.used = !(keys.overlong_filter && one.cut);
    for (size_t t = 0; t < one.old.size(); ++t)
      one.kl += kl_of(keys.kl, one.old[t], one.reference[t]);
    if (keys.kl_in == "reward" && config.uses() == kUsesGrpo) reward -= keys.kl_coef * one.kl;
    one.reward = reward;
  }
}

void advantages(const std::string& kind, std::vector<Said>& said) {
  std::vector<double> all;
  for (const Said& one : said)
    if (one.used) all.push_back(one.reward);
  for (size_t first = 0; first < said.size(); first += 4) {
    std::vector<double> rewards;
    for (size_t i = first; i < first + 4; ++i)
      if (said[i].used) rewards.push_back(said[i].reward);
    if (rewards.size() < 2) continue;
    const auto n = static_cast<double>(rewards.size());
    for (size_t i = first; i < first + 4; ++i) {
      if (!said[i].used) continue;
      const double a = said[i].reward - mean(rewards);
      said[i].advantage = kind == "group"   ? a / (deviation(rewards) + 1e-4)
                          : kind == "batch" ? a / (deviation(all) + 1e-4)
                          : kind == "none"  ? a
                                            : a * n / (n - 1);
    }
  }
}

/// The loss of one epoch; `clipped` counts what the clip holds back.
double policy_loss(const RunConfig& config, const std::vector<Said>& said, bool second,
                   double& clipped) {
  const PostTraining& keys = config.trainer.language;
  const double low = 1 - config.trainer.clip_range;
  const double high = 1 + keys.clip_range_high.value_or(config.trainer.clip_range);
  double answers = 0, tokens = 0, loss = 0;
  for (const Said& one : said) {
    answers += one.used;
    tokens += one.used ? one.length() : 0;
  }
  clipped = 0;
  for (const Said& one : said) {
    if (!one.used) continue;
    double sum = 0;
    for (size_t t = 0; t < one.old.size(); ++t) {
      const double lp = second ? one.now[t] : one.old[t], rho = std::exp(lp - one.old[t]);
      const double free = -one.advantage * rho;
      double l = std::max(free, -one.advantage * std::clamp(rho, low, high));
      clipped += l > free;
      if (keys.dual_clip && one.advantage < 0) l = std::min(l, -*keys.dual_clip * one.advantage);
      if (keys.kl_in == "loss") l += keys.kl_coef * kl_of(keys.kl, lp, one.reference[t]);
      sum += l;
    }
    if (keys.aggregation == "token_mean") loss += sum / tokens;
    if (keys.aggregation == "sequence_mean") loss += sum / one.length() / answers;
    if (keys.aggregation == "constant")
      loss += sum / (answers * static_cast<double>(config.rollout.language.max_tokens));
  }
  clipped /= tokens;
  return loss;
}

struct Variant {
  const char* name;
  std::function<void(PostTraining&)> change;
};

const Variant kVariants[] = {
    {"GRPO", [](PostTraining&) {}},
    {"GRPO as published", [](PostTraining& k) { k.aggregation = "sequence_mean"; }},
    {"Dr. GRPO",
     [](PostTraining& k) {
       k.advantage = "none";
       k.aggregation = "constant";
     }},
    {"batch deviation", [](PostTraining& k) { k.advantage = "batch"; }},
    {"leave one out", [](PostTraining& k) { k.advantage = "leave_one_out"; }},
    {"clip higher", [](PostTraining& k) { k.clip_range_high = 0.6; }},
    {"dual clip", [](PostTraining& k) { k.dual_clip = 1.05; }},
    {"k1 in the loss",
     [](PostTraining& k) {
       k.kl_coef = 0.5;
       k.kl = "k1";
     }},
    {"k2 in the loss",
     [](PostTraining& k) {
       k.kl_coef = 0.5;
       k.kl = "k2";
     }},
    {"k3 in the loss", [](PostTraining& k) { k.kl_coef = 0.5; }},
    {"k1 in the reward",
     [](PostTraining& k) {
       k.kl_coef = 0.5;
       k.kl = "k1";
       k.kl_in = "reward";
     }},
    {"k3 in the reward",
     [](PostTraining& k) {
       k.kl_coef = 0.5;
       k.kl_in = "reward";
     }},
    {"soft overlong",
     [](PostTraining& k) {
       k.overlong_buffer = 4;
       k.overlong_factor = 0.7;
     }},
    {"overlong filter", [](PostTraining& k) { k.overlong_filter = true; }},
    {"missing end", [](PostTraining& k) { k.missing_eos_penalty = 0.8; }},
};

/// Starts from weights that have half learned to stop, so that some answers end and some are cut.
RunConfig uneven(const char* algo) {
  static const Scratch scratch;
  static const bool made = [] {
    const auto sft = make_toy(toy_config("sft"));
    run_toy(*sft, 12);
    sft->save(scratch.path);
    return true;
  }();
  REQUIRE(made);
  RunConfig config = toy_config(algo);
  config.init.folder = scratch.path.string();
  config.rollout.language.max_tokens = 8;
  return config;
}

}  // namespace

TEST_CASE("grpo: every variant's loss is the one of its formula") {
  std::vector<double> losses;
  for (const Variant& variant : kVariants) {
    CAPTURE(std::string(variant.name));
    RunConfig config = uneven("grpo");
    config.trainer.epochs = 2;
    config.trainer.clip_range = 0.1;
    variant.change(config.trainer.language);
    config.check();
    Look found = look(config);
    shape(config, found.said);
    advantages(config.trainer.language.advantage, found.said);
    double first_clip = 0, second_clip = 0;
    const double first = policy_loss(config, found.said, false, first_clip);
    const double second = policy_loss(config, found.said, true, second_clip);
    CHECK(found.metrics.get("loss") == doctest::Approx((first + second) / 2).epsilon(1e-4));
    CHECK(first_clip == 0);
    // Where an advantage is 0 but for rounding, so is what the clip does.
    const bool plain = std::none_of(found.said.begin(), found.said.end(), [](const Said& one) {
      return one.used && std::abs(one.advantage) < 1e-6;
    });
    if (plain)
      CHECK(found.metrics.get("clip_ratio/region_mean") == doctest::Approx(second_clip / 2));
    CHECK(second_clip > 0);
    for (size_t i = 0; i < losses.size(); ++i)
      CHECK_MESSAGE(losses[i] != found.metrics.get("loss"), "as ", std::string(kVariants[i].name));
    losses.push_back(found.metrics.get("loss"));
  }
}

TEST_CASE("ppo: the critic learns the returns of rewards with KL and penalties") {
  for (const double penalty : {0.0, 0.8}) {
    RunConfig config = uneven("ppo");
    config.trainer.epochs = 1;
    config.trainer.gamma = 0.97;
    config.trainer.language.kl_coef = 0.3;
    config.trainer.language.missing_eos_penalty = penalty;
    Look found = look(config);
    shape(config, found.said);
    double tokens = 0, value_loss = 0;
    for (const Said& one : found.said) {
      double next = 0, running = 0;
      for (size_t t = one.old.size(); t-- > 0;) {
        double reward = -config.trainer.language.kl_coef * (one.old[t] - one.reference[t]);
        if (t + 1 == one.old.size()) reward += one.reward;
        running = reward + config.trainer.gamma * next - one.value[t] +
                  config.trainer.gamma * config.trainer.gae_lambda * running;
        next = one.value[t];
        value_loss += 0.5 * running * running;  // the return is the advantage and the value
        ++tokens;
      }
    }
    // Whitened advantages have mean 0, so that at ratio 1 the critic's part is all there is.
    CHECK(found.metrics.get("loss/value_avg") ==
          doctest::Approx(value_loss / tokens).epsilon(1e-4));
    CHECK(found.metrics.get("loss") ==
          doctest::Approx(config.trainer.vf_coef * value_loss / tokens).epsilon(1e-3));
  }
}

TEST_CASE("dynamic sampling replaces groups without spread") {
  RunConfig config = toy_config("grpo");
  config.rollout.language.size = 2;
  config.rollout.language.max_tokens = 1;  // right or wrong
  config.trainer.batch_size = 8;
  config.check();
  double flat = 0, kept = 0, rounds = 0;
  for (const int64_t more : {0, 20}) {
    config.trainer.language.dynamic_sampling = more;
    const auto trainer = make_toy(config);
    for (int i = 0; i < 3; ++i) {
      const Metrics metrics = run_toy(*trainer, 1);
      (more ? kept : flat) += metrics.get("frac_reward_zero_std");
      if (more) rounds += metrics.get("sampling/rounds");
    }
  }
  CHECK(flat > 0);
  CHECK(kept == 0);
  CHECK(rounds > 3);
}

TEST_CASE("a failed episode is no spread: groups whose other rewards are equal teach nothing") {
  RunConfig config = toy_config("grpo");
  config.rollout.language.max_tokens = 1;
  config.check();
  Grpo trainer(config, toy_pool(), low_bytes(1, "strict"));
  for (int i = 0; i < 4; ++i) {
    const Metrics metrics = run_toy(trainer, 1);
    CHECK(metrics.get("faults") > 0);
    CHECK(metrics.get("faults") < 1);
    CHECK(metrics.get("reward") == 1);
    CHECK(metrics.get("frac_reward_zero_std") == 1);
  }
}
