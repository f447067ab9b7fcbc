// One row of more than a vector, in canonical order: element j belongs to lane j mod 16, each lane
// is one chain in ascending order, and lanes are joined by a fixed tree.
#pragma once

#include "core/cpu/isa/vec.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

BESSEMER_INLINE float row_sum(int64_t n, const float* x) {
  Lanes sum = lanes_all(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = sum + lanes_load(x + i);
  if (i < n) sum = sum + lanes_load_part(x + i, n - i, 0.0f);
  return lanes_sum(sum);
}
/// Four chains of lanes, because a maximum waits on its compare; the largest is the same in any
/// order.
BESSEMER_INLINE float row_max(int64_t n, const float* x) {
  Lanes m0 = lanes_all(-scalar::kInfinity), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    m0 = lanes_max(m0, lanes_load(x + i));
    m1 = lanes_max(m1, lanes_load(x + i + 16));
    m2 = lanes_max(m2, lanes_load(x + i + 32));
    m3 = lanes_max(m3, lanes_load(x + i + 48));
  }
  m0 = lanes_max(lanes_max(m0, m1), lanes_max(m2, m3));
  for (; i + 16 <= n; i += 16) m0 = lanes_max(m0, lanes_load(x + i));
  if (i < n) m0 = lanes_max(m0, lanes_load_part(x + i, n - i, -scalar::kInfinity));
  return lanes_max(m0);
}
BESSEMER_INLINE float row_dot(int64_t n, const float* a, const float* b) {
  Lanes sum = lanes_all(0.0f);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = lanes_fma(lanes_load(a + i), lanes_load(b + i), sum);
  if (i < n) {
    sum = lanes_fma(lanes_load_part(a + i, n - i, 0.0f), lanes_load_part(b + i, n - i, 0.0f), sum);
  }
  return lanes_sum(sum);
}
/// out[i] = body(i) in whole vectors of 16; the rest through a padded block of inputs.
#define BESSEMER_ROW_LOOP(n, out, x, value, expression)                      \
  do {                                                                       \
    const int64_t main_ = (n) & ~int64_t{15}, rest_ = (n)-main_;             \
    _Pragma("GCC ivdep") for (int64_t i_ = 0; i_ < main_; ++i_) {            \
      const float value = (x)[i_];                                           \
      (out)[i_] = (expression);                                              \
    }                                                                        \
    if (rest_ > 0) {                                                         \
      alignas(64) float block_[16] = {};                                     \
      for (int64_t i_ = 0; i_ < rest_; ++i_) block_[i_] = (x)[main_ + i_];   \
      for (int64_t i_ = 0; i_ < 16; ++i_) {                                  \
        const float value = block_[i_];                                      \
        block_[i_] = (expression);                                           \
      }                                                                      \
      for (int64_t i_ = 0; i_ < rest_; ++i_) (out)[main_ + i_] = block_[i_]; \
    }                                                                        \
  } while (0)

/// Sum over a row of exp(x - max), without keeping the terms.
BESSEMER_INLINE float row_sum_exp(int64_t n, const float* x, float max) {
  alignas(64) float block[256];
  Lanes sum = lanes_all(0.0f);
  for (int64_t first = 0; first < n; first += 256) {
    const int64_t count = n - first < 256 ? n - first : 256;
    BESSEMER_ROW_LOOP(count, block, x + first, v, scalar::exp(v - max));
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) sum = sum + lanes_load(block + i);
    if (i < count) sum = sum + lanes_load_part(block + i, count - i, 0.0f);
  }
  return lanes_sum(sum);
}

}  // namespace bessemer::cpu::BESSEMER_ISA
