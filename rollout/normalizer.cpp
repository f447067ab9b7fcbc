#include "rollout/normalizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/error.h"

namespace bessemer {

namespace {
constexpr double kEpsilon = 1e-8;  // under the root, as Gymnasium and SB3
}

void RunningMoments::update(int64_t rows, const float* x) {
  if (rows <= 0) return;
  const auto columns = static_cast<int64_t>(mean.size());
  const auto n = static_cast<double>(rows);
  for (int64_t c = 0; c < columns; ++c) {
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += x[r * columns + c];
    const double batch_mean = sum / n;
    double squares = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const double d = x[r * columns + c] - batch_mean;
      squares += d * d;
    }
    const double delta = batch_mean - mean[c], total = count + n;
    variance[c] = (variance[c] * count + squares + delta * delta * count * n / total) / total;
    mean[c] += delta * n / total;
  }
  count += n;
}

Normalizer::Normalizer(const NormalizerOptions& options, Dtype dtype, int64_t columns, int64_t rows)
    : options_(options),
      dtype_(dtype),
      columns_(columns),
      obs_(options.normalize_obs ? columns : 0),
      returns_(options.normalize_reward ? static_cast<size_t>(rows) : 0),
      rows_(rows) {
  BESSEMER_CHECK(dtype == Dtype::f32 || dtype == Dtype::f64 || dtype == Dtype::u8 ||
                     dtype == Dtype::i32 || dtype == Dtype::i64,
                 TypeError, "observations of dtype ", dtype_name(dtype), " are not supported");
}

void Normalizer::widen(int64_t n, const void* raw, float* out) const {
  const auto convert = [&]<class T>(const T* x, float scale) {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i]) * scale;
  };
  switch (dtype_) {
    case Dtype::f32:
      std::memcpy(out, raw, static_cast<size_t>(n) * sizeof(float));
      break;
    case Dtype::f64:
      convert(static_cast<const double*>(raw), 1.0f);
      break;
    case Dtype::i32:
      convert(static_cast<const int32_t*>(raw), 1.0f);
      break;
    case Dtype::i64:
      convert(static_cast<const int64_t*>(raw), 1.0f);
      break;
    default:
      convert(static_cast<const uint8_t*>(raw), options_.scale_pixels ? 1.0f / 255.0f : 1.0f);
  }
}

void Normalizer::inputs(int64_t rows, const void* raw, float* out) const {
  widen(rows * columns_, raw, out);
  normalize(rows, out);
}

void Normalizer::gather_inputs(std::span<const int64_t> index, const void* raw, float* out) const {
  if (dtype_ == Dtype::f32) {
    // Rows are short: a loop beats a call of memcpy for each.
    const auto* from = static_cast<const float*>(raw);
    float* to = out;
    for (int64_t i : index)
      for (int64_t c = 0; c < columns_; ++c) *to++ = from[i * columns_ + c];
  } else {
    for (size_t r = 0; r < index.size(); ++r)
      widen(columns_,
            static_cast<const char*>(raw) + static_cast<size_t>(index[r]) * observation_bytes(),
            out + static_cast<int64_t>(r) * columns_);
  }
  normalize(static_cast<int64_t>(index.size()), out);
}

void Normalizer::normalize(int64_t rows, float* x) const {
  if (!options_.normalize_obs) return;
  const auto bound = static_cast<float>(options_.clip_obs);
  for (int64_t c = 0; c < columns_; ++c) {
    const auto mean = static_cast<float>(obs_.mean[c]);
    const auto scale = static_cast<float>(1 / std::sqrt(obs_.variance[c] + kEpsilon));
    for (int64_t r = 0; r < rows; ++r) {
      float& value = x[r * columns_ + c];
      value = std::clamp((value - mean) * scale, -bound, bound);
    }
  }
}

float Normalizer::reward(float raw) const {
  if (!options_.normalize_reward) return raw;
  const double scaled = raw / std::sqrt(return_.variance[0] + kEpsilon);
  return static_cast<float>(std::clamp(scaled, -options_.clip_reward, options_.clip_reward));
}

void Normalizer::update(int64_t steps, const void* raw_obs, const float* rewards,
                        const uint8_t* ended) {
  update(steps, 0, rows_, raw_obs, rewards, ended);
}

void Normalizer::update(int64_t steps, int64_t first_row, int64_t rows, const void* raw_obs,
                        const float* rewards, const uint8_t* ended) {
  BESSEMER_CHECK(first_row >= 0 && rows >= 0 && first_row + rows <= rows_, IndexError,
                 "[normalizer] rows ", first_row, " to ", first_row + rows, " of ", rows_);
  const int64_t samples = steps * rows;
  if (options_.normalize_obs) {
    // Chunks of a fixed size bound the memory and keep one order of summation.
    constexpr int64_t kChunk = 4096;
    std::vector<float> wide(static_cast<size_t>(std::min(samples, kChunk) * columns_));
    for (int64_t r = 0; r < samples; r += kChunk) {
      const int64_t n = std::min(kChunk, samples - r);
      widen(n * columns_,
            static_cast<const char*>(raw_obs) + static_cast<size_t>(r) * observation_bytes(),
            wide.data());
      obs_.update(n, wide.data());
    }
  }
  if (options_.normalize_reward) {
    std::vector<float> discounted(static_cast<size_t>(samples));
    double* returns = returns_.data() + first_row;
    for (int64_t t = 0; t < steps; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t i = t * rows + r;
        returns[r] = returns[r] * options_.gamma + rewards[i];
        discounted[i] = static_cast<float>(returns[r]);
        if (ended[i]) returns[r] = 0;
      }
    }
    return_.update(samples, discounted.data());
  }
}

}  // namespace bessemer
