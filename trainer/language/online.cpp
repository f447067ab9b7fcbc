#include "trainer/language/online.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "autograd/engine.h"
#include "trainer/language/text_feed.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kShown = 8;  // completions of an iteration that are kept for people

template <class T>
double mean_of(const std::vector<T>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Unbiased, as TRL's.
double deviation_of(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double squares = 0;
  for (const double x : values) squares += (x - mean) * (x - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

}  // namespace

OnlineTrainer::OnlineTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs,
                             bool head, const SourceFactory& sources)
    : LanguageTrainer(config, pool, std::move(make_envs), head) {
  if (config_.act_only) return;
  if (sources.episodes) {
    source_ = sources.episodes({*model_.decoder, *model_.tokenizer});
  } else {
    source_ = std::make_shared<InlineEpisodes>(
        [this](const PlayOptions& options) { return play(options, generator()); });
  }
  if (config_.trainer.language.kl_coef > 0) reference_ = frozen_copy(*model_.decoder);
  scorer_ = make_scorer(config_, *model_.tokenizer);
}

std::vector<Text> OnlineTrainer::preview(int64_t count) {
  Counters counters = counters_;
  std::vector<Text> texts;
  for (Episode& episode : play(next_play(count, counters), generator())) {
    if (texts.size() == static_cast<size_t>(count)) break;
    texts.push_back({std::move(episode.prompt), {std::move(episode.continuation)}});
  }
  return texts;
}

KlEstimator OnlineTrainer::kl_estimator() const {
  const std::string& name = config_.trainer.language.kl;
  return name == "k1" ? KlEstimator::k1 : name == "k2" ? KlEstimator::k2 : KlEstimator::k3;
}

TokenPolicyOptions OnlineTrainer::policy_options() const {
  const PostTraining& keys = config_.trainer.language;
  TokenPolicyOptions out;
  out.clip_low = config_.trainer.clip_range;
  out.clip_high = keys.clip_range_high.value_or(config_.trainer.clip_range);
  out.dual_clip = keys.dual_clip;
  out.aggregation = keys.aggregation == "sequence_mean" ? Aggregation::sequence_mean
                    : keys.aggregation == "constant"    ? Aggregation::constant
                                                        : Aggregation::token_mean;
  out.max_tokens = static_cast<double>(config_.rollout.language.max_tokens);
  out.kl_coef = keys.kl_in == "loss" ? keys.kl_coef : 0;
  out.kl = kl_estimator();
  return out;
}

/// The texts of samples: neighbours of one group share their prompt. Samples that are not used keep
/// their place with nothing trained.
std::vector<Text> OnlineTrainer::texts_of(std::span<const Sample> samples) const {
  const auto size = static_cast<size_t>(config_.rollout.language.size);
  std::vector<Text> out;
  for (size_t i = 0; i < samples.size(); ++i) {
    const Episode& episode = samples[i].episode;
    if (i % size == 0) out.push_back({episode.prompt, {}});
    out.back().continuations.push_back(episode.continuation);
    if (samples[i].used) continue;
    Continuation& unused = out.back().continuations.back();
    unused.tokens.clear();
    unused.trained.clear();
  }
  return out;
}

void OnlineTrainer::add_references(std::vector<Sample>& samples) {
  if (!reference_) return;
  const std::vector<Pack> packs = pack_texts(texts_of(samples), packing());
  const std::vector<float> all =
      text_log_probs(*reference_, packs, config_.rollout.language.temperature);
  size_t next = 0;
  for (Sample& sample : samples) {
    if (!sample.used) continue;
    const auto n = static_cast<size_t>(sample.episode.length());
    sample.reference.assign(all.begin() + static_cast<int64_t>(next),
                            all.begin() + static_cast<int64_t>(next + n));
    next += n;
    for (size_t t = 0; t < n; ++t)
      sample.kl += kl_estimate(kl_estimator(), sample.episode.log_prob[t], sample.reference[t]) /
                   static_cast<double>(n);
  }
}

int64_t OnlineTrainer::groups_with_spread(std::span<const Sample> samples) const {
  const auto size = static_cast<size_t>(config_.rollout.language.size);
  int64_t count = 0;
  for (size_t first = 0; first < samples.size(); first += size) {
    std::optional<double> seen;
    bool spread = false;
    for (const Sample& sample : samples.subspan(first, size)) {
      if (!sample.used) continue;
      spread |= seen.value_or(sample.episode.reward) != sample.episode.reward;
      seen = sample.episode.reward;
    }
    count += spread;
  }
  return count;
}

/// Answers of this iteration, scored. With dynamic sampling, groups without spread are replaced by
/// those of further rounds as long as there are any left to replace (Yu et al. 2025, section 3.2).
std::vector<OnlineTrainer::Sample> OnlineTrainer::collect(Metrics& metrics) {
  const GenerationKeys& keys = config_.rollout.language;
  const auto size = static_cast<size_t>(keys.size);
  std::vector<Sample> kept, flat;
  int64_t rounds = 0;
  source_->publish(updates());
  for (;; ++rounds) {
    std::vector<Episode> episodes = next_round();
    std::vector<Sample> round(episodes.size());
    for (size_t i = 0; i < episodes.size(); ++i) round[i].env_reward = episodes[i].reward;
    if (scorer_) scorer_->score(episodes);
    for (size_t i = 0; i < episodes.size(); ++i) round[i].episode = std::move(episodes[i]);
    shape_rewards(round);
    for (size_t first = 0; first < round.size(); first += size) {
      const std::span<Sample> group(round.data() + first, size);
      auto& to = groups_with_spread(group) > 0 ? kept : flat;
      for (Sample& one : group) to.push_back(std::move(one));
    }
    const bool full = kept.size() >= static_cast<size_t>(keys.groups) * size;
    if (full || rounds >= config_.trainer.language.dynamic_sampling) break;
  }
  // Places that stay empty go to groups without spread, which only count in the means.
  const size_t wanted = static_cast<size_t>(keys.groups) * size;
  for (Sample& one : flat)
    if (kept.size() < wanted) kept.push_back(std::move(one));
  kept.resize(wanted);
  if (config_.trainer.language.dynamic_sampling > 0)
    metrics.last("sampling/rounds", static_cast<double>(rounds + 1));
  return kept;
}

/// Penalties on top of the scorer's reward, and who is left out of the loss.
void OnlineTrainer::shape_rewards(std::span<Sample> samples) const {
  const PostTraining& keys = config_.trainer.language;
  for (Sample& sample : samples) {
    Episode& episode = sample.episode;
    if (!std::isfinite(episode.reward) && episode.fault.empty())
      episode.fault = cat("the reward is ", episode.reward);
    if (!episode.fault.empty()) episode.reward = std::numeric_limits<double>::quiet_NaN();
    sample.used =
        episode.fault.empty() && episode.length() > 0 && !(keys.overlong_filter && episode.cut);
    if (episode.cut) episode.reward -= keys.missing_eos_penalty;
    if (keys.overlong_buffer > 0)
      episode.reward += overlong_penalty(episode.length(), config_.rollout.language.max_tokens,
                                         keys.overlong_buffer, keys.overlong_factor);
  }
}

void OnlineTrainer::learn(Metrics& metrics) {
  const auto start = Clock::now();
  std::vector<Sample> samples = collect(metrics);
  const std::chrono::duration<double> sampling_time = Clock::now() - start;
  add_references(samples);
  prepare(samples, metrics);
  report(samples, metrics);
  count_tokens(texts_of(samples), metrics);

  const auto size = static_cast<size_t>(config_.rollout.language.size);
  const auto per_batch = static_cast<size_t>(config_.trainer.batch_size) / size;
  std::vector<int64_t> order(samples.size() / size);
  std::vector<Sample> batch;
  Tally tally;
  for (int64_t epoch = 0; epoch < config_.trainer.epochs; ++epoch) {
    std::iota(order.begin(), order.end(), int64_t{0});
    shuffle_order(order, static_cast<uint64_t>(config_.seed), counters_.shuffles++);
    for (size_t first = 0; first < order.size(); first += per_batch) {
      batch.clear();
      for (size_t g = first; g < std::min(first + per_batch, order.size()); ++g)
        for (size_t i = 0; i < size; ++i)
          batch.push_back(samples[static_cast<size_t>(order[g]) * size + i]);
      const double loss = update(batch, metrics, tally);
      optimise(loss, metrics);
    }
  }
  for (size_t i = 0; i < std::min(samples.size(), kShown); ++i) {
    CompletionRecord shown = record(samples[i].episode, "train", static_cast<int64_t>(i / size));
    shown.advantage = mean_of(samples[i].advantage);
    completions_.push_back(std::move(shown));
  }
  const std::chrono::duration<double> spent = Clock::now() - start;
  metrics.last("time/sampling", sampling_time.count() / spent.count());
  metrics.last("time/step", spent.count());
}

/// One optimiser step's loss, pass by pass; gradients are left on the parameters. The denominators
/// are those of the whole minibatch.
double OnlineTrainer::update(std::span<const Sample> samples, Metrics& metrics, Tally& tally) {
  const TrainerConfig& config = config_.trainer;
  const double temperature = config_.rollout.language.temperature;
  const TokenPolicyOptions options = policy_options();
  std::vector<const Sample*> used;
  StepTotals totals;
  for (const Sample& sample : samples) {
    used.push_back(&sample);
    if (!sample.used) continue;
    totals.sequences += 1;
    totals.tokens += static_cast<double>(sample.episode.length());
  }
  if (totals.tokens == 0) return 0;
  const bool critic = model_.head != nullptr;
  double loss = 0, ratio_min = std::numeric_limits<double>::infinity();
  size_t next = 0;
  std::vector<float> old, reference, advantage, old_value, returns, gradient, d_value;
  std::vector<uint8_t> mask;
  for (const Pack& pack : pack_texts(texts_of(samples), packing())) {
    const auto count = static_cast<size_t>(pack.sequences());
    for (std::vector<float>* column : {&old, &reference, &advantage, &old_value, &returns})
      column->clear();
    for (size_t s = next; s < next + count; ++s) {
      if (!used[s]->used) continue;
      const auto add = [](std::vector<float>& to, const std::vector<float>& from) {
        to.insert(to.end(), from.begin(), from.end());
      };
      add(old, used[s]->episode.log_prob);
      add(reference, used[s]->reference);
      add(advantage, used[s]->advantage);
      add(old_value, used[s]->value);
      add(returns, used[s]->returns);
    }
    next += count;
    if (pack.rows.empty()) continue;
    const Tensor x = pack_rows(pack_hidden(*model_.decoder, pack), pack);
    const auto [log_prob, entropy] =
        linear_cross_entropy(x, model_.decoder->output_weight(), index_tensor(pack.targets),
                             Tensor::scalar(1 / temperature));
    check_finite(old, "the log-probability of a sampled token");
    check_finite(reference, "the reference's log-probability of a token");
    check_finite(advantage, "the advantage of a token");
    check_finite(log_prob.values<float>(), "the log-probability of a token");
    mask.assign(pack.rows.size(), 1);
    const TokenSpan span{pack.offsets, mask};
    const auto n = static_cast<double>(mask.size());
    const TokenPolicyLoss part = token_policy_loss(span, log_prob.values<float>(), old, reference,
                                                   advantage, options, totals, gradient);
    loss += part.loss;
    std::vector<Tensor> roots = {log_prob}, seeds;
    seeds.push_back(Tensor::from(std::span<const float>(gradient), log_prob.sizes()));
    double entropy_sum = 0;
    for (const float e : entropy.values<float>()) entropy_sum += e;
    if (config.ent_coef > 0) {
      roots.push_back(entropy);
      seeds.push_back(Tensor::full(entropy.sizes(), -config.ent_coef / totals.tokens));
      loss -= config.ent_coef * entropy_sum / totals.tokens;
    }
    if (critic) {
      const Tensor value = (*model_.head)(x);
      check_finite(value.values<float>(), "the critic's value of a token");
      const double clip = config.clip_range_vf.value_or(std::numeric_limits<double>::infinity());
      const double value_loss = token_value_loss(span, value.values<float>(), old_value, returns,
                                                 clip, totals.tokens, d_value);
      for (float& g : d_value) g *= static_cast<float>(config.vf_coef);
      roots.push_back(value);
      seeds.push_back(Tensor::from(std::span<const float>(d_value), value.sizes()));
      loss += config.vf_coef * value_loss;
      metrics.mean("loss/value_avg", value_loss * totals.tokens / n, n);
    }
    backward(roots, seeds);
    metrics.mean("entropy", entropy_sum / n, n);
    metrics.mean("clip_ratio/low_mean", part.clip_low, n);
    metrics.mean("clip_ratio/high_mean", part.clip_high, n);
    metrics.mean("clip_ratio/region_mean", part.clip_low + part.clip_high, n);
    metrics.mean("policy/approxkl_avg", part.approx_kl, n);
    if (!tally.first) continue;
    // The weights are still those that sampled: what follows is the mismatch of the two sides.
    double difference = 0, most = 0;
    const auto now = log_prob.values<float>();
    for (size_t t = 0; t < old.size(); ++t) {
      const double d = std::abs(static_cast<double>(now[t]) - old[t]);
      difference += d;
      most = std::max(most, d);
      ratio_min = std::min(ratio_min, std::exp(static_cast<double>(now[t]) - old[t]));
    }
    metrics.mean("mismatch_kl", part.approx_kl, n);
    metrics.mean("sampling/sampling_logp_difference/mean", difference / n, n);
    metrics.add("sampling/sampling_logp_difference/max", most, Reduction::max);
    metrics.add("sampling/importance_sampling_ratio/min", ratio_min, Reduction::min);
    metrics.mean("sampling/importance_sampling_ratio/mean", part.ratio_mean, n);
    metrics.add("sampling/importance_sampling_ratio/max", part.ratio_max, Reduction::max);
  }
  tally.first = false;
  metrics.mean("loss", loss);
  return loss;
}

/// What the answers were like, under TRL's names.
void OnlineTrainer::report(const std::vector<Sample>& samples, Metrics& metrics) const {
  const auto size = static_cast<size_t>(config_.rollout.language.size);
  double faults = 0;
  std::map<std::string, std::vector<double>> rewards;
  for (const Sample& sample : samples) {
    const Episode& episode = sample.episode;
    if (!episode.fault.empty()) {
      ++faults;
      continue;
    }
    const auto length = static_cast<double>(episode.length());
    if (!episode.version.empty())
      metrics.add("sampling/staleness",
                  static_cast<double>(updates() - static_cast<int64_t>(episode.version[0])) /
                      static_cast<double>(config_.steps_per_iteration()),
                  Reduction::max);
    rewards["reward"].push_back(episode.reward);
    if (scorer_) rewards["rewards/env/"].push_back(sample.env_reward);
    for (size_t c = 0; c < episode.components.size(); ++c) {
      const std::string& name = spec_.rewards[c].name;
      rewards[cat("rewards/", name.substr(name.find('.') + 1), "/")].push_back(
          episode.components[c]);
    }
    if (reference_) metrics.mean("kl", sample.kl, length);
    metrics.mean("completions/mean_length", length);
    metrics.add("completions/min_length", length, Reduction::min);
    metrics.add("completions/max_length", length, Reduction::max);
    metrics.mean("completions/clipped_ratio", episode.cut);
    if (!episode.cut) {
      metrics.mean("completions/mean_terminated_length", length);
      metrics.add("completions/min_terminated_length", length, Reduction::min);
      metrics.add("completions/max_terminated_length", length, Reduction::max);
    }
    metrics.mean("completions/turns", static_cast<double>(episode.turns));
  }
  for (const auto& [name, values] : rewards) {
    const bool all = name == "reward";
    metrics.mean(all ? name : cat(name, "mean"), mean_of(values));
    metrics.mean(all ? "reward_std" : cat(name, "std"), deviation_of(values));
  }
  metrics.mean("faults", faults / static_cast<double>(samples.size()));
  const auto groups = static_cast<double>(samples.size() / size);
  if (size > 1)
    metrics.mean("frac_reward_zero_std",
                 1 - static_cast<double>(groups_with_spread(samples)) / groups);
}

// --- GRPO ---------------------------------------------------------------------------------------

void Grpo::prepare(std::vector<Sample>& samples, Metrics&) {
  const PostTraining& keys = config_.trainer.language;
  const AdvantageScale scale = keys.advantage == "none"            ? AdvantageScale::none
                               : keys.advantage == "batch"         ? AdvantageScale::batch
                               : keys.advantage == "leave_one_out" ? AdvantageScale::leave_one_out
                                                                   : AdvantageScale::group;
  // Rewards from each turn on; one turn where credit goes to whole episodes.
  std::vector<std::vector<float>> to_go;
  for (const Sample& sample : samples) {
    std::vector<float>& own = to_go.emplace_back();
    if (!sample.used) continue;
    double reward = sample.episode.reward;
    // In the reward the KL counts as that of the whole answer: the sum over its tokens.
    if (keys.kl_in == "reward")
      reward -= keys.kl_coef * sample.kl * static_cast<double>(sample.episode.length());
    own.push_back(static_cast<float>(reward));
    if (keys.credit == "episode") continue;
    for (size_t t = 1; t < sample.episode.turn_end.size(); ++t) {
      // A scorer judges the whole: its reward comes with the last turn.
      if (!scorer_) reward -= sample.episode.turn_reward[t - 1];
      own.push_back(static_cast<float>(reward));
    }
  }
  const auto advantages = turn_advantages(to_go, config_.rollout.language.size, scale);
  for (size_t i = 0; i < samples.size(); ++i) {
    const Episode& episode = samples[i].episode;
    samples[i].advantage.assign(static_cast<size_t>(episode.length()), 0.0f);
    for (size_t t = 0, token = 0; t < advantages[i].size(); ++t) {
      const int64_t end = keys.credit == "episode" ? episode.length() : episode.turn_end[t];
      for (; token < static_cast<size_t>(end); ++token)
        samples[i].advantage[token] = advantages[i][t];
    }
  }
}

// --- PPO ----------------------------------------------------------------------------------------

void PpoLanguage::prepare(std::vector<Sample>& samples, Metrics& metrics) {
  const TrainerConfig& config = config_.trainer;
  const PostTraining& keys = config.language;
  const NoGrad no_grad;
  // Values of the states before each token, then advantages along each answer.
  std::vector<float> values;
  for (const Pack& pack : pack_texts(texts_of(samples), packing())) {
    if (pack.rows.empty()) continue;
    const Tensor x = pack_rows(pack_hidden(*model_.decoder, pack), pack);
    const Tensor value = (*model_.head)(x);
    values.insert(values.end(), value.values<float>().begin(), value.values<float>().end());
  }
  check_finite(values, "the critic's value of a token");
  size_t next = 0;
  double sum = 0, squares = 0, n = 0;
  for (Sample& sample : samples) {
    if (!sample.used) continue;
    const auto length = static_cast<size_t>(sample.episode.length());
    sample.value.assign(values.begin() + static_cast<int64_t>(next),
                        values.begin() + static_cast<int64_t>(next + length));
    next += length;
    std::vector<float> reward(length, 0.0f);
    if (keys.kl_in == "reward" && !sample.reference.empty())
      for (size_t t = 0; t < length; ++t)
        reward[t] -= static_cast<float>(keys.kl_coef * kl_estimate(kl_estimator(),
                                                                   sample.episode.log_prob[t],
                                                                   sample.reference[t]));
    reward.back() += static_cast<float>(sample.episode.reward);
    const std::vector<int64_t> offsets = {0, sample.episode.length()};
    const std::vector<uint8_t> mask(length, 1);
    token_gae({offsets, mask}, reward, sample.value, config.gamma, config.gae_lambda,
              sample.advantage, sample.returns);
    for (const float a : sample.advantage) {
      sum += a;
      squares += static_cast<double>(a) * a;
      n += 1;
    }
    metrics.mean("val/mean", mean_of(sample.value), static_cast<double>(length));
  }
  if (!config.normalize_advantage || n < 2) return;
  const double mean = sum / n;
  const double deviation = std::sqrt(std::max(0.0, (squares - sum * mean) / (n - 1)) + 1e-8);
  for (Sample& sample : samples)
    for (float& a : sample.advantage) a = static_cast<float>((a - mean) / deviation);
}

}  // namespace bessemer
