// Distributions of actions over raw rows: what samplers draw from and what losses differentiate.
// One definition serves both, so that the log-probability of a sample and that of training are the
// same bits for the same network outputs. Gradients are closed forms; tests hold them to autograd.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/rng.h"

namespace bessemer::nn {

enum class ActionKind : uint8_t {
  categorical,      // one or several independent choices (detail 37), possibly masked
  gaussian,         // mean from the network, log_std [components] a parameter (details 23 to 25)
  state_dependent,  // gSDE (Raffin et al. 2021): noise = features · matrix, log_std [features,
                    // components]
};

/// The logit that a disallowed choice gets: its probability is exactly 0 in float32.
inline constexpr float kMaskedLogit = -1e8f;

/// What a distribution is computed from. Dense rows; pointers that a kind does not use are null.
struct ActionInputs {
  int64_t rows = 0;
  const float* outputs = nullptr;   // [rows, outputs]: logits or means
  const uint8_t* mask = nullptr;    // [rows, outputs], 1 = allowed; null: all are
  const float* log_std = nullptr;   // [components] or [features, components]
  const float* features = nullptr;  // [rows, features], state_dependent only
};

/// Filled by prepare(), read by the calls after it; keep one for each use to avoid allocation.
struct ActionScratch {
  std::vector<float> log_p, p;         // categorical: [rows, outputs]
  std::vector<float> sum, log_sum;     // categorical: [rows, groups]
  std::vector<float> std;              // continuous: [rows, components]
  std::vector<float> squared, matrix;  // state_dependent
  std::vector<double> total;
};

class ActionDistribution {
 public:
  ActionDistribution() = default;
  static ActionDistribution categorical(std::span<const int64_t> choices);
  static ActionDistribution gaussian(int64_t components);
  static ActionDistribution state_dependent(int64_t components, int64_t features);

  ActionKind kind() const { return kind_; }
  /// Numbers in one action; choices are stored as floats, which are exact up to 2^24.
  int64_t components() const { return components_; }
  /// Numbers that the network gives for one row.
  int64_t outputs() const { return outputs_; }
  int64_t features() const { return features_; }
  /// Elements of the log_std parameter; 0 for categorical.
  int64_t log_stds() const;
  bool discrete() const { return kind_ == ActionKind::categorical; }

  void prepare(const ActionInputs& in, ActionScratch& scratch) const;
  /// Row i draws from rng at (index[i], counter). `actions` is [rows, components]. state_dependent:
  /// `exploration` is [rows, features, components] from explore().
  void sample(const ActionInputs& in, const ActionScratch& scratch, const Rng& rng,
              std::span<const int64_t> index, uint64_t counter, const float* exploration,
              float* actions) const;
  /// The most likely action: first largest logit, or the mean.
  void mode(const ActionInputs& in, const ActionScratch& scratch, float* actions) const;
  /// log_prob and entropy [rows]; entropy may be null.
  void evaluate(const ActionInputs& in, const ActionScratch& scratch, const float* actions,
                float* log_prob, float* entropy) const;
  /// Given d/d(log_prob) and d/d(entropy) [rows], writes d/d(outputs) [rows, outputs] and
  /// d/d(log_std). The features of state_dependent get no gradient (SB3's learn_features = False).
  void gradient(const ActionInputs& in, ActionScratch& scratch, const float* actions,
                const float* d_log_prob, const float* d_entropy, float* d_outputs,
                float* d_log_std) const;
  /// One exploration matrix [features, components] of N(0, exp(log_std)), drawn at (index,
  /// counter).
  void explore(const Rng& rng, int64_t index, uint64_t counter, const float* log_std,
               float* matrix) const;

 private:
  void prepare_categorical(const ActionInputs& in, ActionScratch& scratch) const;
  void prepare_state_dependent(const ActionInputs& in, ActionScratch& scratch) const;

  ActionKind kind_ = ActionKind::categorical;
  std::vector<int64_t> choices_;
  int64_t components_ = 0, outputs_ = 0, features_ = 0;
};

}  // namespace bessemer::nn
