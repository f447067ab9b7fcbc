// Scalar maths that simulators share.
#pragma once

#include <cmath>

namespace bessemer::math {

inline double sin(double x) { return std::sin(x); }
inline double cos(double x) { return std::cos(x); }

/// c ? a : b
template <class T>
constexpr T select(bool c, T a, T b) {
  return c ? a : b;
}

/// As Python's min(max(x, low), high).
template <class T>
constexpr T clamped(T x, T low, T high) {
  const T above = select(x < low, low, x);
  return select(above > high, high, above);
}

}  // namespace bessemer::math
