// Scalar maths that simulators share, for two scalar types: `double`, which is libm's, and `Lane`,
// a double whose functions are branch-free so that a loop over instances becomes SIMD code. One
// source of a simulator's arithmetic serves both. Neither contracts to fused multiply-adds, so that
// a Lane has the same bits on every instruction set and in every position of a batch.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace bessemer::math {

/// What comparing Lanes gives: all ones or zero, as wide as the values, which is the form of a
/// condition that the compiler vectorises in every combination.
struct LaneMask {
  int64_t bits;
  constexpr LaneMask() = default;
  constexpr LaneMask(bool b) : bits(b ? -1 : 0) {}
  friend constexpr LaneMask operator&(LaneMask a, LaneMask b) { return of(a.bits & b.bits); }
  friend constexpr LaneMask operator|(LaneMask a, LaneMask b) { return of(a.bits | b.bits); }
  static constexpr LaneMask of(int64_t bits) {
    LaneMask mask;
    mask.bits = bits;
    return mask;
  }
};

struct Lane {
  double v;
  constexpr Lane() = default;
  constexpr Lane(double x) : v(x) {}  // constants of a formula convert silently, as for double

  friend constexpr Lane operator+(Lane a, Lane b) { return a.v + b.v; }
  friend constexpr Lane operator-(Lane a, Lane b) { return a.v - b.v; }
  friend constexpr Lane operator*(Lane a, Lane b) { return a.v * b.v; }
  friend constexpr Lane operator/(Lane a, Lane b) { return a.v / b.v; }
  friend constexpr Lane operator-(Lane a) { return -a.v; }
  friend constexpr LaneMask operator<(Lane a, Lane b) { return a.v < b.v; }
  friend constexpr LaneMask operator>(Lane a, Lane b) { return a.v > b.v; }
  friend constexpr LaneMask operator<=(Lane a, Lane b) { return a.v <= b.v; }
  friend constexpr LaneMask operator>=(Lane a, Lane b) { return a.v >= b.v; }
  friend constexpr LaneMask operator==(Lane a, Lane b) { return a.v == b.v; }
  friend constexpr LaneMask operator!=(Lane a, Lane b) { return a.v != b.v; }
};

inline constexpr double kPi = 3.141592653589793;

/// c ? a : b
constexpr double select(bool c, double a, double b) { return c ? a : b; }
constexpr Lane select(LaneMask c, Lane a, Lane b) { return c.bits != 0 ? a.v : b.v; }
/// The type of a condition on T.
template <class T>
using Mask = decltype(T() < T());

/// As Python's min(max(x, low), high).
template <class T>
constexpr T clamped(T x, T low, T high) {
  const T above = select(x < low, low, x);
  return select(above > high, high, above);
}

/// x rounded to float32.
inline double rounded_f32(double x) { return static_cast<double>(static_cast<float>(x)); }
inline Lane rounded_f32(Lane x) { return static_cast<double>(static_cast<float>(x.v)); }

inline double sin(double x) { return std::sin(x); }
inline double cos(double x) { return std::cos(x); }

/// libm's pow(x, 2), which is not always x * x: Python's and NumPy's scalar `x ** 2`.
inline double pow2(double x) {
  double two = 2;
#if defined(__GNUC__)
  asm("" : "+m"(two));  // a known exponent would make the compiler multiply
#endif
  return std::pow(x, two);
}
inline Lane pow2(Lane x) { return x * x; }
/// The same in float32, for a value that is one.
inline double pow2_f32(double x) {
  float two = 2;
#if defined(__GNUC__)
  asm("" : "+m"(two));
#endif
  return std::pow(static_cast<float>(x), two);
}
inline Lane pow2_f32(Lane x) { return rounded_f32(x * x); }

/// Python's x % m for m > 0: the result has the sign of m.
inline double floor_mod(double x, double m) {
  const double rest = std::fmod(x, m);
  return rest < 0 ? rest + m : rest;
}

namespace detail {
/// Adding and subtracting 1.5 * 2^52 rounds to the nearest integer, whose low bits are then the
/// sum's.
inline constexpr double kRound = 0x1.8p52;
}  // namespace detail

/// Nearest integer, ties to even, for |x| < 2^51.
inline Lane nearest(Lane x) { return (x + detail::kRound) - detail::kRound; }
inline Lane floor_mod(Lane x, Lane m) {
  const Lane near = nearest(x / m);
  const Lane rest = x - near * m;
  return select(rest < 0.0, rest + m, rest);
}

/// sin and cos in one: Cody and Waite's reduction by pi/2 in three parts and the polynomials of
/// fdlibm's kernels (below 1 ulp for |x| up to 2^20 * pi/2, slowly worse beyond).
inline void sin_cos(Lane x, Lane& sine, Lane& cosine) {
  const double turns = x.v * 0x1.45f306dc9c883p-1 + detail::kRound;
  const auto quadrant = std::bit_cast<int64_t>(turns);
  const double k = turns - detail::kRound;
  const double r = ((x.v - k * 0x1.921fb544p+0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69;
  const double z = r * r;
  const double s =
      r + r * z *
              (-0x1.5555555555549p-3 +
               z * (0x1.111111110f8a6p-7 +
                    z * (-0x1.a01a019c161d5p-13 +
                         z * (0x1.71de357b1fe7dp-19 +
                              z * (-0x1.ae5e68a2b9cebp-26 + z * 0x1.5d93a5acfd57cp-33)))));
  const double tail =
      z * (0x1.555555555554cp-5 +
           z * (-0x1.6c16c16c15177p-10 +
                z * (0x1.a01a019cb159p-16 +
                     z * (-0x1.27e4f809c52adp-22 +
                          z * (0x1.1ee9ebdb4b1c4p-29 + z * -0x1.8fae9be8838d4p-37)))));
  const double half = 0.5 * z, top = 1.0 - half;
  const double c = top + (((1.0 - top) - half) + z * tail);
  const bool odd = (quadrant & 1) != 0;
  const double a = odd ? c : s, b = odd ? s : c;
  // The sign of sine is bit 1 of the quadrant, that of cosine bit 1 of the next one.
  sine = std::bit_cast<double>(std::bit_cast<int64_t>(a) ^ ((quadrant & 2) << 62));
  cosine = std::bit_cast<double>(std::bit_cast<int64_t>(b) ^ (((quadrant + 1) & 2) << 62));
}
inline Lane sin(Lane x) {
  Lane s, c;
  sin_cos(x, s, c);
  return s;
}
inline Lane cos(Lane x) {
  Lane s, c;
  sin_cos(x, s, c);
  return c;
}

/// x brought into [low, low + span] by whole spans. As repeated subtraction where one is enough.
inline double wrapped(double x, double low, double high) {
  const double span = high - low;
  while (x > high) x = x - span;
  while (x < low) x = x + span;
  return x;
}
inline Lane wrapped(Lane x, Lane low, Lane high) {
  const Lane span = high - low;
  // ceil of how far x is above, floor of how far below, by rounding half a turn on
  const Lane above = nearest((x - high) / span + 0.5), below = nearest((x - low) / span - 0.5);
  const Lane turns = select(x > high, above, select(x < low, below, Lane(0.0)));
  return x - turns * span;
}

}  // namespace bessemer::math
