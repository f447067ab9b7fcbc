// Losses over tokens of language models, as pure functions of log-probabilities: one written
// definition each, its source, and the derivative with respect to the policy's log-probabilities
// (or rewards, values). Tokens are packed; sequence s is [offsets[s], offsets[s + 1]). A mask of 1
// puts a token in the loss. Denominators are arguments, so that gradient accumulation over
// micro-batches gives the same result as one batch: the mean of means is the field's most copied
// mistake.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace bessemer {

struct TokenSpan {
  std::span<const int64_t> offsets;  // [sequences + 1], from 0
  std::span<const uint8_t> mask;     // [tokens]
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t tokens() const { return static_cast<int64_t>(mask.size()); }
};
/// Tokens with mask 1.
int64_t active_tokens(const TokenSpan& span);
/// Sum of `values` over each sequence's active tokens, [sequences], in token order.
std::vector<double> sequence_sums(const TokenSpan& span, std::span<const float> values);

// --- supervised
// -----------------------------------------------------------------------------------------

/// Negative log-likelihood, -sum(mask log p) / denominator; `denominator` is the number of active
/// tokens of the whole optimiser step. gradient [tokens]: d loss / d log_prob.
double nll_loss(const TokenSpan& span, std::span<const float> log_prob, double denominator,
                std::vector<float>& gradient);

// --- preferences
// ------------------------------------------------------------------------------------------

/// Bradley–Terry reward modelling (Ouyang et al. 2022, eq. 1), as TRL's RewardTrainer:
///   -log sigmoid(chosen - rejected - margin) + center · (chosen + rejected)²      averaged over
///   pairs
/// `margin` may be empty. Gradients are with respect to the rewards, [pairs].
struct RewardLoss {
  double loss = 0, accuracy = 0, margin = 0;
};
RewardLoss reward_loss(std::span<const float> chosen, std::span<const float> rejected,
                       std::span<const float> margin, double center, double denominator,
                       std::vector<float>& d_chosen, std::vector<float>& d_rejected);

/// Direct preference optimisation and its relatives, on sequence log-probabilities of the policy
/// and the reference. With h = (chosen - ref chosen) - (rejected - ref rejected):
///   sigmoid  -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)      (Rafailov et al. 2023, eq.
///   7; e is the
///            label smoothing of cDPO, Mitchell 2023)
///   ipo      (h - 1 / (2 beta))²                                         (Azar et al. 2023, eq.
///   17) hinge    max(0, 1 - beta h)                                          (Zhao et al. 2023,
///   SLiC)
/// `reference_free` takes the reference's part as 0. `length_normalize` divides each sequence's
/// log-ratio by its active tokens first: TRL does so for ipo, OpenRLHF does not; here it is a
/// switch of its own.
enum class DpoKind : uint8_t { sigmoid, ipo, hinge };
struct DpoOptions {
  DpoKind kind = DpoKind::sigmoid;
  double beta = 0.1;
  double label_smoothing = 0;
  bool reference_free = false;
  bool length_normalize = false;
};
/// Under TRL's names: rewards are beta times the log-ratios.
struct DpoLoss {
  double loss = 0, chosen_reward = 0, rejected_reward = 0, accuracy = 0, margin = 0;
};
/// Sequences 2i and 2i + 1 are chosen and rejected of pair i. `ref_log_prob` is empty when
/// reference_free. gradient [tokens].
DpoLoss dpo_loss(const TokenSpan& span, std::span<const float> log_prob,
                 std::span<const float> ref_log_prob, const DpoOptions& options, double pairs,
                 std::vector<float>& gradient);

// --- policy gradients
// ---------------------------------------------------------------------------------------

/// Estimators of KL(policy || reference) from one sample, d = log p - log p_ref (Schulman 2020): k1
/// = d, k2 = d² / 2, k3 = exp(-d) + d - 1 (unbiased like k1, never negative like k2).
enum class KlEstimator : uint8_t { k1, k2, k3 };
double kl_estimate(KlEstimator kind, double log_prob, double ref_log_prob);
/// d kl_estimate / d log_prob.
double kl_slope(KlEstimator kind, double log_prob, double ref_log_prob);

/// How rewards of a group (several completions of one prompt) become advantages:
///   group          (r - mean) / (std + 1e-4)     GRPO (Shao et al. 2024, eq. 21); unbiased std, as
///   TRL none           r - mean                      Dr. GRPO (Liu et al. 2025) batch          (r
///   - mean of group) / (std of the batch + 1e-4) leave_one_out  r - mean of the others        RLOO
///   (Kool et al. 2019; Ahmadian et al. 2024)
/// NaN rewards (an episode that could not be scored) are left out and get advantage 0; so does a
/// group of one usable reward.
enum class AdvantageScale : uint8_t { group, none, batch, leave_one_out };
struct GroupAdvantages {
  std::vector<float> advantage;    // [rewards]
  int64_t zero_spread_groups = 0;  // groups from which nothing can be learned
};
GroupAdvantages group_advantages(std::span<const float> rewards, int64_t group_size,
                                 AdvantageScale scale);

/// Advantages of the turns of conversations. With R_t the sum of a conversation's rewards from turn
/// t on, `to_go[i]` = (R_0, R_1, ...):
///   A_t = R_t - mean over the group's conversations that have a turn t
/// (leave_one_out: over the others), divided as in group_advantages by a deviation of the totals
/// R_0. What a turn could not change any more, the rewards before it and what all that got so far
/// had to expect, is not credited to it. The turn's own baseline is that of Zeng et al. 2025
/// (turn-level credit); rewards to go instead of episode rewards are Sutton's, as in process
/// supervision (Shao et al. 2024, section 4.1.3). Empty entries (episodes that could not be scored)
/// stay empty.
std::vector<std::vector<float>> turn_advantages(std::span<const std::vector<float>> to_go,
                                                int64_t group_size, AdvantageScale scale);

/// How token losses become one number. With L active tokens in a sequence:
///   sequence_mean   mean over sequences of (sum / L)              GRPO as published: short answers
///   weigh more token_mean      sum / all active tokens of the step           DAPO (Yu et al.
///   2025); TRL's default constant        sum / (sequences · max_tokens)                Dr. GRPO
enum class Aggregation : uint8_t { sequence_mean, token_mean, constant };

struct TokenPolicyOptions {
  double clip_low = 0.2, clip_high = 0.2;  // DAPO's clip-higher: 0.28
  std::optional<double> dual_clip;         // for A < 0: at most dual_clip · |A| (Ye et al. 2020)
  Aggregation aggregation = Aggregation::token_mean;
  double max_tokens = 0;  // of Aggregation::constant
  double kl_coef = 0;     // KL to the reference as a term of the loss
  KlEstimator kl = KlEstimator::k3;
};
/// What the whole optimiser step divides by; 0 takes this batch's own.
struct StepTotals {
  double sequences = 0, tokens = 0;
};
struct TokenPolicyLoss {
  double loss = 0;                     // policy part and KL part
  double kl = 0;                       // mean over active tokens; 0 without reference
  double clip_low = 0, clip_high = 0;  // shares of active tokens cut at either side
  double ratio_mean = 0, ratio_max = 0;
  double approx_kl = 0;  // k3 between the policy and the one that acted
};
/// Clipped policy gradient over tokens (Schulman et al. 2017, eq. 7):
///   rho = exp(log_prob - old_log_prob),  l = max(-A rho, -A clip(rho, 1 - clip_low, 1 +
///   clip_high)) loss = aggregate(l) + kl_coef · aggregate(KL(policy || reference))
/// `advantage` is [tokens]. `ref_log_prob` may be empty when kl_coef is 0. gradient [tokens].
TokenPolicyLoss token_policy_loss(const TokenSpan& span, std::span<const float> log_prob,
                                  std::span<const float> old_log_prob,
                                  std::span<const float> ref_log_prob,
                                  std::span<const float> advantage,
                                  const TokenPolicyOptions& options, const StepTotals& totals,
                                  std::vector<float>& gradient);

/// The critic's loss over active tokens: 0.5 mean(max((v - R)², (v_old + clip(v - v_old, ±clip) -
/// R)²)), as TRL's PPO. gradient [tokens]: with respect to value.
double token_value_loss(const TokenSpan& span, std::span<const float> value,
                        std::span<const float> old_value, std::span<const float> returns,
                        double clip, double denominator, std::vector<float>& gradient);

/// Advantages and returns of token sequences (Schulman et al. 2016): along each sequence's active
/// tokens,
///   delta = r + gamma V(next) - V,  A = delta + gamma lambda A(next)
/// Inactive tokens (prompts, tool answers) are stepped over: value and accumulator pass them
/// unchanged.
void token_gae(const TokenSpan& span, std::span<const float> reward, std::span<const float> value,
               double gamma, double lambda, std::vector<float>& advantage,
               std::vector<float>& returns);

/// DAPO's soft penalty of overlong answers: 0 up to max_tokens - buffer, then linearly to -factor
/// at max_tokens (Yu et al. 2025, eq. 13).
double overlong_penalty(int64_t tokens, int64_t max_tokens, int64_t buffer, double factor = 1);

}  // namespace bessemer
