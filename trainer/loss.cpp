#include "trainer/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "core/cpu/kernels.h"

namespace bessemer {

void normalize_advantage(std::span<const float> advantage, std::vector<float>& out) {
  out.assign(advantage.begin(), advantage.end());
  const auto n = static_cast<double>(advantage.size());
  if (advantage.size() < 2) return;
  double sum = 0, squares = 0;
  for (float a : advantage) sum += a;
  const double mean = sum / n;
  for (float a : advantage) squares += (a - mean) * (a - mean);
  const double scale = 1 / (std::sqrt(squares / (n - 1)) + 1e-8);
  for (float& a : out) a = static_cast<float>((a - mean) * scale);
}

PpoLoss ppo_loss(const PpoBatch& batch, const PpoLossOptions& options, PpoGradient& gradient) {
  const size_t n = batch.log_prob.size();
  BESSEMER_CHECK(n > 0 && batch.entropy.size() == n && batch.value.size() == n &&
                     batch.old_log_prob.size() == n && batch.old_value.size() == n &&
                     batch.advantage.size() == n && batch.returns.size() == n &&
                     (batch.weight.empty() || batch.weight.size() == n),
                 ValueError, "[ppo_loss] the columns of a minibatch have one length above 0");
  for (auto* column : {&gradient.log_prob, &gradient.entropy, &gradient.value, &gradient.ratio,
                       &gradient.log_ratio})
    column->resize(n);
  if (options.normalize_advantage)
    normalize_advantage(batch.advantage, gradient.advantage);
  else
    gradient.advantage.assign(batch.advantage.begin(), batch.advantage.end());
  for (size_t i = 0; i < n; ++i) gradient.log_ratio[i] = batch.log_prob[i] - batch.old_log_prob[i];
  cpu::kernels().unary_f32[static_cast<int>(OpId::exp)](
      static_cast<int64_t>(n), gradient.ratio.data(), 1, gradient.log_ratio.data(), 1);

  const auto low = static_cast<float>(1 - options.clip_range);
  const auto high = static_cast<float>(1 + options.clip_range);
  const auto vf_clip =
      static_cast<float>(options.clip_range_vf.value_or(std::numeric_limits<float>::infinity()));
  const auto share = static_cast<float>(1 / static_cast<double>(n));
  const auto value_share = static_cast<float>(2 * options.vf_coef / static_cast<double>(n));
  const auto kl_share = static_cast<float>(options.kl_coef / static_cast<double>(n));
  double policy = 0, value = 0, entropy = 0, kl = 0, kl1 = 0;
  int64_t clipped = 0;
  for (size_t i = 0; i < n; ++i) {
    const float ratio = gradient.ratio[i], advantage = gradient.advantage[i];
    const float weight = batch.weight.empty() ? 1.0f : batch.weight[i];
    if (options.surrogate) {
      const float free = advantage * ratio, bound = advantage * std::clamp(ratio, low, high);
      policy += weight * std::min(free, bound);
      // d min / d log_prob = A ratio where the unclipped side is the smaller, else 0; inside the
      // range the two are equal.
      gradient.log_prob[i] = free <= bound ? -free * share * weight : 0.0f;
    } else {
      policy += weight * advantage * batch.log_prob[i];
      gradient.log_prob[i] = -advantage * share * weight;
    }
    if (kl_share > 0) gradient.log_prob[i] += kl_share * (ratio - 1);
    clipped += std::fabs(ratio - 1) > static_cast<float>(options.clip_range);
    kl += static_cast<double>(ratio) - 1 - gradient.log_ratio[i];
    kl1 -= gradient.log_ratio[i];

    const float change = batch.value[i] - batch.old_value[i];
    const bool inside = change >= -vf_clip && change <= vf_clip;
    const float judged =
        inside ? batch.value[i] : batch.old_value[i] + std::clamp(change, -vf_clip, vf_clip);
    const float error = judged - batch.returns[i];
    value += static_cast<double>(error) * error;
    gradient.value[i] = inside ? error * value_share : 0.0f;
    entropy += batch.entropy[i];
  }
  const auto entropy_share = static_cast<float>(-options.ent_coef / static_cast<double>(n));
  std::fill(gradient.entropy.begin(), gradient.entropy.end(), entropy_share);

  const auto count = static_cast<double>(n);
  PpoLoss out;
  out.policy_gradient_loss = -policy / count;
  out.value_loss = value / count;
  out.entropy_loss = -entropy / count;
  out.approx_kl = kl / count;
  out.approx_kl_k1 = kl1 / count;
  out.clip_fraction = static_cast<double>(clipped) / count;
  out.loss = out.policy_gradient_loss + options.ent_coef * out.entropy_loss +
             options.vf_coef * out.value_loss;
  if (options.kl_coef > 0) out.loss += options.kl_coef * out.approx_kl;
  return out;
}

double explained_variance(std::span<const float> value, std::span<const float> returns) {
  const auto n = static_cast<double>(returns.size());
  double mean = 0, mean_error = 0;
  for (size_t i = 0; i < returns.size(); ++i) {
    mean += returns[i];
    mean_error += static_cast<double>(returns[i]) - value[i];
  }
  mean /= n;
  mean_error /= n;
  double variance = 0, error = 0;
  for (size_t i = 0; i < returns.size(); ++i) {
    const double e = static_cast<double>(returns[i]) - value[i] - mean_error;
    variance += (returns[i] - mean) * (returns[i] - mean);
    error += e * e;
  }
  return variance > 0 ? 1 - error / variance : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace bessemer
