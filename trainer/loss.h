// Losses as pure functions of a batch: one written definition each, its source, and the derivative
// with respect to what the network and its distribution gave.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace bessemer {

/// One minibatch, [n] each.
struct PpoBatch {
  std::span<const float> log_prob, entropy, value;  // of the current policy
  std::span<const float> old_log_prob, old_value;   // of the policy that acted
  std::span<const float> advantage, returns;
  std::span<const float> weight = {};  // of each sample's policy loss; none: 1
};

struct PpoLossOptions {
  double clip_range = 0.2;
  std::optional<double> clip_range_vf;  // none: no clipping of the value (detail 9)
  bool normalize_advantage = true;      // per minibatch (detail 7)
  double ent_coef = 0.0, vf_coef = 0.5;
  double kl_coef = 0.0;   // weight of approx_kl as a penalty
  bool surrogate = true;  // false: the plain policy gradient
};

/// What the loss is made of and what to watch; means over the minibatch, under SB3's names (detail
/// 12).
struct PpoLoss {
  double loss = 0;
  double policy_gradient_loss = 0;
  double value_loss = 0;
  double entropy_loss = 0;  // -mean(entropy)
  double approx_kl = 0;     // k3: mean((ratio - 1) - log ratio) (Schulman 2020, "Approximating KL")
  double approx_kl_k1 = 0;  // mean(-log ratio)
  double clip_fraction = 0;  // of samples with |ratio - 1| > clip_range
};

/// d(loss)/d(...), [n] each; resized.
struct PpoGradient {
  std::vector<float> log_prob, entropy, value;
  std::vector<float> ratio, log_ratio, advantage;  // scratch
};

/// (advantage - mean) / (std + 1e-8) with the unbiased deviation, as SB3 and CleanRL; one sample
/// stays as it is.
void normalize_advantage(std::span<const float> advantage, std::vector<float>& out);

/// Proximal policy optimisation (Schulman et al. 2017, eq. 7 and 9), as SB3's PPO.train:
///   ratio  = exp(log_prob - old_log_prob)
///   policy = -mean(w min(A ratio, A clip(ratio, 1 - clip_range, 1 + clip_range)))      (detail 8)
///            w is 1 in PPO; with old_log_prob of the policy that started to learn and its ratio to
///            the one that acted as w, this is the decoupled objective of Hilton, Cobbe & Schulman
///            2021, "Batch size-invariance for policy optimization" (eq. 4)
///   policy = -mean(w A log_prob) without surrogate (Williams 1992; with w = min(rho, ratio) of the
///            sample IMPALA's, Espeholt et al. 2018, section 4.2)
///   v      = value, or old_value + clip(value - old_value, ±clip_range_vf)             (detail 9)
///   value  = mean((returns - v)²)     SB3's form: CleanRL takes half of the larger of the clipped
///   and
///                                     unclipped squares
///   loss   = policy + ent_coef · (-mean(entropy)) + vf_coef · value                    (detail 10)
///            + kl_coef · mean((ratio - 1) - log ratio)      (PPO's KL penalty, section 4,
///            estimated)
/// The gradient follows autograd's conventions: where min's two sides are equal the unclipped one
/// gets it, and a clip passes gradients at its bounds.
PpoLoss ppo_loss(const PpoBatch& batch, const PpoLossOptions& options, PpoGradient& gradient);

/// 1 - Var(returns - value) / Var(returns); NaN where the returns do not vary.
double explained_variance(std::span<const float> value, std::span<const float> returns);

}  // namespace bessemer
