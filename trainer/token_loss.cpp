#include "trainer/token_loss.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace bessemer {

namespace {

void check_span(const char* loss, const TokenSpan& span) {
  BESSEMER_CHECK(
      !span.offsets.empty() && span.offsets.front() == 0 && span.offsets.back() == span.tokens(),
      ValueError, "[", loss, "] offsets run from 0 to the number of tokens");
  for (size_t s = 0; s + 1 < span.offsets.size(); ++s)
    BESSEMER_CHECK(span.offsets[s] <= span.offsets[s + 1], ValueError, "[", loss,
                   "] offsets must not fall, sequence ", s, " does");
}
void check_column(const char* loss, const char* name, size_t size, size_t wanted) {
  BESSEMER_CHECK(size == wanted, ValueError, "[", loss, "] ", name, " has ", size, " entries, not ",
                 wanted);
}

/// -log sigmoid(x), without overflow.
double softplus_minus(double x) {
  return x > 0 ? std::log1p(std::exp(-x)) : -x + std::log1p(std::exp(x));
}
double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

struct Moments {
  double count = 0, mean = 0;
  double deviation = 0;  // unbiased; 0 for fewer than two
  float low = INFINITY, high = -INFINITY;
};
/// Of what is a number.
Moments moments(std::span<const float> values) {
  Moments out;
  double sum = 0, squares = 0;
  for (const float x : values) {
    if (std::isnan(x)) continue;
    sum += x;
    ++out.count;
    out.low = std::min(out.low, x);
    out.high = std::max(out.high, x);
  }
  if (out.count > 0) out.mean = sum / out.count;
  for (const float x : values)
    if (!std::isnan(x)) squares += (x - out.mean) * (x - out.mean);
  if (out.count > 1) out.deviation = std::sqrt(squares / (out.count - 1));
  return out;
}

/// What centred rewards are divided by, [rewards].
std::vector<double> advantage_divisors(std::span<const float> rewards, size_t group_size,
                                       AdvantageScale scale) {
  constexpr double kEps = 1e-4;
  std::vector<double> out(rewards.size(), 1.0);
  if (scale == AdvantageScale::batch)
    std::fill(out.begin(), out.end(), moments(rewards).deviation + kEps);
  if (scale == AdvantageScale::group)
    for (size_t begin = 0; begin < rewards.size(); begin += group_size)
      std::fill_n(out.begin() + static_cast<int64_t>(begin), group_size,
                  moments(rewards.subspan(begin, group_size)).deviation + kEps);
  return out;
}

}  // namespace

int64_t active_tokens(const TokenSpan& span) {
  int64_t count = 0;
  for (const uint8_t m : span.mask) count += m != 0;
  return count;
}

std::vector<double> sequence_sums(const TokenSpan& span, std::span<const float> values) {
  std::vector<double> sums(static_cast<size_t>(span.sequences()), 0.0);
  for (size_t s = 0; s < sums.size(); ++s)
    for (int64_t t = span.offsets[s]; t < span.offsets[s + 1]; ++t)
      if (span.mask[t]) sums[s] += values[t];
  return sums;
}

double nll_loss(const TokenSpan& span, std::span<const float> log_prob, double denominator,
                std::vector<float>& gradient) {
  check_span("nll_loss", span);
  check_column("nll_loss", "log_prob", log_prob.size(), span.mask.size());
  BESSEMER_CHECK(denominator > 0, ValueError, "[nll_loss] nothing is trained: no token has mask 1");
  gradient.assign(log_prob.size(), 0.0f);
  double sum = 0;
  const auto share = static_cast<float>(-1 / denominator);
  for (size_t t = 0; t < log_prob.size(); ++t) {
    if (!span.mask[t]) continue;
    sum -= log_prob[t];
    gradient[t] = share;
  }
  return sum / denominator;
}

RewardLoss reward_loss(std::span<const float> chosen, std::span<const float> rejected,
                       std::span<const float> margin, double center, double denominator,
                       std::vector<float>& d_chosen, std::vector<float>& d_rejected) {
  const size_t n = chosen.size();
  check_column("reward_loss", "rejected", rejected.size(), n);
  if (!margin.empty()) check_column("reward_loss", "margin", margin.size(), n);
  BESSEMER_CHECK(n > 0 && denominator > 0, ValueError, "[reward_loss] there are no pairs");
  d_chosen.resize(n);
  d_rejected.resize(n);
  RewardLoss out;
  for (size_t i = 0; i < n; ++i) {
    const double difference = static_cast<double>(chosen[i]) - rejected[i];
    const double total = static_cast<double>(chosen[i]) + rejected[i];
    const double x = difference - (margin.empty() ? 0.0 : margin[i]);
    out.loss += softplus_minus(x) + center * total * total;
    out.accuracy += difference > 0;
    out.margin += difference;
    const double slope = -sigmoid(-x), pull = 2 * center * total;
    d_chosen[i] = static_cast<float>((slope + pull) / denominator);
    d_rejected[i] = static_cast<float>((-slope + pull) / denominator);
  }
  out.loss /= denominator;
  out.accuracy /= static_cast<double>(n);
  out.margin /= static_cast<double>(n);
  return out;
}

DpoLoss dpo_loss(const TokenSpan& span, std::span<const float> log_prob,
                 std::span<const float> ref_log_prob, const DpoOptions& options, double pairs,
                 std::vector<float>& gradient) {
  check_span("dpo_loss", span);
  check_column("dpo_loss", "log_prob", log_prob.size(), span.mask.size());
  if (!options.reference_free)
    check_column("dpo_loss", "ref_log_prob", ref_log_prob.size(), span.mask.size());
  BESSEMER_CHECK(span.sequences() % 2 == 0 && span.sequences() > 0, ValueError,
                 "[dpo_loss] sequences come in pairs, chosen then rejected; got ",
                 span.sequences());
  BESSEMER_CHECK(options.label_smoothing >= 0 && options.label_smoothing < 0.5, ValueError,
                 "[dpo_loss] label_smoothing lies in [0, 0.5), not ", options.label_smoothing);
  std::vector<double> ratio = sequence_sums(span, log_prob);
  if (!options.reference_free) {
    const std::vector<double> reference = sequence_sums(span, ref_log_prob);
    for (size_t s = 0; s < ratio.size(); ++s) ratio[s] -= reference[s];
  }
  std::vector<double> weight(ratio.size(), 1.0);  // d ratio / d token
  if (options.length_normalize) {
    for (size_t s = 0; s < ratio.size(); ++s) {
      int64_t active = 0;
      for (int64_t t = span.offsets[s]; t < span.offsets[s + 1]; ++t) active += span.mask[t] != 0;
      BESSEMER_CHECK(active > 0, ValueError, "[dpo_loss] sequence ", s,
                     " has no token in the loss");
      weight[s] = 1.0 / static_cast<double>(active);
      ratio[s] *= weight[s];
    }
  }
  gradient.assign(log_prob.size(), 0.0f);
  DpoLoss out;
  const double beta = options.beta, e = options.label_smoothing;
  for (size_t s = 0; s + 1 < ratio.size(); s += 2) {
    const double h = ratio[s] - ratio[s + 1];
    double slope = 0;  // d loss / d h
    switch (options.kind) {
      case DpoKind::sigmoid:
        out.loss += (1 - e) * softplus_minus(beta * h) + e * softplus_minus(-beta * h);
        slope = beta * (e * sigmoid(beta * h) - (1 - e) * sigmoid(-beta * h));
        break;
      case DpoKind::ipo: {
        const double off = h - 1 / (2 * beta);
        out.loss += off * off;
        slope = 2 * off;
        break;
      }
      case DpoKind::hinge:
        out.loss += std::max(0.0, 1 - beta * h);
        slope = beta * h < 1 ? -beta : 0;
        break;
    }
    out.chosen_reward += beta * ratio[s];
    out.rejected_reward += beta * ratio[s + 1];
    out.accuracy += h > 0;
    out.margin += beta * h;
    for (const size_t side : {s, s + 1}) {
      const double share = (side == s ? slope : -slope) * weight[side] / pairs;
      for (int64_t t = span.offsets[side]; t < span.offsets[side + 1]; ++t)
        if (span.mask[t]) gradient[static_cast<size_t>(t)] = static_cast<float>(share);
    }
  }
  const auto here = static_cast<double>(ratio.size() / 2);
  out.loss /= pairs;
  for (double* mean : {&out.chosen_reward, &out.rejected_reward, &out.accuracy, &out.margin})
    *mean /= here;
  return out;
}

double kl_estimate(KlEstimator kind, double log_prob, double ref_log_prob) {
  const double d = log_prob - ref_log_prob;
  switch (kind) {
    case KlEstimator::k1:
      return d;
    case KlEstimator::k2:
      return d * d / 2;
    case KlEstimator::k3:
      return std::expm1(-d) + d;
  }
  return 0;
}

double kl_slope(KlEstimator kind, double log_prob, double ref_log_prob) {
  const double d = log_prob - ref_log_prob;
  switch (kind) {
    case KlEstimator::k1:
      return 1;
    case KlEstimator::k2:
      return d;
    case KlEstimator::k3:
      return -std::expm1(-d);
  }
  return 0;
}

GroupAdvantages group_advantages(std::span<const float> rewards, int64_t group_size,
                                 AdvantageScale scale) {
  BESSEMER_CHECK(group_size > 0 && static_cast<int64_t>(rewards.size()) % group_size == 0,
                 ValueError, "[group_advantages] ", rewards.size(),
                 " rewards do not make whole groups of ", group_size);
  GroupAdvantages out;
  out.advantage.assign(rewards.size(), 0.0f);
  const auto size = static_cast<size_t>(group_size);
  const std::vector<double> divisor = advantage_divisors(rewards, size, scale);
  for (size_t begin = 0; begin < rewards.size(); begin += size) {
    const Moments group = moments(rewards.subspan(begin, size));
    // Equal rewards: exactly 0, not the rounding of a mean over 1e-4.
    if (group.count < 2 || group.low == group.high) {
      ++out.zero_spread_groups;
      continue;
    }
    const double others =
        scale == AdvantageScale::leave_one_out ? group.count / (group.count - 1) : 1;
    for (size_t i = begin; i < begin + size; ++i)
      if (!std::isnan(rewards[i]))
        out.advantage[i] = static_cast<float>((rewards[i] - group.mean) * others / divisor[i]);
  }
  return out;
}

std::vector<std::vector<float>> turn_advantages(std::span<const std::vector<float>> to_go,
                                                int64_t group_size, AdvantageScale scale) {
  std::vector<std::vector<float>> out(to_go.begin(), to_go.end());
  size_t turns = 1;
  for (const std::vector<float>& one : to_go) turns = std::max(turns, one.size());
  const AdvantageScale centred =
      scale == AdvantageScale::leave_one_out ? scale : AdvantageScale::none;
  std::vector<float> column(to_go.size());
  std::vector<double> divisor;
  for (size_t t = 0; t < turns; ++t) {
    for (size_t i = 0; i < to_go.size(); ++i) column[i] = t < to_go[i].size() ? to_go[i][t] : NAN;
    const GroupAdvantages now = group_advantages(column, group_size, centred);
    if (t == 0) divisor = advantage_divisors(column, static_cast<size_t>(group_size), scale);
    for (size_t i = 0; i < to_go.size(); ++i)
      if (t < to_go[i].size()) out[i][t] = static_cast<float>(now.advantage[i] / divisor[i]);
  }
  return out;
}

TokenPolicyLoss token_policy_loss(const TokenSpan& span, std::span<const float> log_prob,
                                  std::span<const float> old_log_prob,
                                  std::span<const float> ref_log_prob,
                                  std::span<const float> advantage,
                                  const TokenPolicyOptions& options, const StepTotals& totals,
                                  std::vector<float>& gradient) {
  constexpr const char* kName = "token_policy_loss";
  check_span(kName, span);
  const size_t n = span.mask.size();
  check_column(kName, "log_prob", log_prob.size(), n);
  check_column(kName, "old_log_prob", old_log_prob.size(), n);
  check_column(kName, "advantage", advantage.size(), n);
  const bool has_reference = !ref_log_prob.empty();
  if (has_reference || options.kl_coef != 0)
    check_column(kName, "ref_log_prob", ref_log_prob.size(), n);
  BESSEMER_CHECK(options.aggregation != Aggregation::constant || options.max_tokens > 0, ValueError,
                 "[", kName, "] the constant aggregation needs max_tokens");
  const auto active = static_cast<double>(active_tokens(span));
  const double all_tokens = totals.tokens > 0 ? totals.tokens : active;
  const double all_sequences =
      totals.sequences > 0 ? totals.sequences : static_cast<double>(span.sequences());

  gradient.assign(n, 0.0f);
  TokenPolicyLoss out;
  double low = 0, high = 0;
  for (int64_t s = 0; s < span.sequences(); ++s) {
    const auto begin = static_cast<size_t>(span.offsets[static_cast<size_t>(s)]);
    const auto end = static_cast<size_t>(span.offsets[static_cast<size_t>(s) + 1]);
    double length = 0;
    for (size_t t = begin; t < end; ++t) length += span.mask[t] != 0;
    if (length == 0) continue;  // an empty completion: nothing to learn from, nothing to divide by
    double share = 0;
    switch (options.aggregation) {
      case Aggregation::sequence_mean:
        share = 1 / (length * all_sequences);
        break;
      case Aggregation::token_mean:
        share = 1 / all_tokens;
        break;
      case Aggregation::constant:
        share = 1 / (all_sequences * options.max_tokens);
        break;
    }
    for (size_t t = begin; t < end; ++t) {
      if (!span.mask[t]) continue;
      const double a = advantage[t], log_ratio = static_cast<double>(log_prob[t]) - old_log_prob[t];
      const double rho = std::exp(log_ratio);
      const double clipped = std::clamp(rho, 1 - options.clip_low, 1 + options.clip_high);
      double loss = -a * rho, slope = -a * rho;  // d rho / d log_prob = rho
      if (-a * clipped > loss) {
        loss = -a * clipped;
        slope = 0;
        (rho < clipped ? low : high) += 1;
      }
      if (options.dual_clip && a < 0 && loss > -*options.dual_clip * a) {
        loss = -*options.dual_clip * a;
        slope = 0;
      }
      if (has_reference) {
        const double kl = kl_estimate(options.kl, log_prob[t], ref_log_prob[t]);
        out.kl += kl;
        loss += options.kl_coef * kl;
        slope += options.kl_coef * kl_slope(options.kl, log_prob[t], ref_log_prob[t]);
      }
      out.loss += loss * share;
      gradient[t] = static_cast<float>(slope * share);
      out.ratio_mean += rho;
      out.ratio_max = std::max(out.ratio_max, rho);
      out.approx_kl += std::expm1(log_ratio) - log_ratio;
    }
  }
  if (active > 0) {
    for (double* mean : {&out.kl, &out.ratio_mean, &out.approx_kl}) *mean /= active;
    out.clip_low = low / active;
    out.clip_high = high / active;
  }
  return out;
}

double token_value_loss(const TokenSpan& span, std::span<const float> value,
                        std::span<const float> old_value, std::span<const float> returns,
                        double clip, double denominator, std::vector<float>& gradient) {
  check_span("token_value_loss", span);
  check_column("token_value_loss", "value", value.size(), span.mask.size());
  check_column("token_value_loss", "old_value", old_value.size(), span.mask.size());
  check_column("token_value_loss", "returns", returns.size(), span.mask.size());
  BESSEMER_CHECK(denominator > 0, ValueError, "[token_value_loss] no token has mask 1");
  gradient.assign(value.size(), 0.0f);
  double sum = 0;
  for (size_t t = 0; t < value.size(); ++t) {
    if (!span.mask[t]) continue;
    const double v = value[t], r = returns[t], change = v - old_value[t];
    const double bound = old_value[t] + std::clamp(change, -clip, clip);
    const double free = (v - r) * (v - r), held = (bound - r) * (bound - r);
    sum += std::max(free, held);
    // Inside the clip the two are equal; beyond it the bounded one does not depend on v.
    gradient[t] = static_cast<float>(free >= held ? (v - r) / denominator : 0);
  }
  return 0.5 * sum / denominator;
}

void token_gae(const TokenSpan& span, std::span<const float> reward, std::span<const float> value,
               double gamma, double lambda, std::vector<float>& advantage,
               std::vector<float>& returns) {
  check_span("token_gae", span);
  check_column("token_gae", "reward", reward.size(), span.mask.size());
  check_column("token_gae", "value", value.size(), span.mask.size());
  advantage.assign(value.size(), 0.0f);
  returns.assign(value.size(), 0.0f);
  for (int64_t s = 0; s < span.sequences(); ++s) {
    double next_value = 0, running = 0;
    for (int64_t t = span.offsets[static_cast<size_t>(s) + 1] - 1;
         t >= span.offsets[static_cast<size_t>(s)]; --t) {
      const auto at = static_cast<size_t>(t);
      if (!span.mask[at]) continue;
      const double delta = reward[at] + gamma * next_value - value[at];
      running = delta + gamma * lambda * running;
      next_value = value[at];
      advantage[at] = static_cast<float>(running);
      returns[at] = static_cast<float>(running + value[at]);
    }
  }
}

double overlong_penalty(int64_t tokens, int64_t max_tokens, int64_t buffer, double factor) {
  BESSEMER_CHECK(buffer > 0 && buffer <= max_tokens, ValueError,
                 "[overlong_penalty] the buffer of ", buffer, " does not fit into ", max_tokens);
  const int64_t over = tokens - (max_tokens - buffer);
  if (over <= 0) return 0;
  return -factor * std::min(1.0, static_cast<double>(over) / static_cast<double>(buffer));
}

}  // namespace bessemer
