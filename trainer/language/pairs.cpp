#include "trainer/language/pairs.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "autograd/engine.h"
#include "trainer/token_loss.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kRounds = 20;  // of items without a pair

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

DpoOptions dpo_options(const PostTraining& keys) {
  DpoOptions out;
  out.kind = keys.loss == "ipo"     ? DpoKind::ipo
             : keys.loss == "hinge" ? DpoKind::hinge
                                    : DpoKind::sigmoid;
  out.beta = keys.beta;
  out.label_smoothing = keys.label_smoothing;
  out.reference_free = keys.reference_free;
  out.length_normalize = keys.length_normalize;
  return out;
}

/// The trained tokens of a pass as the losses take them: nothing else is in the arrays.
struct Active {
  explicit Active(const Pack& pack) : mask(pack.rows.size(), 1), span{pack.offsets, mask} {}
  std::vector<uint8_t> mask;
  TokenSpan span;
};

}  // namespace

namespace {

/// Trained tokens of the chosen answers.
double chosen_tokens(std::span<const Text> pairs) {
  double count = 0;
  for (const Text& pair : pairs)
    for (const uint8_t trained : pair.continuations[0].trained) count += trained;
  return std::max(count, 1.0);
}

/// What each token of a pass weighs in the likelihood of the chosen answers: 0 in rejected ones.
std::vector<float> chosen_weights(const Pack& pack, double weight) {
  std::vector<float> out(pack.rows.size(), 0.0f);
  for (int64_t s = 0; s < pack.sequences(); s += 2)
    std::fill(out.begin() + pack.offsets[static_cast<size_t>(s)],
              out.begin() + pack.offsets[static_cast<size_t>(s) + 1], static_cast<float>(weight));
  return out;
}

}  // namespace

PairTrainer::PairTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs, bool head)
    : LanguageTrainer(config, pool, std::move(make_envs), head) {
  if (config_.act_only) return;
  const bool from_env = config_.data.file.empty();
  const bool needs_reference =
      config_.trainer.algo == "dpo" && !config_.trainer.language.reference_free;
  if (from_env || needs_reference) reference_ = frozen_copy(*model_.decoder);
  if (from_env) {
    GeneratorOptions options;
    options.seed = static_cast<uint64_t>(config_.seed);
    sampler_ = std::make_unique<Generator>(*reference_, options);
    return;
  }
  DatasetOptions options;
  options.use = DataUse::pairs;
  options.max_tokens = model_.decoder->config().max_position_embeddings;
  feed_ =
      TextFeed(read_data(config_, *model_.tokenizer, options), static_cast<uint64_t>(config_.seed));
  if (config_.trainer.algo == "reward" || !has_envs()) check_held_out(feed_.data());
}

std::vector<Text> PairTrainer::make_pairs(const std::vector<Episode>& episodes) const {
  const auto size = static_cast<size_t>(config_.rollout.language.size);
  std::vector<Text> out;
  for (size_t first = 0; first < episodes.size(); first += size) {
    const Episode *best = nullptr, *worst = nullptr;
    for (size_t i = first; i < first + size; ++i) {
      if (!std::isfinite(episodes[i].reward) || episodes[i].length() == 0) continue;
      if (!best || episodes[i].reward > best->reward) best = &episodes[i];
      if (!worst || episodes[i].reward < worst->reward) worst = &episodes[i];
    }
    if (!best) continue;
    Text pair;
    pair.prompt = best->prompt;
    const bool oracle = config_.data.chosen == "oracle" && !best->oracle.empty();
    if (oracle && worst->answer != best->oracle) {
      pair.continuations.push_back(answer_tokens(*model_.tokenizer, best->oracle));
    } else if (!oracle && best->reward > worst->reward) {
      pair.continuations.push_back(best->continuation);
    } else {
      continue;
    }
    pair.continuations.push_back(worst->continuation);
    if (text_tokens(pair) <= model_.decoder->config().max_position_embeddings)
      out.push_back(std::move(pair));
  }
  return out;
}

std::vector<Text> PairTrainer::next_pairs(Metrics& metrics) {
  const int64_t count = config_.trainer.batch_size;
  if (!sampler_) {
    const int64_t first = counters_.items;
    counters_.items += count;
    if (const int64_t left_out = feed_.data().too_long)
      metrics.last("data/too_long", static_cast<double>(left_out));
    return feed_.take(first, count);
  }
  std::vector<Episode> episodes;
  for (int64_t round = 0; round < kRounds; ++round) {
    episodes = play(next_play(count, counters_), *sampler_);
    for (const Episode& episode : episodes) {
      const bool fault = !std::isfinite(episode.reward);
      if (!fault) metrics.mean("data/reward", episode.reward);
      metrics.mean("faults", fault);
    }
    std::vector<Text> pairs = make_pairs(episodes);
    metrics.mean("data/pairs", static_cast<double>(pairs.size()));
    if (!pairs.empty()) return pairs;
  }
  fail_pairs(kRounds * count, episodes);
}

/// Nothing can be learned, or judged, from answers that are all worth the same.
void PairTrainer::fail_pairs(int64_t items, const std::vector<Episode>& episodes) const {
  const auto fault = std::find_if(episodes.begin(), episodes.end(),
                                  [](const Episode& e) { return !e.fault.empty(); });
  fail<ValueError>("rollout.size is ", config_.rollout.language.size, ", but no item of ", items,
                   " gave a pair: the starting weights' answers to each are worth the same",
                   fault == episodes.end() ? "" : cat(" or failed (", fault->fault, ")"),
                   "; start from weights that are sometimes right, sample more of them, or let the "
                   "oracle choose (data.chosen: oracle)");
}

std::vector<Text> PairTrainer::preview(int64_t count) {
  const Counters before = counters_;
  Metrics unused;
  std::vector<Text> pairs = next_pairs(unused);
  counters_ = before;
  if (pairs.size() > static_cast<size_t>(count)) pairs.resize(static_cast<size_t>(count));
  return pairs;
}

std::vector<Text> PairTrainer::held_out_pairs(int64_t count, int64_t seed) {
  if (!sampler_) {
    const std::vector<Text>& held = feed_.data().test;
    const auto n = std::min(held.size(), static_cast<size_t>(count));
    return {held.begin(), held.begin() + static_cast<int64_t>(n)};
  }
  PlayOptions play;
  play.size = config_.rollout.language.size;
  play.sampling = sampling();
  play.first_sequence = uint64_t{1} << 62;
  for (int64_t i = 0; i < count; ++i) play.seeds.push_back(static_cast<uint64_t>(seed + i));
  const std::vector<Episode> episodes =
      play_episodes(task(config_.eval.split), *sampler_, *model_.tokenizer, play);
  std::vector<Text> pairs = make_pairs(episodes);
  if (pairs.empty()) fail_pairs(count, episodes);
  return pairs;
}

// --- reward model
// -----------------------------------------------------------------------------------

RewardTrainer::RewardTrainer(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs)
    : PairTrainer(config, pool, std::move(make_envs), true) {}

Tensor RewardTrainer::rewards(const Tensor& hidden, const Pack& pack) const {
  return (*model_.head)(index_select(hidden, 0, index_tensor(pack.last)));
}

namespace {

/// Even entries are chosen, odd ones rejected.
void split_pairs(const Tensor& both, std::vector<float>& chosen, std::vector<float>& rejected) {
  chosen.clear();
  rejected.clear();
  for (int64_t i = 0; i < both.numel(); ++i)
    (i % 2 == 0 ? chosen : rejected).push_back(both.data<float>()[i]);
}

void add_rewards(const RewardLoss& part, const Tensor& both, double pairs, Metrics& metrics) {
  metrics.mean("accuracy", part.accuracy, pairs);
  metrics.mean("margin", part.margin, pairs);
  for (const double r : both.values<float>()) {
    metrics.add("min_reward", r, Reduction::min);
    metrics.mean("mean_reward", r);
    metrics.add("max_reward", r, Reduction::max);
  }
}

}  // namespace

void RewardTrainer::learn(Metrics& metrics) {
  const auto start = Clock::now();
  const std::vector<Text> pairs = next_pairs(metrics);
  const double sft_weight = config_.trainer.language.sft_coef / chosen_tokens(pairs);
  double loss = 0, tokens = 0;
  std::vector<float> chosen, rejected, d_chosen, d_rejected;
  for (const Pack& pack : pack_texts(pairs, packing(true, false))) {
    const Tensor hidden = pack_hidden(*model_.decoder, pack);
    const Tensor both = rewards(hidden, pack);
    check_finite(both.values<float>(), "the reward of an answer");
    split_pairs(both, chosen, rejected);
    const RewardLoss part = reward_loss(chosen, rejected, {}, config_.trainer.language.center,
                                        static_cast<double>(pairs.size()), d_chosen, d_rejected);
    std::vector<float> gradient(static_cast<size_t>(both.numel()));
    for (size_t i = 0; i < gradient.size(); ++i)
      gradient[i] = i % 2 == 0 ? d_chosen[i / 2] : d_rejected[i / 2];
    std::vector<Tensor> roots = {both}, seeds;
    seeds.push_back(Tensor::from(std::span<const float>(gradient), both.sizes()));
    loss += part.loss;
    if (sft_weight > 0) {
      const std::vector<float> weights = chosen_weights(pack, sft_weight);
      roots.push_back(linear_nll(pack_rows(hidden, pack), model_.decoder->output_weight(),
                                 index_tensor(pack.targets),
                                 Tensor::from(std::span<const float>(weights),
                                              {static_cast<int64_t>(weights.size())}))[0]);
      seeds.push_back(Tensor::scalar(1));
      loss += roots.back().item();
      metrics.add("sft_loss", roots.back().item() / config_.trainer.language.sft_coef,
                  Reduction::sum);
    }
    backward(roots, seeds);
    tokens += static_cast<double>(pack.tokens.size());
    add_rewards(part, both, static_cast<double>(chosen.size()), metrics);
  }
  metrics.mean("loss", loss);
  count_tokens(pairs, metrics);
  optimise(loss, metrics);
  metrics.last("time/tokens_per_second", tokens / seconds_since(start));
}

EvalResult RewardTrainer::judge(int64_t episodes, int64_t seed, bool) {
  const std::vector<Text> pairs = held_out_pairs(episodes, seed);
  const NoGrad no_grad;
  EvalResult out;
  out.scores = true;
  out.unit = "pairs";
  Metrics measured;
  std::vector<float> chosen, rejected, d_chosen, d_rejected;
  for (const Pack& pack : pack_texts(pairs, packing(true, false))) {
    const Tensor both = rewards(pack_hidden(*model_.decoder, pack), pack);
    check_finite(both.values<float>(), "the reward of an answer");
    split_pairs(both, chosen, rejected);
    for (size_t i = 0; i < chosen.size(); ++i)
      out.returns.push_back(chosen[i] > rejected[i] ? 1 : 0);
    const auto count = static_cast<double>(chosen.size());
    const RewardLoss part = reward_loss(chosen, rejected, {}, config_.trainer.language.center,
                                        count, d_chosen, d_rejected);
    measured.mean("loss", part.loss, count);
    add_rewards(part, both, count, measured);
  }
  for (const Text& pair : pairs)
    out.lengths.push_back(static_cast<int64_t>(pair.continuations[0].tokens.size()));
  add_means(measured, out);
  return out;
}

// --- direct preference optimisation
// -----------------------------------------------------------------

namespace {

/// `sums`: log-probabilities of the answers, chosen and rejected by turns.
void add_preferences(const DpoLoss& part, std::span<const double> sums, Metrics& metrics) {
  const auto pairs = static_cast<double>(sums.size() / 2);
  metrics.mean("rewards/chosen", part.chosen_reward, pairs);
  metrics.mean("rewards/rejected", part.rejected_reward, pairs);
  metrics.mean("rewards/accuracies", part.accuracy, pairs);
  metrics.mean("rewards/margins", part.margin, pairs);
  for (size_t s = 0; s < sums.size(); ++s)
    metrics.mean(s % 2 == 0 ? "logps/chosen" : "logps/rejected", sums[s]);
}

}  // namespace

Dpo::Dpo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs)
    : PairTrainer(config, pool, std::move(make_envs), false) {}

void Dpo::learn(Metrics& metrics) {
  const auto start = Clock::now();
  const PostTraining& keys = config_.trainer.language;
  const DpoOptions options = dpo_options(keys);
  const std::vector<Text> pairs = next_pairs(metrics);
  const auto count = static_cast<double>(pairs.size());
  const double sft_weight = keys.sft_coef / chosen_tokens(pairs);
  double loss = 0, tokens = 0;
  std::vector<float> gradient;
  const std::vector<Pack> packs = pack_texts(pairs, packing(false, false));
  for (const Pack& pack : packs) {
    const std::span<const Pack> one(&pack, 1);
    std::vector<float> reference;
    if (!options.reference_free) reference = text_log_probs(*reference_, one, 1);
    const Tensor x = pack_rows(pack_hidden(*model_.decoder, pack), pack);
    const auto [log_prob, entropy] =
        linear_cross_entropy(x, model_.decoder->output_weight(), index_tensor(pack.targets));
    check_finite(log_prob.values<float>(), "the log-probability of a token");
    check_finite(reference, "the reference's log-probability of a token");
    const Active active(pack);
    const DpoLoss part =
        dpo_loss(active.span, log_prob.values<float>(), reference, options, count, gradient);
    if (sft_weight > 0) {
      const std::vector<float> weights = chosen_weights(pack, sft_weight);
      for (size_t t = 0; t < weights.size(); ++t) {
        gradient[t] -= weights[t];
        loss -= static_cast<double>(weights[t]) * log_prob.data<float>()[t];
      }
    }
    backward(log_prob, Tensor::from(std::span<const float>(gradient), log_prob.sizes()));
    loss += part.loss;
    tokens += static_cast<double>(pack.tokens.size());
    add_preferences(part, sequence_sums(active.span, log_prob.values<float>()), metrics);
  }
  metrics.mean("loss", loss);
  count_tokens(pairs, metrics);
  optimise(loss, metrics);
  metrics.last("time/tokens_per_second", tokens / seconds_since(start));
}

EvalResult Dpo::judge(int64_t episodes, int64_t seed, bool deterministic) {
  if (has_envs()) return LanguageTrainer::judge(episodes, seed, deterministic);
  const std::vector<Text> pairs = held_out_pairs(episodes, seed);
  const std::vector<Pack> packs = pack_texts(pairs, packing(false, false));
  const DpoOptions options = dpo_options(config_.trainer.language);
  EvalResult out;
  out.scores = true;
  out.unit = "pairs";
  Metrics measured;
  std::vector<float> before, gradient;
  for (const Pack& pack : packs) {
    const std::span<const Pack> one(&pack, 1);
    const Active active(pack);
    const std::vector<float> now = text_log_probs(*model_.decoder, one, 1);
    check_finite(now, "the log-probability of a token");
    std::vector<double> gain = sequence_sums(active.span, now);
    if (reference_) before = text_log_probs(*reference_, one, 1);
    const auto count = static_cast<double>(gain.size() / 2);
    const DpoLoss part = dpo_loss(active.span, now, before, options, count, gradient);
    measured.mean("loss", part.loss, count);
    add_preferences(part, gain, measured);
    const std::vector<double> start = sequence_sums(active.span, before);
    if (reference_)
      for (size_t s = 0; s < gain.size(); ++s) gain[s] -= start[s];
    for (size_t s = 0; s + 1 < gain.size(); s += 2)
      out.returns.push_back(gain[s] > gain[s + 1] ? 1 : 0);
  }
  add_means(measured, out);
  for (const Text& pair : pairs)
    out.lengths.push_back(static_cast<int64_t>(pair.continuations[0].tokens.size()));
  return out;
}

}  // namespace bessemer
