// Conversions between any two dtypes, and where(). Floats are rounded to nearest even, float to
// integer truncates, anything but 0 is true. The half formats are converted by branch-free integer
// arithmetic with the results of core/base/dtype.h; wider sources are rounded once.
#include "core/cpu/isa/half.h"
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/strided.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

struct Boolean {
  uint8_t value;
};

/// A double as the float that rounds to odd: rounding that again to a half format is rounding once.
BESSEMER_INLINE float to_odd(double x) {
  const float f = static_cast<float>(x);
  const double back = f;
  const uint32_t u = scalar::bits_of(f);
  const uint32_t toward_zero = u - (scalar::abs(back) > scalar::abs(x) ? 1u : 0u);
  return scalar::float_of((back < x) | (back > x) ? toward_zero | 1u : u);
}

// Value of an element as C++ arithmetic sees it.
template <class T>
BESSEMER_INLINE auto value_of(T x) {
  if constexpr (__is_same(T, f16) || __is_same(T, bf16)) {
    return widen(x);
  } else if constexpr (__is_same(T, Boolean)) {
    return static_cast<int32_t>(x.value != 0);
  } else {
    return x;
  }
}

template <class To>
struct Convert {
  template <class From>
  BESSEMER_INLINE To apply(From from) {
    const auto x = value_of(from);
    using X = decltype(value_of(from));
    if constexpr (__is_same(To, Boolean)) {
      return Boolean{static_cast<uint8_t>(x != X(0))};
    } else if constexpr (__is_same(To, f16) || __is_same(To, bf16)) {
      float f;
      if constexpr (__is_same(X, float)) {
        f = x;
      } else {
        f = to_odd(static_cast<double>(x));
      }
      if constexpr (__is_same(To, f16)) {
        return narrow_f16(f);
      } else {
        return narrow_bf16(f);
      }
    } else if constexpr ((__is_same(X, float) || __is_same(X, double)) && sizeof(To) == 1) {
      return static_cast<To>(static_cast<int32_t>(x));  // keeps the low byte
    } else {
      return static_cast<To>(x);
    }
  }
};

template <class To, class From>
constexpr UnaryLoop cast_loop() {
  return unary_loop<Convert<To>, To, From, false>;
}
template <class From>
void set_casts(UnaryLoop (&row)[kDtypes]) {
  const UnaryLoop loops[kDtypes] = {
      cast_loop<Boolean, From>(), cast_loop<uint8_t, From>(), cast_loop<int8_t, From>(),
      cast_loop<int32_t, From>(), cast_loop<int64_t, From>(), cast_loop<f16, From>(),
      cast_loop<bf16, From>(),    cast_loop<float, From>(),   cast_loop<double, From>()};
  for (int to = 0; to < kDtypes; ++to) row[to] = loops[to];
}

template <class T>
struct Copy {
  BESSEMER_INLINE T apply(T x) { return x; }
};
template <class T>
constexpr UnaryLoop copy_loop() {
  return unary_loop<Copy<T>, T, T, false>;
}

template <class T>
void where_core(int64_t n, T* out, const uint8_t* condition, const T* a, const T* b) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T x = a[i], y = b[i];
    out[i] = condition[i] ? x : y;
  }
}
template <class T>
void where_loop(int64_t n, void* out, int64_t step_out, const void* condition,
                int64_t step_condition, const void* a, int64_t step_a, const void* b,
                int64_t step_b) {
  Block block_condition, block_a, block_b, block_out;
  Source from_condition{static_cast<const char*>(condition), step_condition, 1, &block_condition};
  Source from_a{static_cast<const char*>(a), step_a, sizeof(T), &block_a};
  Source from_b{static_cast<const char*>(b), step_b, sizeof(T), &block_b};
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = n - first < kBlock ? n - first : kBlock;
    T* target = static_cast<T*>(out) + first * step_out;
    T* direct = step_out == 1 ? target : reinterpret_cast<T*>(block_out.bytes);
    const auto* c = static_cast<const uint8_t*>(from_condition.read(first, count));
    const auto* x = static_cast<const T*>(from_a.read(first, count));
    where_core(count, direct, c, x, static_cast<const T*>(from_b.read(first, count)));
    if (step_out != 1) copy_elements(sizeof(T), count, target, step_out, direct, 1);
  }
}

}  // namespace

void fill_casts(KernelTable& table) {
  set_casts<Boolean>(table.cast[static_cast<int>(Dtype::boolean)]);
  set_casts<uint8_t>(table.cast[static_cast<int>(Dtype::u8)]);
  set_casts<int8_t>(table.cast[static_cast<int>(Dtype::i8)]);
  set_casts<int32_t>(table.cast[static_cast<int>(Dtype::i32)]);
  set_casts<int64_t>(table.cast[static_cast<int>(Dtype::i64)]);
  set_casts<f16>(table.cast[static_cast<int>(Dtype::f16)]);
  set_casts<bf16>(table.cast[static_cast<int>(Dtype::bf16)]);
  set_casts<float>(table.cast[static_cast<int>(Dtype::f32)]);
  set_casts<double>(table.cast[static_cast<int>(Dtype::f64)]);
  const UnaryLoop copies[4] = {copy_loop<uint8_t>(), copy_loop<uint16_t>(), copy_loop<uint32_t>(),
                               copy_loop<uint64_t>()};
  constexpr int kSizeLog2[kDtypes] = {0, 0, 0, 2, 3, 1, 1, 2, 3};
  for (int d = 0; d < kDtypes; ++d) table.cast[d][d] = copies[kSizeLog2[d]];
  table.where[0] = where_loop<uint8_t>;
  table.where[1] = where_loop<uint16_t>;
  table.where[2] = where_loop<uint32_t>;
  table.where[3] = where_loop<uint64_t>;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
