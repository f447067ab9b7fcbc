#include "forge/evaluation.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "forge/json.h"
#include "forge/statistics.h"

namespace bessemer {

namespace {

std::string brief(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

int64_t reached(const Aggregate& aggregate) {
  return std::count_if(aggregate.scores.begin(), aggregate.scores.end(),
                       [&](double score) { return score >= aggregate.bar; });
}

std::string interval_json(std::pair<double, double> interval) {
  return cat("[", json_number(interval.first), ", ", json_number(interval.second), "]");
}

}  // namespace

Evaluation evaluate(Algorithm& algorithm, int64_t episodes, int64_t seed, bool deterministic) {
  EvalResult result = algorithm.evaluate(episodes, seed, deterministic);
  Evaluation out;
  out.returns = std::move(result.returns);
  out.lengths = std::move(result.lengths);
  out.scores = result.scores;
  out.unit = result.unit;
  out.means = std::move(result.means);
  out.step = algorithm.steps();
  out.seed = seed;
  out.deterministic = deterministic;
  out.mean = mean(out.returns);
  out.std = standard_deviation(out.returns);
  out.iqm = interquartile_mean(out.returns);
  out.interval = bootstrap_interval(out.returns);
  return out;
}

std::string evaluation_json(const Evaluation& e) {
  JsonObject json;
  if (e.scores) json.add("score", e.mean);
  for (const auto& [name, value] : e.means) json.add(name, value);
  json.add("mean", e.mean).add("std", e.std).add("iqm", e.iqm);
  json.add_raw("interval", interval_json(e.interval));
  if (!e.returns.empty()) {
    const auto [low, high] = std::minmax_element(e.returns.begin(), e.returns.end());
    json.add("min", *low).add("max", *high);
  }
  json.add("episodes", static_cast<int64_t>(e.returns.size())).add("seed", e.seed);
  json.add("deterministic", e.deterministic).add("step", e.step);
  json.add("returns", std::span<const double>(e.returns));
  json.add("lengths", std::span<const int64_t>(e.lengths));
  return json.text();
}

std::string evaluation_text(const Evaluation& e) {
  if (e.scores) {
    std::string out = cat("score ", brief(e.mean), " on ", e.returns.size(), " held-out ", e.unit);
    for (const auto& [name, value] : e.means) {
      std::string_view shown = name;
      for (const std::string_view prefix : {"eval/", "rewards/"})
        if (shown.starts_with(prefix)) shown.remove_prefix(prefix.size());
      out += cat(", ", shown, " ", brief(value));
    }
    return out;
  }
  return cat("mean ", brief(e.mean), " ± ", brief(e.std), ", IQM ", brief(e.iqm),
             " (95 % interval ", brief(e.interval.first), " to ", brief(e.interval.second), "), ",
             e.returns.size(), " episodes");
}

bool judged_by_data(const RunConfig& run) {
  return run.uses() == kUsesReward || ((run.uses() & kUsesLanguage) && run.env.id.empty());
}

std::vector<std::string> evaluation_metric_names(const RunConfig& run) {
  if (!(run.uses() & kUsesLanguage))
    return {"eval/mean_reward", "eval/std_reward", "eval/iqm_reward", "eval/mean_ep_length"};
  std::vector<std::string> names = {"eval/score", "eval/mean_length"};
  const auto add = [&](std::initializer_list<const char*> more) {
    for (const char* name : more) names.push_back(cat("eval/", name));
  };
  if (!judged_by_data(run))
    add({"reward", "mean_turns", "clipped_ratio"});
  else if (run.uses() == kUsesSft)
    add({"loss", "mean_token_accuracy"});
  else if (run.uses() == kUsesReward)
    add({"loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward"});
  else
    add({"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
         "logps/chosen", "logps/rejected"});
  return names;
}

void add_evaluation(const Evaluation& e, Metrics& metrics) {
  double length = 0;
  for (int64_t l : e.lengths) length += static_cast<double>(l);
  if (!e.lengths.empty()) length /= static_cast<double>(e.lengths.size());
  if (e.scores) {
    metrics.last("eval/score", e.mean);
    metrics.last("eval/mean_length", length);
    for (const auto& [name, value] : e.means) metrics.last(name, value);
    return;
  }
  metrics.last("eval/mean_reward", e.mean);
  metrics.last("eval/std_reward", e.std);
  metrics.last("eval/iqm_reward", e.iqm);
  metrics.last("eval/mean_ep_length", length);
}

std::string aggregate_json(const Aggregate& a) {
  JsonObject json;
  json.add("mean", mean(a.scores)).add("std", standard_deviation(a.scores));
  json.add("iqm", interquartile_mean(a.scores));
  json.add_raw("interval", interval_json(bootstrap_interval(a.scores)));
  json.add("bar", a.bar);
  if (std::isfinite(a.bar)) json.add("reached", reached(a));
  json.add("seeds", std::span<const int64_t>(a.seeds));
  json.add("scores", std::span<const double>(a.scores));
  return json.text();
}

std::string aggregate_text(const Aggregate& a) {
  const auto interval = bootstrap_interval(a.scores);
  std::string out =
      cat(a.scores.size(), " seeds: IQM ", brief(interquartile_mean(a.scores)), " (95 % interval ",
          brief(interval.first), " to ", brief(interval.second), ")");
  if (std::isfinite(a.bar)) {
    out += cat(", ", reached(a), " of ", a.scores.size(), " reach ", brief(a.bar));
  }
  return out;
}

}  // namespace bessemer
