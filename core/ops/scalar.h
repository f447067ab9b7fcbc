// Every elementwise row of ops.def once, as a branch-free body that the compiler vectorises. Float
// bodies state their error in units in the last place (ulp), as tests/core_cpu/scalar.cpp measures
// it with FMA; without FMA (baseline) errors are up to 2 ulp larger. Double bodies use the C
// library. Integers wrap. Everything is static and always inlined, because this header is compiled
// for several instruction sets and the linker must never merge their copies.
#pragma once

#include <cstdint>

namespace bessemer::scalar {

#define BESSEMER_SCALAR [[gnu::always_inline]] [[maybe_unused]] static inline

// ---- building blocks ----------------------------------------------------------------------------

/// a * b + c rounded once where the instruction set has FMA, twice on the baseline.
BESSEMER_SCALAR float fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
BESSEMER_SCALAR double fma(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}
BESSEMER_SCALAR uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
BESSEMER_SCALAR uint64_t bits_of(double x) { return __builtin_bit_cast(uint64_t, x); }
BESSEMER_SCALAR float float_of(uint32_t u) { return __builtin_bit_cast(float, u); }
BESSEMER_SCALAR double double_of(uint64_t u) { return __builtin_bit_cast(double, u); }

inline constexpr float kInfinity = __builtin_inff();
inline constexpr float kNan = __builtin_nanf("");

// ---- arithmetic ---------------------------------------------------------------------------------

BESSEMER_SCALAR float neg(float x) { return -x; }
BESSEMER_SCALAR double neg(double x) { return -x; }
BESSEMER_SCALAR int32_t neg(int32_t x) {
  return static_cast<int32_t>(0u - static_cast<uint32_t>(x));
}
BESSEMER_SCALAR int64_t neg(int64_t x) {
  return static_cast<int64_t>(uint64_t{0} - static_cast<uint64_t>(x));
}
BESSEMER_SCALAR float abs(float x) { return __builtin_fabsf(x); }
BESSEMER_SCALAR double abs(double x) { return __builtin_fabs(x); }
BESSEMER_SCALAR int32_t abs(int32_t x) { return x < 0 ? neg(x) : x; }
BESSEMER_SCALAR int64_t abs(int64_t x) { return x < 0 ? neg(x) : x; }
/// -1, 0 or 1; NaN stays NaN.
template <class T>
BESSEMER_SCALAR T sign(T x) {
  const T s = x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0));
  return x == x ? s : x;
}
BESSEMER_SCALAR float floor(float x) { return __builtin_floorf(x); }
BESSEMER_SCALAR double floor(double x) { return __builtin_floor(x); }
BESSEMER_SCALAR float round(float x) { return __builtin_rintf(x); }
BESSEMER_SCALAR double round(double x) { return __builtin_rint(x); }
BESSEMER_SCALAR float sqrt(float x) { return __builtin_sqrtf(x); }
BESSEMER_SCALAR double sqrt(double x) { return __builtin_sqrt(x); }
/// 1 / sqrt(x): 1 ulp (two roundings).
BESSEMER_SCALAR float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
BESSEMER_SCALAR double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
BESSEMER_SCALAR float reciprocal(float x) { return 1.0f / x; }
BESSEMER_SCALAR double reciprocal(double x) { return 1.0 / x; }

// Small integers are computed in uint32_t and cut: they wrap, as in NumPy.
#define BESSEMER_SCALAR_WRAPPING(name, symbol)                                             \
  BESSEMER_SCALAR float name(float a, float b) { return a symbol b; }                      \
  BESSEMER_SCALAR double name(double a, double b) { return a symbol b; }                   \
  BESSEMER_SCALAR int32_t name(int32_t a, int32_t b) {                                     \
    return static_cast<int32_t>(static_cast<uint32_t>(a) symbol static_cast<uint32_t>(b)); \
  }                                                                                        \
  BESSEMER_SCALAR int64_t name(int64_t a, int64_t b) {                                     \
    return static_cast<int64_t>(static_cast<uint64_t>(a) symbol static_cast<uint64_t>(b)); \
  }                                                                                        \
  BESSEMER_SCALAR uint8_t name(uint8_t a, uint8_t b) {                                     \
    return static_cast<uint8_t>(uint32_t{a} symbol uint32_t{b});                           \
  }                                                                                        \
  BESSEMER_SCALAR int8_t name(int8_t a, int8_t b) {                                        \
    return static_cast<int8_t>(static_cast<uint32_t>(a) symbol static_cast<uint32_t>(b));  \
  }
BESSEMER_SCALAR_WRAPPING(add, +)
BESSEMER_SCALAR_WRAPPING(sub, -)
BESSEMER_SCALAR_WRAPPING(mul, *)
#undef BESSEMER_SCALAR_WRAPPING

BESSEMER_SCALAR float div(float a, float b) { return a / b; }
BESSEMER_SCALAR double div(double a, double b) { return a / b; }
template <class T>
BESSEMER_SCALAR T square(T x) {
  return mul(x, x);
}
/// NaN if either is; a where equal.
template <class T>
BESSEMER_SCALAR T maximum(T a, T b) {
  return (a >= b) | (a != a) ? a : b;
}
template <class T>
BESSEMER_SCALAR T minimum(T a, T b) {
  return (a <= b) | (a != a) ? a : b;
}
template <class T>
BESSEMER_SCALAR T relu(T x) {
  return T(0) > x ? T(0) : x;
}

// ---- comparisons --------------------------------------------------------------------------------

template <class T>
BESSEMER_SCALAR bool logical_not(T x) {
  return x == T(0);
}
BESSEMER_SCALAR bool isfinite(float x) { return __builtin_fabsf(x) < kInfinity; }
BESSEMER_SCALAR bool isfinite(double x) { return __builtin_fabs(x) < __builtin_inf(); }
BESSEMER_SCALAR bool isfinite(int32_t) { return true; }
BESSEMER_SCALAR bool isfinite(int64_t) { return true; }
template <class T>
BESSEMER_SCALAR bool eq(T a, T b) {
  return a == b;
}
template <class T>
BESSEMER_SCALAR bool ne(T a, T b) {
  return a != b;
}
template <class T>
BESSEMER_SCALAR bool lt(T a, T b) {
  return a < b;
}
template <class T>
BESSEMER_SCALAR bool le(T a, T b) {
  return a <= b;
}
template <class T>
BESSEMER_SCALAR bool gt(T a, T b) {
  return a > b;
}
template <class T>
BESSEMER_SCALAR bool ge(T a, T b) {
  return a >= b;
}
template <class T>
BESSEMER_SCALAR bool logical_and(T a, T b) {
  return (a != T(0)) & (b != T(0));
}
template <class T>
BESSEMER_SCALAR bool logical_or(T a, T b) {
  return (a != T(0)) | (b != T(0));
}

// ---- exponential and logarithm ------------------------------------------------------------------

/// 1 ulp. Cody & Waite reduction by ln 2 in two parts, the polynomial of Cephes' expf (Moshier).
/// The scale is applied in two halves, so that subnormal results are rounded once. 0 below -104,
/// inf above 88.8.
BESSEMER_SCALAR float exp(float x) {
  constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  float c = x < -104.0f ? -104.0f : x;
  c = c > 89.0f ? 89.0f : c;
  const float t = fma(c, 1.44269504f, kMagic), n = t - kMagic;
  float r = fma(n, -0.693359375f, c);
  r = fma(n, 2.12194440e-4f, r);
  float p = fma(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  const float y = fma(p, r * r, r) + 1.0f;
  const auto i = static_cast<int32_t>(bits_of(t) - bits_of(kMagic));
  const int32_t half = i >> 1;
  return y * float_of((static_cast<uint32_t>(half) + 127u) << 23) *
         float_of((static_cast<uint32_t>(i) - static_cast<uint32_t>(half) + 127u) << 23);
}
BESSEMER_SCALAR double exp(double x) { return __builtin_exp(x); }

/// log of a positive normal number: the polynomial of Cephes' logf on [sqrt(1/2), sqrt(2)). `shift`
/// is added to the exponent.
BESSEMER_SCALAR float log_normal(float x, float shift) {
  const uint32_t u = bits_of(x);
  const int32_t k = static_cast<int32_t>(u - 0x3f3504f3u) >> 23;
  const float m = float_of(u - (static_cast<uint32_t>(k) << 23));
  const float e = static_cast<float>(k) + shift;
  const float z = m - 1.0f, z2 = z * z;
  float p = fma(7.0376836292e-2f, z, -1.1514610310e-1f);
  p = fma(p, z, 1.1676998740e-1f);
  p = fma(p, z, -1.2420140846e-1f);
  p = fma(p, z, 1.4249322787e-1f);
  p = fma(p, z, -1.6668057665e-1f);
  p = fma(p, z, 2.0000714765e-1f);
  p = fma(p, z, -2.4999993993e-1f);
  p = fma(p, z, 3.3333331174e-1f);
  float y = p * z * z2;
  y = fma(e, -2.12194440e-4f, y);
  y = fma(-0.5f, z2, y);
  return fma(e, 0.693359375f, z + y);
}
/// 1 ulp (1.5 near 1). -inf at 0, NaN below.
BESSEMER_SCALAR float log(float x) {
  const bool tiny = x < 1.17549435e-38f;  // subnormal: brought into range
  float y = log_normal(tiny ? x * 8388608.0f : x, tiny ? -23.0f : 0.0f);
  y = x < kInfinity ? y : x;  // inf and NaN
  y = x == 0.0f ? -kInfinity : y;
  return x < 0.0f ? kNan : y;
}
BESSEMER_SCALAR double log(double x) { return __builtin_log(x); }

/// log(1 + x) for x in [0, 1]: 2 ulp. What 1 + x loses in rounding is put back to first order
/// (Kahan); 1 - x / 2 stands for 1 / (1 + x) there.
BESSEMER_SCALAR float log1p_unit(float x) {
  const float u = 1.0f + x;
  return fma(x - (u - 1.0f), fma(-0.5f, x, 1.0f), log_normal(u, 0.0f));
}

// ---- activations --------------------------------------------------------------------------------

/// 2.5 ulp. E / (E + 2) with E = exp(2|x|) - 1 = 2^n (exp(r) - 1) + (2^n - 1), which keeps its
/// digits near 0; exp as above.
BESSEMER_SCALAR float tanh(float x) {
  constexpr float kMagic = 12582912.0f;
  float a = __builtin_fabsf(x);
  a = a > 9.5f ? 9.5f : a;  // rounds to 1 from 9.02
  a = a + a;
  const float t = fma(a, 1.44269504f, kMagic), n = t - kMagic;
  float r = fma(n, -0.693359375f, a);
  r = fma(n, 2.12194440e-4f, r);
  float p = fma(1.9875691500e-4f, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  const float q = fma(p, r * r, r);
  const float scale = float_of((bits_of(t) << 23) + 0x3f800000u);  // the low bits of t are n
  const float e = fma(scale, q, scale - 1.0f);
  return __builtin_copysignf(e / (e + 2.0f), x);
}
BESSEMER_SCALAR double tanh(double x) { return __builtin_tanh(x); }

/// 3 ulp, also where the result is subnormal.
BESSEMER_SCALAR float sigmoid(float x) {
  const float e = exp(-__builtin_fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
BESSEMER_SCALAR double sigmoid(double x) {
  const double e = __builtin_exp(-__builtin_fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

/// max(x, 0) + log(1 + exp(-|x|)): 3 ulp.
BESSEMER_SCALAR float softplus(float x) { return relu(x) + log1p_unit(exp(-__builtin_fabsf(x))); }
BESSEMER_SCALAR double softplus(double x) {
  return relu(x) + __builtin_log1p(__builtin_exp(-__builtin_fabs(x)));
}

/// x * sigmoid(x): 4 ulp for x > -87, below which exp(x) is subnormal; -0 at -inf.
BESSEMER_SCALAR float silu(float x) { return (x < -120.0f ? -120.0f : x) * sigmoid(x); }
BESSEMER_SCALAR double silu(double x) { return (x < -800.0 ? -800.0 : x) * sigmoid(x); }

/// log(erfc(a)) + a polynomial for a > 0.927; its exponential is 1 - erf(a) with absolute error
/// 1e-8.
BESSEMER_SCALAR float erf_exponent(float a) {
  const float s = a * a;
  float r = fma(-1.72853470e-5f, a, 3.83197126e-4f);
  const float u = fma(-3.88396438e-3f, a, 2.42546219e-2f);
  r = fma(r, s, u);
  r = fma(r, a, -1.06777877e-1f);
  r = fma(r, a, -6.34846687e-1f);
  r = fma(r, a, -1.28717512e-1f);
  return fma(r, a, -a);
}
/// erf(a) for |a| <= 0.927.
BESSEMER_SCALAR float erf_small(float a) {
  const float s = a * a;
  float r = fma(-5.96761703e-4f, s, 4.99119423e-3f);
  r = fma(r, s, -2.67681349e-2f);
  r = fma(r, s, 1.12819925e-1f);
  r = fma(r, s, -3.76125336e-1f);
  r = fma(r, s, 1.28379166e-1f);
  return fma(r, a, a);
}
inline constexpr float kErfSplit = 0.927734375f;

/// 2 ulp. Juffa's two-interval minimax form of erff.
BESSEMER_SCALAR float erf(float x) {
  const float a = __builtin_fabsf(x);
  const float large = __builtin_copysignf(1.0f - exp(erf_exponent(a)), x);
  return a > kErfSplit ? large : erf_small(x);
}
BESSEMER_SCALAR double erf(double x) { return __builtin_erf(x); }

/// x Phi(x): 4 ulp for x >= -1, and an absolute error of 8e-8 below; -0 at -inf. Phi(-|x|) is 2 to
/// the power of a polynomial in |x| (weighted minimax fit of log2 Phi on [0, 13.4] by Lawson's
/// iteration), which needs neither a second interval near 0 nor the reduction by ln 2.
BESSEMER_SCALAR float gelu(float x) {
  constexpr float kMagic = 12582912.0f, kFar = 13.3f;
  float a = __builtin_fabsf(x);
  a = a > kFar ? kFar : a;
  float t = fma(1.3533417e-7f, a, -3.9234555e-6f);
  t = fma(t, a, 4.0688756e-5f);
  t = fma(t, a, -1.7439314e-4f);
  t = fma(t, a, -1.8591771e-4f);
  t = fma(t, a, 7.1416790e-3f);
  t = fma(t, a, -5.2555254e-2f);
  t = fma(t, a, -4.5918848e-1f);
  t = fma(t, a, -1.1511073f);
  t = fma(t, a, -1.0f);
  t = t < -126.0f ? -126.0f : t;
  const float shifted = t + kMagic, r = t - (shifted - kMagic);
  float p = fma(1.5353362e-4f, r, 1.3398875e-3f);
  p = fma(p, r, 9.6184369e-3f);
  p = fma(p, r, 5.5503324e-2f);
  p = fma(p, r, 2.4022648e-1f);
  p = fma(p, r, 6.9314718e-1f);
  p = fma(p, r, 1.0f);
  const float tail = p * float_of((bits_of(shifted) << 23) + 0x3f800000u);
  const float y = x * (x > 0.0f ? 1.0f - tail : tail);
  return x < -kFar ? -0.0f : y;
}
BESSEMER_SCALAR double gelu(double x) {
  const double c = x < -40.0 ? -40.0 : x;
  return 0.5 * c * __builtin_erfc(-c * 0.70710678118654752);
}

// ---- circular functions -------------------------------------------------------------------------

/// Quarter turns in `quadrant`, the rest in [-pi/4, pi/4]. In double, pi/2 in two parts: the rest
/// is good to a float's rounding for |x| < 1.6e6, to about 1e-16 |x| beyond; inf gives NaN.
BESSEMER_SCALAR float quarter_turns(float x, uint32_t& quadrant) {
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  const double d = x;
  const double t = d * 0.63661977236758134 + kMagic, n = t - kMagic;
  quadrant = static_cast<uint32_t>(bits_of(t));
  return static_cast<float>((d - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11);
}
BESSEMER_SCALAR float circular(float r, uint32_t quadrant) {
  const float z = r * r;
  float s = fma(-1.9515295891e-4f, z, 8.3321608736e-3f);
  s = fma(s, z, -1.6666654611e-1f);
  s = fma(s * z, r, r);
  float c = fma(2.443315711809948e-5f, z, -1.388731625493765e-3f);
  c = fma(c, z, 4.166664568298827e-2f);
  c = fma(c * z, z, fma(-0.5f, z, 1.0f));
  const float y = quadrant & 1u ? c : s;
  const float signed_y = float_of(bits_of(y) ^ ((quadrant & 2u) << 30));
  // Beyond 2^51 quarter turns nothing is left of the angle; stay in range.
  return signed_y > 1.0f ? 1.0f : (signed_y < -1.0f ? -1.0f : signed_y);
}
/// 2 ulp for |x| < 1.6e6; NaN at inf.
BESSEMER_SCALAR float sin(float x) {
  uint32_t quadrant;
  const float r = quarter_turns(x, quadrant);
  return x == 0.0f ? x : circular(r, quadrant);
}
BESSEMER_SCALAR double sin(double x) { return __builtin_sin(x); }
BESSEMER_SCALAR float cos(float x) {
  uint32_t quadrant;
  const float r = quarter_turns(x, quadrant);
  return circular(r, quadrant + 1u);
}
BESSEMER_SCALAR double cos(double x) { return __builtin_cos(x); }

// ---- power --------------------------------------------------------------------------------------

/// log2 of a positive float given as a double (so never subnormal), relative error 1e-12.
BESSEMER_SCALAR double log2_wide(double x) {
  const uint64_t u = bits_of(x);
  // Biased exponent of x / sqrt(1/2): the mantissa lands in [sqrt(1/2), sqrt(2)).
  const uint64_t k = (u - 0x3fe6a09e667f3bcdu + (uint64_t{1023} << 52)) >> 52;
  const double m = double_of(u - ((k - 1023u) << 52));
  const double e = double_of(k | 0x4330000000000000u) - (4503599627370496.0 + 1023.0);
  const double s = (m - 1.0) / (m + 1.0), z = s * s;  // log m = 2 atanh(s)
  double p = 1.0 / 17.0;
  p = p * z + 1.0 / 15.0;
  p = p * z + 1.0 / 13.0;
  p = p * z + 1.0 / 11.0;
  p = p * z + 1.0 / 9.0;
  p = p * z + 1.0 / 7.0;
  p = p * z + 1.0 / 5.0;
  p = p * z + 1.0 / 3.0;
  const double log_m = 2.0 * (s + s * z * p);
  return e + log_m * 1.4426950408889634;
}
/// 2^x for |x| <= 1000, relative error 1e-11.
BESSEMER_SCALAR double exp2_wide(double x) {
  constexpr double kMagic = 6755399441055744.0;
  const double t = x + kMagic, r = (x - (t - kMagic)) * 0.69314718055994531;
  double p = 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  return p * double_of((bits_of(t) + 1023u) << 52);
}
/// 1 ulp, computed in double; C99's special cases (pow(x, 0) = pow(1, y) = 1, odd powers keep the
/// sign).
BESSEMER_SCALAR float pow(float a, float b) {
  const float magnitude = __builtin_fabsf(a);
  double l = log2_wide(static_cast<double>(magnitude));
  l = magnitude == 0.0f ? -static_cast<double>(kInfinity) : l;
  l = magnitude < kInfinity ? l : static_cast<double>(magnitude);
  double e = static_cast<double>(b) * l;
  e = e < -300.0 ? -300.0 : e;
  e = e > 300.0 ? 300.0 : e;
  const auto y = static_cast<float>(exp2_wide(e));
  const float half = b * 0.5f;
  const bool whole = __builtin_floorf(b) == b;  // infinities too
  const bool odd = whole & (__builtin_floorf(half) != half);
  const bool negative = bits_of(a) >> 31;
  float result = negative & odd ? -y : y;
  result = (a < 0.0f) & !whole & (a > -kInfinity) & (b == b) ? kNan : result;
  const bool one = (b == 0.0f) | (a == 1.0f) | ((a == -1.0f) & (__builtin_fabsf(b) == kInfinity));
  return one ? 1.0f : result;
}
BESSEMER_SCALAR double pow(double a, double b) { return __builtin_pow(a, b); }

#undef BESSEMER_SCALAR

}  // namespace bessemer::scalar
