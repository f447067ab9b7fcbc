// One native vector of floats, and the 16 virtual lanes of the canonical order on top of it.
#pragma once

#include "core/cpu/isa/isa.h"
#include "core/ops/scalar.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace bessemer::cpu::BESSEMER_ISA {

#if defined(__AVX512F__)
using vf = __m512;
inline constexpr int kVec = 16;
BESSEMER_INLINE vf vec_load(const float* p) { return _mm512_loadu_ps(p); }
BESSEMER_INLINE void vec_store(float* p, vf v) { _mm512_storeu_ps(p, v); }
BESSEMER_INLINE vf vec_all(float x) { return _mm512_set1_ps(x); }
BESSEMER_INLINE vf vec_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
using vf = __m256;
inline constexpr int kVec = 8;
BESSEMER_INLINE vf vec_load(const float* p) { return _mm256_loadu_ps(p); }
BESSEMER_INLINE void vec_store(float* p, vf v) { _mm256_storeu_ps(p, v); }
BESSEMER_INLINE vf vec_all(float x) { return _mm256_set1_ps(x); }
BESSEMER_INLINE vf vec_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__ARM_NEON)
using vf = float32x4_t;
inline constexpr int kVec = 4;
BESSEMER_INLINE vf vec_load(const float* p) { return vld1q_f32(p); }
BESSEMER_INLINE void vec_store(float* p, vf v) { vst1q_f32(p, v); }
BESSEMER_INLINE vf vec_all(float x) { return vdupq_n_f32(x); }
BESSEMER_INLINE vf vec_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
#else
typedef float vf __attribute__((vector_size(16)));
inline constexpr int kVec = 4;
BESSEMER_INLINE vf vec_load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
BESSEMER_INLINE void vec_store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
BESSEMER_INLINE vf vec_all(float x) { return vf{x, x, x, x}; }
BESSEMER_INLINE vf vec_fma(vf a, vf b, vf c) { return a * b + c; }
#endif

// bfloat16. A word of a pair holds elements 2p (low half) and 2p + 1.
#if defined(__AVX512BF16__)
BESSEMER_INLINE vf vec_widen(const uint16_t* p) {
  const __m512i wide =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/// c + a1 b1 + a0 b0. Zen 5's vdpbf16ps has the bits of two fused multiply-adds, the odd element
/// first (tried on 3 million pairs), except that it flushes subnormals.
BESSEMER_INLINE vf vec_dot_pairs(vf a, vf b, vf c) {
  return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#else
typedef uint32_t vec_words __attribute__((vector_size(sizeof(vf))));
BESSEMER_INLINE vf vec_widen(const uint16_t* p) {
#if defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
#else
  vec_words words;
  for (int i = 0; i < kVec; ++i) words[i] = static_cast<uint32_t>(p[i]) << 16;
  return reinterpret_cast<vf>(words);
#endif
}
BESSEMER_INLINE vf vec_odd(vf pairs) {
  return reinterpret_cast<vf>(reinterpret_cast<vec_words>(pairs) & 0xffff0000u);
}
BESSEMER_INLINE vf vec_even(vf pairs) {
  return reinterpret_cast<vf>(reinterpret_cast<vec_words>(pairs) << 16);
}
#endif
BESSEMER_INLINE vf vec_max(vf m, vf x) { return (x > m) | (x != x) ? x : m; }

/// Transposes a kVec x kVec block of adjacent vectors: out[i] takes element i of each row.
#if defined(__AVX512F__)
BESSEMER_INLINE void vec_transpose(const vf* r, vf* out) {
  vf a[16], b[16];
  // Pairs, then fours, of rows interleaved inside lanes of four floats; then lanes change places.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d x0 = _mm512_castps_pd(a[i]), x1 = _mm512_castps_pd(a[i + 1]);
    const __m512d x2 = _mm512_castps_pd(a[i + 2]), x3 = _mm512_castps_pd(a[i + 3]);
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x0, x2));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x0, x2));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x1, x3));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(x1, x3));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const vf x0 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
    const vf x1 = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    const vf x2 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
    const vf x3 = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    out[i] = _mm512_shuffle_f32x4(x0, x2, 0x88);
    out[i + 8] = _mm512_shuffle_f32x4(x0, x2, 0xdd);
    out[i + 4] = _mm512_shuffle_f32x4(x1, x3, 0x88);
    out[i + 12] = _mm512_shuffle_f32x4(x1, x3, 0xdd);
  }
}
#elif defined(__AVX2__)
BESSEMER_INLINE void vec_transpose(const vf* r, vf* out) {
  vf a[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const vf x0 = _mm256_unpacklo_ps(r[i], r[i + 1]), x1 = _mm256_unpackhi_ps(r[i], r[i + 1]);
    const vf x2 = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
    const vf x3 = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
    a[i] = _mm256_shuffle_ps(x0, x2, 0x44);
    a[i + 1] = _mm256_shuffle_ps(x0, x2, 0xee);
    a[i + 2] = _mm256_shuffle_ps(x1, x3, 0x44);
    a[i + 3] = _mm256_shuffle_ps(x1, x3, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
    out[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
  }
}
#else
BESSEMER_INLINE void vec_transpose(const vf* r, vf* out) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = vf{r[0][i], r[1][i], r[2][i], r[3][i]};
}
#endif

/// 16 lanes, whatever the native width: lane l takes elements l, l + 16, l + 32, ...
struct Lanes {
  static constexpr int kParts = 16 / kVec;
  vf part[kParts];
};
#define BESSEMER_PARTS _Pragma("GCC unroll 4") for (int i = 0; i < Lanes::kParts; ++i)

BESSEMER_INLINE Lanes lanes_all(float x) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = vec_all(x);
  return r;
}
BESSEMER_INLINE Lanes lanes_load(const float* p) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = vec_load(p + i * kVec);
  return r;
}
BESSEMER_INLINE void lanes_store(float* p, const Lanes& x) {
  BESSEMER_PARTS vec_store(p + i * kVec, x.part[i]);
}
/// The first n < 16 elements, the other lanes `fill`.
BESSEMER_INLINE Lanes lanes_load_part(const float* p, int64_t n, float fill) {
  alignas(64) float block[16];
  for (int i = 0; i < 16; ++i) block[i] = fill;
  for (int64_t i = 0; i < n; ++i) block[i] = p[i];
  return lanes_load(block);
}
BESSEMER_INLINE Lanes operator+(const Lanes& a, const Lanes& b) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = a.part[i] + b.part[i];
  return r;
}
BESSEMER_INLINE Lanes operator-(const Lanes& a, const Lanes& b) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = a.part[i] - b.part[i];
  return r;
}
BESSEMER_INLINE Lanes operator*(const Lanes& a, const Lanes& b) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = a.part[i] * b.part[i];
  return r;
}
BESSEMER_INLINE Lanes operator/(const Lanes& a, const Lanes& b) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = a.part[i] / b.part[i];
  return r;
}
BESSEMER_INLINE Lanes lanes_fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = vec_fma(a.part[i], b.part[i], c.part[i]);
  return r;
}
/// The larger; NaN once there is one; the first of equals.
BESSEMER_INLINE Lanes lanes_max(const Lanes& m, const Lanes& x) {
  Lanes r;
  BESSEMER_PARTS r.part[i] = vec_max(m.part[i], x.part[i]);
  return r;
}
BESSEMER_INLINE float max_of(float m, float x) { return (x > m) | (x != x) ? x : m; }

/// The fixed tree: lane l with l + 8, then l + 4, l + 2, l + 1.
BESSEMER_INLINE float lanes_sum(const Lanes& x) {
  alignas(64) float s[16];
  lanes_store(s, x);
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) s[l] = s[l] + s[l + half];
  }
  return s[0];
}
BESSEMER_INLINE float lanes_max(const Lanes& x) {
  alignas(64) float s[16];
  lanes_store(s, x);
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) s[l] = max_of(s[l], s[l + half]);
  }
  return s[0];
}

}  // namespace bessemer::cpu::BESSEMER_ISA
