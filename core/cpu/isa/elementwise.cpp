// Loops of the unary and binary rows of ops.def, generated from the list.
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/strided.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

// Bool results are written as bytes 0 and 1.
template <class T>
struct Result {
  using type = T;
};
template <>
struct Result<bool> {
  using type = uint8_t;
};

#define BESSEMER_UNARY(name, ...)     \
  struct Op_##name {                  \
    template <class T>                \
    BESSEMER_INLINE auto apply(T x) { \
      return scalar::name(x);         \
    }                                 \
  };
#define BESSEMER_BINARY(name, ...)         \
  struct Op_##name {                       \
    template <class T>                     \
    BESSEMER_INLINE auto apply(T a, T b) { \
      return scalar::name(a, b);           \
    }                                      \
  };
#include "core/ops/ops.def"

template <class Op, class T>
constexpr UnaryLoop unary() {
  using Out = typename Result<decltype(Op::apply(T()))>::type;
  return unary_loop<Op, Out, T, dtype_of<T>() == Dtype::f32>;
}
template <class Op, class T>
constexpr BinaryLoop binary() {
  using Out = typename Result<decltype(Op::apply(T(), T()))>::type;
  return binary_loop<Op, Out, T>;
}

// Which dtypes a row's loops exist for, by the third word of the row.
enum Kind : int { FLOAT, NUMBER, LOGIC, COMPARE };

template <class Op, Kind kind>
void set_unary(KernelTable& t, int i) {
  t.unary_f32[i] = unary<Op, float>();
  t.unary_f64[i] = unary<Op, double>();
  if constexpr (kind != FLOAT) {
    t.unary_i32[i] = unary<Op, int32_t>();
    t.unary_i64[i] = unary<Op, int64_t>();
  }
}
template <class Op, Kind kind>
void set_binary(KernelTable& t, int i) {
  t.binary_f32[i] = binary<Op, float>();
  t.binary_f64[i] = binary<Op, double>();
  if constexpr (kind != FLOAT) {
    t.binary_i32[i] = binary<Op, int32_t>();
    t.binary_i64[i] = binary<Op, int64_t>();
    t.binary_u8[i] = binary<Op, uint8_t>();
    t.binary_i8[i] = binary<Op, int8_t>();
  }
}

template <class Op>
void apply_in_place(int64_t n, float* x) {
  unary_core<Op, float, float, true>(n, x, x);
}

}  // namespace

void fill_elementwise(KernelTable& table) {
  int i = 0;
#define BESSEMER_UNARY(name, kind, ...) set_unary<Op_##name, kind>(table, i++);
#include "core/ops/ops.def"
  i = 0;
#define BESSEMER_BINARY(name, kind, ...) set_binary<Op_##name, kind>(table, i++);
#include "core/ops/ops.def"
}

void activate(Activation activation, int64_t n, float* x) {
  switch (activation) {
    case Activation::none:
      return;
    case Activation::relu:
      return apply_in_place<Op_relu>(n, x);
    case Activation::tanh:
      return apply_in_place<Op_tanh>(n, x);
    case Activation::sigmoid:
      return apply_in_place<Op_sigmoid>(n, x);
    case Activation::silu:
      return apply_in_place<Op_silu>(n, x);
    case Activation::gelu:
      return apply_in_place<Op_gelu>(n, x);
  }
}

}  // namespace bessemer::cpu::BESSEMER_ISA
