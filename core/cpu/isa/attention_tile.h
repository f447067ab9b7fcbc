// What the kernels of attention share: tiles of chains and the weights of the softmax.
#pragma once

#include "core/cpu/attention.h"
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/tile.h"
#include "core/cpu/isa/vec.h"

namespace bessemer::cpu::BESSEMER_ISA {

/// Rows of a tile: two native vectors a row in registers.
#if defined(__AVX512F__) || defined(__ARM_NEON)
inline constexpr int kTileQueries = 8;
#else
inline constexpr int kTileQueries = 6;
#endif

/// C[rows][columns] as chains over k of A's and B's elements, continued from what C holds or begun
/// at 0. A's element (r, p) is at a[r * a_row + p * a_step].
struct Chains {
  int64_t k;
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
  /// What is asked for meanwhile, where it is not null: `ahead_step` bytes further with every
  /// vector of B that is read.
  const char* ahead = nullptr;
  int64_t ahead_step = 0;
};

template <int... kV>
BESSEMER_INLINE void row_load(vf* acc, const float* from, Indices<kV...>) {
  ((acc[kV] = vec_load(from + kV * kVec)), ...);
}

template <int kRows, int kVectors, bool kAdjacent, bool kContinue, bool kAhead, int... kR,
          int... kV>
BESSEMER_INLINE void chains_body(const Chains& t, Indices<kR...>, Indices<kV...> vectors) {
  vf acc[kRows * kVectors];
  const float *a = t.a, *b = t.b;
  float* c = t.c;
  const int64_t stride = kAdjacent ? t.a_row : t.a_step, b_row = t.b_row, c_row = t.c_row;
  if constexpr (kContinue) {
    (row_load(acc + kR * kVectors, c + kR * c_row, vectors), ...);
  } else {
    (row_clear(acc + kR * kVectors, vectors), ...);
  }
  [[maybe_unused]] const char* ahead = t.ahead;
  for (int64_t p = 0; p < t.k; ++p) {
    const vf bv[kVectors] = {vec_load(b + kV * kVec)...};
    if constexpr (kAhead) {
      (__builtin_prefetch(ahead + kV * t.ahead_step), ...);
      ahead += kVectors * t.ahead_step;
    }
    if constexpr (kAdjacent) {
      (row_step(acc + kR * kVectors, vec_all(a[kR * stride]), bv, vectors), ...);
      a += 1;
    } else {
      (row_step(acc + kR * kVectors, vec_all(a[kR]), bv, vectors), ...);
      a += stride;
    }
    b += b_row;
  }
  (row_store(acc + kR * kVectors, c + kR * c_row, vectors), ...);
}

template <int kRows, int kVectors, bool kAdjacent, bool kContinue, bool kAhead>
static void chains_kernel(const Chains& t) {
  chains_body<kRows, kVectors, kAdjacent, kContinue, kAhead>(
      t, std::make_integer_sequence<int, kRows>(), std::make_integer_sequence<int, kVectors>());
}

using ChainsKernel = void (*)(const Chains&);
/// Few rows: four vectors a row, so that enough chains are in flight.
inline constexpr int kFewRows = kTileQueries / 2;
/// at[vectors - 1][rows - 1], few[rows - 1]
struct ChainsTable {
  ChainsKernel at[2][kTileQueries], few[kFewRows];
};
template <bool kAdjacent, bool kContinue, bool kAhead, int... kR, int... kF>
constexpr ChainsTable make_chains(Indices<kR...>, Indices<kF...>) {
  return {{{chains_kernel<kR + 1, 1, kAdjacent, kContinue, kAhead>...},
           {chains_kernel<kR + 1, 2, kAdjacent, kContinue, kAhead>...}},
          {chains_kernel<kF + 1, 4, kAdjacent, kContinue, kAhead>...}};
}
/// A's columns adjacent (a_step 1) or its rows (a_row 1).
template <bool kAdjacent, bool kContinue, bool kAhead>
inline constexpr ChainsTable kChains = make_chains<kAdjacent, kContinue, kAhead>(
    std::make_integer_sequence<int, kTileQueries>(), std::make_integer_sequence<int, kFewRows>());

/// rows <= kTileQueries; columns a multiple of 16.
template <bool kAdjacent, bool kContinue, bool kAhead = false>
BESSEMER_INLINE void run_chains(Chains t, int rows, int64_t columns) {
  const ChainsTable& table = kChains<kAdjacent, kContinue, kAhead>;
  const auto advance = [&](int vectors) {
    t.b += vectors * kVec;
    t.c += vectors * kVec;
    columns -= vectors * kVec;
    t.ahead += vectors * t.k * t.ahead_step;
  };
  while (rows <= kFewRows && columns >= 4 * kVec) {
    table.few[rows - 1](t);
    advance(4);
  }
  while (columns >= 2 * kVec) {
    table.at[1][rows - 1](t);
    advance(2);
  }
  if (columns > 0) table.at[0][rows - 1](t);
}

typedef int32_t vi __attribute__((vector_size(sizeof(vf))));

/// exp(x) for x <= 0, exactly 0 below -87.3, where it would leave the normal numbers; NaN stays
/// NaN. The bits of scalar::exp.
BESSEMER_INLINE vf weight_of(vf x) {
  const vf magic = vec_all(12582912.0f);
  const vf t = vec_fma(x, vec_all(1.44269504f), magic), n = t - magic;
  vf r = vec_fma(n, vec_all(-0.693359375f), x);
  r = vec_fma(n, vec_all(2.12194440e-4f), r);
  vf p = vec_fma(vec_all(1.9875691500e-4f), r, vec_all(1.3981999507e-3f));
  p = vec_fma(p, r, vec_all(8.3334519073e-3f));
  p = vec_fma(p, r, vec_all(4.1665795894e-2f));
  p = vec_fma(p, r, vec_all(1.6666665459e-1f));
  p = vec_fma(p, r, vec_all(5.0000001201e-1f));
  const vf y = vec_fma(p, r * r, r) + vec_all(1.0f);
  // The low bits of t are n; shifting drops the rest of it.
  const vf scale = (vf)(((vi)t + 127) << 23);
  const vf result = y * scale;
  return x < vec_all(-87.3f) ? vec_all(0.0f) : result;
}
BESSEMER_INLINE float weight_of(float x) {
  float out[kVec];
  vec_store(out, weight_of(vec_all(x)));
  return out[0];
}

/// The largest of 16; of NaNs and numbers any.
BESSEMER_INLINE float largest(const Lanes& x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(x.part[0]);
#elif defined(__AVX2__)
  const __m256 eight = _mm256_max_ps(x.part[0], x.part[1]);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
#else
  return lanes_max(x);
#endif
}

/// n bfloat16 as float32.
BESSEMER_INLINE void widen(int64_t n, const uint16_t* from, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = scalar::float_of(uint32_t{from[i]} << 16);
}

}  // namespace bessemer::cpu::BESSEMER_ISA
