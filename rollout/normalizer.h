// Observations and rewards as the network sees them. Statistics stand still during a rollout and
// its updates, and take in the whole buffer afterwards, in row order, so that bits do not depend on
// threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/dtype.h"

namespace bessemer {

/// Mean and population variance of each of n columns, merged batch by batch (Chan, Golub & LeVeque
/// 1979), in double.
struct RunningMoments {
  std::vector<double> mean, variance;
  double count = 1e-4;  // as Gymnasium and SB3: the first batch outweighs the prior of N(0, 1)

  explicit RunningMoments(int64_t columns = 0)
      : mean(static_cast<size_t>(columns), 0), variance(static_cast<size_t>(columns), 1) {}
  /// x [rows, columns].
  void update(int64_t rows, const float* x);
};

struct NormalizerOptions {
  bool normalize_obs = false, normalize_reward = false;
  double clip_obs = 10, clip_reward = 10;
  double gamma = 0.99;
  bool scale_pixels = true;
};

class Normalizer {
 public:
  Normalizer() = default;
  /// Observations of `columns` numbers of `dtype`; rewards of `rows` environments.
  Normalizer(const NormalizerOptions& options, Dtype dtype, int64_t columns, int64_t rows);

  /// Raw observations to network inputs [rows, columns]: u8 over 255 (detail 22), or
  /// clip((x - mean) / sqrt(variance + 1e-8)) (details 28 and 29).
  void inputs(int64_t rows, const void* raw, float* out) const;
  /// The same for the rows `index` of a larger array, in that order.
  void gather_inputs(std::span<const int64_t> index, const void* raw, float* out) const;
  /// clip(r / sqrt(variance of the discounted return + 1e-8)); the mean stays (details 30 and 31).
  float reward(float raw) const;

  /// Takes in a finished rollout: raw observations [steps * rows, columns], rewards and ends
  /// [steps, rows].
  void update(int64_t steps, const void* raw_obs, const float* rewards, const uint8_t* ended);
  /// The same for `rows` environments, from `first_row` on.
  void update(int64_t steps, int64_t first_row, int64_t rows, const void* raw_obs,
              const float* rewards, const uint8_t* ended);

  const NormalizerOptions& options() const { return options_; }
  size_t observation_bytes() const { return static_cast<size_t>(columns_) * dtype_size(dtype_); }
  RunningMoments& obs_moments() { return obs_; }
  RunningMoments& return_moments() { return return_; }
  std::vector<double>& discounted_returns() { return returns_; }
  const RunningMoments& obs_moments() const { return obs_; }
  const RunningMoments& return_moments() const { return return_; }
  const std::vector<double>& discounted_returns() const { return returns_; }

 private:
  void widen(int64_t n, const void* raw, float* out) const;
  void normalize(int64_t rows, float* x) const;

  NormalizerOptions options_;
  Dtype dtype_ = Dtype::f32;
  int64_t columns_ = 0;
  RunningMoments obs_, return_{1};
  std::vector<double> returns_;  // of each environment, discounted, since its episode began
  int64_t rows_ = 0;
};

}  // namespace bessemer
