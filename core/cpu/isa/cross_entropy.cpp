// Log-probability, entropy and gradient of one token a row from its raw logits, and what a token is
// drawn from. Sums follow the
// rows they stand for: log_softmax_rows for the log-probability, the row `sum` (blocks of kSumBlock
// elements, their sums summed alike) for the entropy.
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/row.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int64_t kSumBlock = 4096;
constexpr int64_t kPart = kWeightBlock;  // elements worked on at a time, in L1

BESSEMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// x * scale, in `part` unless scale is 1.
BESSEMER_INLINE const float* scaled(int64_t n, const float* x, float scale, float* part) {
  if (scale == 1.0f) return x;
  for (int64_t i = 0; i < n; ++i) part[i] = x[i] * scale;
  return part;
}

float scaled_max(int64_t n, const float* x, float scale) {
  if (scale == 1.0f) return row_max(n, x);
  alignas(64) float part[kPart];
  float max = -scalar::kInfinity;
  for (int64_t first = 0; first < n; first += kPart) {
    const int64_t count = least(n - first, kPart);
    max = max_of(max, row_max(count, scaled(count, x + first, scale, part)));
  }
  return max;
}

float scaled_sum_exp(int64_t n, const float* x, float scale, float max) {
  if (scale == 1.0f) return row_sum_exp(n, x, max);
  alignas(64) float part[kPart];
  Lanes sum = lanes_all(0.0f);
  for (int64_t first = 0; first < n; first += kPart) {
    const int64_t count = least(n - first, kPart);
    const float* z = scaled(count, x + first, scale, part);
    BESSEMER_ROW_LOOP(count, part, z, v, scalar::exp(v - max));
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) sum = sum + lanes_load(part + i);
    if (i < count) sum = sum + lanes_load_part(part + i, count - i, 0.0f);
  }
  return lanes_sum(sum);
}

/// p log p from z: exact 0 where p is.
BESSEMER_INLINE float information(float z, float max, float log_sum) {
  const float l = (z - max) - log_sum;
  return scalar::exp(l) * l;
}

float row_entropy(int64_t n, const float* x, float scale, float max, float log_sum) {
  alignas(64) float part[kPart], sums[kSumBlock];
  int64_t blocks = 0;
  for (int64_t start = 0; start < n; start += kSumBlock, ++blocks) {
    const int64_t size = least(n - start, kSumBlock);
    Lanes sum = lanes_all(0.0f);
    for (int64_t first = 0; first < size; first += kPart) {
      const int64_t count = least(size - first, kPart);
      const float* z = scaled(count, x + start + first, scale, part);
      BESSEMER_ROW_LOOP(count, part, z, v, information(v, max, log_sum));
      int64_t i = 0;
      for (; i + 16 <= count; i += 16) sum = sum + lanes_load(part + i);
      if (i < count) sum = sum + lanes_load_part(part + i, count - i, 0.0f);
    }
    sums[blocks] = lanes_sum(sum);
  }
  return -(blocks == 1 ? sums[0] : row_sum(blocks, sums));
}

/// Whether any of x * scale is `value`.
bool scaled_has(int64_t n, const float* x, float scale, float value) {
  for (int64_t first = 0; first < n; first += kPart) {
    const int64_t count = least(n - first, kPart);
    int32_t equal = 0;
    for (int64_t i = 0; i < count; ++i) equal |= x[first + i] * scale == value;
    if (equal) return true;
  }
  return false;
}

void token_stats_rows(int64_t rows, int64_t n, const float* raw, int64_t row_stride, float scale,
                      const int64_t* targets, bool entropy, TokenStats* stats) {
  for (int64_t r = 0; r < rows; ++r, raw += row_stride) {
    TokenStats& s = stats[r];
    s.max = scaled_max(n, raw, scale);
    s.log_sum = scalar::log(scaled_sum_exp(n, raw, scale, s.max));
    const float z = raw[targets[r]] * scale;
    s.log_prob = (z - s.max) - s.log_sum;
    s.hit = z == s.max && !scaled_has(targets[r], raw, scale, s.max);
    s.entropy = entropy ? row_entropy(n, raw, scale, s.max, s.log_sum) : 0.0f;
  }
}

TokenWeights token_weights(int64_t n, const float* raw, float scale, float* weights,
                           float* block_sums) {
  alignas(64) float part[kPart];
  TokenWeights t{-scalar::kInfinity, 0.0f, 0};
  Lanes odd = lanes_all(0.0f);  // x - x: NaN where x is not finite
  for (int64_t first = 0; first < n; first += kPart) {
    const int64_t count = least(n - first, kPart);
    const float* x = raw + first;
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) odd = odd + (lanes_load(x + i) - lanes_load(x + i));
    const Lanes rest = lanes_load_part(x + i, count - i, 0.0f);
    odd = odd + (rest - rest);
    const float max = row_max(count, scaled(count, x, scale, part));
    if (max > t.max) {
      t.max = max;
      t.block = first / kPart;
    }
  }
  const float check = lanes_sum(odd);
  if (check != check) t.max = check;
  if (!(scalar::abs(t.max) < scalar::kInfinity)) return t;
  Lanes sum = lanes_all(0.0f);
  for (int64_t first = 0; first < n; first += kPart, weights += kPart) {
    const int64_t count = least(n - first, kPart);
    const float* z = scaled(count, raw + first, scale, part);
    const float max = t.max;
    BESSEMER_ROW_LOOP(count, weights, z, v, scalar::exp(v - max));
    Lanes own = lanes_all(0.0f);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const Lanes w = lanes_load(weights + i);
      own = own + w;
      sum = sum + w;
    }
    if (i < count) {
      const Lanes w = lanes_load_part(weights + i, count - i, 0.0f);
      own = own + w;
      sum = sum + w;
    }
    block_sums[first / kPart] = lanes_sum(own);
  }
  t.log_sum = scalar::log(lanes_sum(sum));
  return t;
}

struct Slope {
  float max, log_sum, entropy, g_log_prob, g_entropy, scale;
};
/// d/dz without the target's own term.
BESSEMER_INLINE float slope(float z, const Slope& s) {
  const float l = (z - s.max) - s.log_sum, p = scalar::exp(l);
  return -(p * scalar::fma(s.g_entropy, l + s.entropy, s.g_log_prob));
}

void token_backward_rows(int64_t rows, int64_t n, float* raw, int64_t row_stride, float scale,
                         const int64_t* targets, const TokenStats* stats, const float* g_log_prob,
                         const float* g_entropy, float* d_scale) {
  alignas(64) float part[kPart];
  for (int64_t r = 0; r < rows; ++r, raw += row_stride) {
    const Slope s{stats[r].max,
                  stats[r].log_sum,
                  stats[r].entropy,
                  g_log_prob ? g_log_prob[r] : 0.0f,
                  g_entropy ? g_entropy[r] : 0.0f,
                  scale};
    Lanes dot = lanes_all(0.0f);
    for (int64_t first = 0; first < n; first += kPart) {
      const int64_t count = least(n - first, kPart), target = targets[r] - first;
      float* x = raw + first;
      const float* z = scaled(count, x, scale, part);
      BESSEMER_ROW_LOOP(count, part, z, v, slope(v, s));
      if (target >= 0 && target < count) part[target] += s.g_log_prob;
      if (d_scale) {
        int64_t i = 0;
        for (; i + 16 <= count; i += 16) {
          dot = lanes_fma(lanes_load(part + i), lanes_load(x + i), dot);
        }
        if (i < count) {
          dot = lanes_fma(lanes_load_part(part + i, count - i, 0.0f),
                          lanes_load_part(x + i, count - i, 0.0f), dot);
        }
      }
      for (int64_t i = 0; i < count; ++i) x[i] = part[i] * scale;
    }
    if (d_scale) d_scale[r] = lanes_sum(dot);
  }
}

}  // namespace

void fill_cross_entropy(KernelTable& table) {
  table.token_stats_rows = token_stats_rows;
  table.token_weights = token_weights;
  table.token_backward_rows = token_backward_rows;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
