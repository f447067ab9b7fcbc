#include "forge/doctor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "forge/json_lines.h"

namespace bessemer {

namespace {

using Json = nlohmann::json;
using Weight = Finding::Weight;

std::string brief(double value) {
  char text[48];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}
std::string percent(double share) { return cat(std::lround(100 * share), " %"); }

double mean_of(std::span<const MeasuredRun::Point> points) {
  double total = 0;
  for (const MeasuredRun::Point& p : points) total += p.value;
  return points.empty() ? 0 : total / static_cast<double>(points.size());
}

/// "rewards/NAME/mean" -> NAME; "" for another name.
std::string component_of(std::string_view metric) {
  constexpr std::string_view kBefore = "rewards/", kAfter = "/mean";
  if (!metric.starts_with(kBefore) || !metric.ends_with(kAfter)) return {};
  if (metric.size() <= kBefore.size() + kAfter.size()) return {};
  return std::string(metric.substr(kBefore.size(), metric.size() - kBefore.size() - kAfter.size()));
}

class Examination {
 public:
  Examination(const MeasuredRun& run, std::span<const ShownCompletion> said,
              const DoctorFacts& facts)
      : run_(run), said_(said), facts_(facts) {}

  std::vector<Finding> findings() {
    not_finite();
    gradients();
    mismatch();
    groups();
    truncation();
    dead_kl();
    entropy();
    components();
    oracle();
    preferences();
    supervised();
    values();
    std::stable_sort(found_.begin(), found_.end(),
                     [](const Finding& a, const Finding& b) { return a.weight > b.weight; });
    return std::move(found_);
  }

 private:
  void add(Weight weight, std::string rule, std::string text, std::string advice) {
    found_.push_back({weight, std::move(rule), std::move(text), std::move(advice)});
  }
  bool has(std::string_view name) const { return run_.has(name); }
  double early(std::string_view name) const { return run_.early(name); }
  double late(std::string_view name) const { return run_.late(name); }

  void not_finite() {
    for (const auto& [name, count] : run_.not_finite) {
      if (name.find("loss") == std::string::npos && name != "grad_norm") continue;
      add(Weight::problem, "not finite",
          cat(name, " was not a finite number in ", count, " of ", run_.rows, " rows"),
          "lower trainer.lr, or clip harder with trainer.max_grad_norm");
    }
  }

  void gradients() {
    if (!has("grad_norm")) return;
    const double norm = late("grad_norm");
    if (norm == 0) {
      add(Weight::problem, "no gradient", "the gradient is exactly 0: nothing is being learned",
          facts_.algo == "grpo"
              ? "every group's rewards are equal (see zero-spread groups)"
              : "check that some tokens are trained: ./bessemer data show RECIPE");
    } else if (norm > 100 * std::max(early("grad_norm"), 1e-12)) {
      add(Weight::warning, "gradients grow",
          cat("the gradient's norm went from ", brief(early("grad_norm")), " to ", brief(norm)),
          "lower trainer.lr or trainer.max_grad_norm");
    }
  }

  void mismatch() {
    if (!has("mismatch_kl")) return;
    double worst = 0;
    for (const auto& p : run_.series.find("mismatch_kl")->second)
      worst = std::max(worst, std::fabs(p.value));
    if (worst == 0) return;
    add(Weight::problem, "sampler and trainer differ",
        cat("mismatch_kl reached ", brief(worst), "; it is 0 where both use the same weights"),
        "compare the weight versions in the run's logs; top-k, top-p and bfloat16 across machines "
        "are the usual reasons");
  }

  void groups() {
    if (!has("frac_reward_zero_std")) return;
    const double share = late("frac_reward_zero_std");
    if (share < 0.5) return;
    const double reward = has("reward") ? late("reward") : 0;
    const double best = best_reward();
    const bool solved = best > 0 && reward > 0.95 * best;
    std::string advice;
    if (solved) {
      advice = "the task is solved: end the run, or make its items harder";
    } else if (reward <= 0.05 * std::max(best, 1e-9)) {
      advice =
          "no answer ever earns anything: train longer by SFT first, make items easier, or "
          "give partial credit";
    } else {
      advice = "raise rollout.size or rollout.temperature, or set trainer.dynamic_sampling";
    }
    add(solved        ? Weight::note
        : share > 0.8 ? Weight::problem
                      : Weight::warning,
        "zero-spread groups",
        cat("in ", percent(share),
            " of the groups all answers earn the same, so they teach nothing"),
        advice);
  }

  double best_reward() const {
    double best = 0;
    for (const ShownCompletion& c : said_)
      if (c.reward) best = std::max(best, *c.reward);
    return best;
  }

  void truncation() {
    double share = 0;
    bool known = has("completions/clipped_ratio");
    if (known) {
      share = late("completions/clipped_ratio");
    } else if (!said_.empty()) {
      int64_t cut = 0, told = 0;
      for (const ShownCompletion& c : said_) {
        told += !c.finish.empty();
        cut += c.finish == "length";
      }
      known = told > 0;
      share = known ? static_cast<double>(cut) / static_cast<double>(told) : 0;
    }
    if (!known || share < 0.2) return;
    if (share > 0.95) {
      add(Weight::problem, "no end token",
          cat(percent(share), " of the answers never end by themselves",
              facts_.max_tokens > 0 ? cat(" within ", facts_.max_tokens, " tokens") : ""),
          "the model has not learned its end token: was it trained (not masked) in the SFT data? "
          "./bessemer data show shows it; trainer.missing_eos_penalty helps PPO");
    } else {
      add(Weight::warning, "truncation",
          cat(percent(share), " of the answers are cut off at rollout.max_tokens"),
          "raise rollout.max_tokens, or set trainer.overlong_buffer for a soft penalty");
    }
  }

  void dead_kl() {
    const std::string_view name = has("kl") ? "kl" : "objective/kl";
    if (!has(name)) return;
    const double value = late(name);
    if (facts_.kl_coef > 0 && run_.rows >= 10 && value == 0) {
      add(Weight::problem, "dead KL",
          cat("the KL to the reference is exactly 0 after ", run_.rows, " rows with a weight of ",
              brief(facts_.kl_coef)),
          "the policy does not move away from its reference: is trainer.lr too small, or are both "
          "the same weights?");
    } else if (value > 10 && value > 5 * std::max(early(name), 0.1)) {
      add(Weight::warning, "KL grows",
          cat("the KL to the reference went from ", brief(early(name)), " to ", brief(value)),
          "the policy drifts far from where it started: raise trainer.kl_coef or lower trainer.lr");
    }
  }

  void entropy() {
    if (!has("entropy") || run_.rows < 5) return;
    const double before = early("entropy"), now = late("entropy");
    if (before > 0.05 && now < 0.05 * before && has("reward") &&
        late("reward") < 0.9 * best_reward())
      add(Weight::warning, "entropy collapsed",
          cat("the answers' entropy fell from ", brief(before), " to ", brief(now),
              " before the task was solved"),
          "raise trainer.clip_range_high or trainer.ent_coef, or lower trainer.lr");
  }

  /// One component carries the gain while the others stand still.
  void components() {
    std::string carrier, standing;
    double gain = 0, best = 0;
    for (const auto& [metric, points] : run_.series) {
      const std::string name = component_of(metric);
      if (name.empty() || points.size() < 5) continue;
      const double rise = late(metric) - early(metric);
      gain += std::max(rise, 0.0);
      if (rise > best) {
        best = rise;
        carrier = name;
      }
    }
    if (carrier.empty() || gain < 0.05 || best < 0.9 * gain) return;
    for (const auto& [metric, points] : run_.series) {
      const std::string name = component_of(metric);
      if (name.empty() || name == carrier || points.size() < 5) continue;
      if (late(metric) < 0.9 && std::fabs(late(metric) - early(metric)) < 0.1 * best)
        standing += cat(standing.empty() ? "" : ", ", name);
    }
    if (standing.empty()) return;
    add(Weight::warning, "one reward carries the gain",
        cat("'", carrier, "' rose by ", brief(best), " while ", standing, " did not move"),
        "the model collects the easy part: look at its answers with ./bessemer show, and lower "
        "that part's weight");
  }

  /// Reward without the behaviour that it was meant to reward.
  void oracle() {
    if (!has("reward") || !has("eval/score")) return;
    const double gained = late("reward") - early("reward");
    const double score = late("eval/score") - early("eval/score");
    const double spread = has("reward_std") ? std::max(early("reward_std"), 1e-6) : 1;
    if (run_.series.find("eval/score")->second.size() < 2 || gained < 0.5 * spread ||
        gained < 0.02 || score > 0.02)
      return;
    add(Weight::problem, "reward without the behaviour",
        cat("the training reward rose by ", brief(gained),
            " but the score on held-out items moved by ", brief(score)),
        "the reward is earned in another way than the oracle's: read the best answers with "
        "./bessemer show; with a reward model, it is being exploited (raise trainer.kl_coef)");
  }

  void preferences() {
    if (has("rewards/accuracies") && run_.rows >= 10) {
      const double accuracy = late("rewards/accuracies");
      if (accuracy < 0.55)
        add(Weight::warning, "pairs are not told apart",
            cat("the chosen answer is preferred in ", percent(accuracy), " of the pairs"),
            "chance is 50 %: are chosen and rejected really different? Then raise trainer.lr");
    }
    if (has("rewards/chosen") && has("rewards/margins") && late("rewards/chosen") < 0 &&
        late("rewards/margins") > 0 && late("rewards/chosen") < -2 * late("rewards/margins"))
      add(Weight::warning, "both answers become unlikely",
          cat("the chosen answers' reward fell to ", brief(late("rewards/chosen")),
              " while the margin is ", brief(late("rewards/margins"))),
          "raise trainer.beta, lower trainer.lr, or mix in an SFT loss");
  }

  void supervised() {
    if (facts_.algo != "sft" || !has("loss") || run_.rows < 10) return;
    const double before = early("loss"), now = late("loss");
    if (now > 0.98 * before)
      add(Weight::problem, "the loss stands still",
          cat("it went from ", brief(before), " to ", brief(now), " in ", run_.rows, " rows"),
          "raise trainer.lr tenfold, or look at what is trained: ./bessemer data show RECIPE");
  }

  /// Classic control: a critic that explains nothing, a policy that moves too far.
  void values() {
    if (has("train/explained_variance") && run_.rows >= 20 &&
        late("train/explained_variance") < 0.05)
      add(Weight::warning, "the critic explains nothing",
          cat("train/explained_variance is ", brief(late("train/explained_variance"))),
          "normalise rewards (env.normalize_reward), or give the critic more updates");
    if (has("train/clip_fraction") && late("train/clip_fraction") > 0.5)
      add(Weight::warning, "updates are too large",
          cat(percent(late("train/clip_fraction")), " of the samples are clipped"),
          "lower trainer.lr or trainer.epochs");
    const std::string_view name = "rollout/ep_rew_mean";
    if (has(name) && run_.rows >= 50 && late(name) <= early(name))
      add(Weight::warning, "no progress",
          cat(name, " went from ", brief(early(name)), " to ", brief(late(name))),
          "compare with the recipe's expected curve; other seeds tell luck from error");
  }

  const MeasuredRun& run_;
  std::span<const ShownCompletion> said_;
  const DoctorFacts& facts_;
  std::vector<Finding> found_;
};

}  // namespace

double MeasuredRun::early(std::string_view name) const {
  const auto& points = series.find(name)->second;
  return mean_of(std::span(points).first(std::max<size_t>(points.size() / 5, 1)));
}

double MeasuredRun::late(std::string_view name) const {
  const auto& points = series.find(name)->second;
  return mean_of(std::span(points).last(std::max<size_t>(points.size() / 5, 1)));
}

MeasuredRun read_measured_run(const std::filesystem::path& metrics) {
  const std::string text = read_text_file(metrics.string());
  MeasuredRun run;
  each_json_line(text, metrics.string(), "metrics.jsonl", [&](const Json& json) {
    BESSEMER_CHECK(json.contains("step") && json["step"].is_number_integer(), ValueError,
                   "not a row of measurements; is it a metrics.jsonl?");
    ++run.rows;
    const auto step = json["step"].get<int64_t>();
    for (const auto& [name, value] : json.items()) {
      if (value.is_number()) {
        run.series[name].push_back({step, value.get<double>()});
      } else if (value.is_null()) {
        ++run.not_finite[name];
      }
    }
  });
  return run;
}

std::vector<Finding> diagnose(const MeasuredRun& run, std::span<const ShownCompletion> completions,
                              const DoctorFacts& facts) {
  return Examination(run, completions, facts).findings();
}

}  // namespace bessemer
