// What a row of the op table holds, and how an operation is applied. To add one:
// docs/adding_an_op.md.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "core/ops/op_list.h"
#include "core/tensor/tensor.h"

namespace bessemer {

/// 64 bytes of plain data beside the tensors, compared and hashed as bytes. Whatever changes
/// between steps (learning rate, counters) is a 0-d tensor input, never in here.
struct Attrs {
  alignas(8) unsigned char bytes[64] = {};

  Attrs() = default;
  template <class T>
  static Attrs of(const T& value) {
    static_assert(sizeof(T) <= sizeof(bytes) && std::is_trivially_copyable_v<T>);
    Attrs attrs;
    std::memcpy(attrs.bytes, &value, sizeof(T));
    return attrs;
  }
  template <class T>
  const T& as() const {
    static_assert(sizeof(T) <= sizeof(bytes) && std::is_trivially_copyable_v<T>);
    return *reinterpret_cast<const T*>(bytes);
  }
};

enum class Kind : uint8_t {
  unary,
  binary,
  reduce,
  view,
  index,
  contraction,
  random,
  memory,
  fused
};

/// Bits of OpInfo::flags and OpInfo::saves.
enum : uint16_t {
  kSaveNone = 0,
  kSaveIn0 = 1,
  kSaveIn1 = 2,
  kSaveIn2 = 4,
  kSaveIn3 = 8,
  kSaveOut0 = 16,
  kSaveOut1 = 32,
  kSaveShapes = 64,  // the gradient asks VjpContext::in_shape
};
inline constexpr int kMaxInputs = 7;
inline constexpr int kMaxOutputs = 4;

/// What a gradient rule sees. Undefined tensors stand for what was not saved.
struct VjpContext {
  const Attrs& attrs;
  const Tensor* in;        // saved inputs, by position
  const Tensor* out;       // saved outputs
  const Tensor* grad;      // gradients of the outputs; undefined = zero
  const Shape* in_shapes;  // with kSaveShapes
  uint8_t wants;           // bit i: input i needs a gradient
  bool want(int i) const { return wants >> i & 1; }
};

/// Fills `grads[i]` for wanted inputs; written in tensor operations, so that it can be
/// differentiated, traced and called twice with different `wants`.
using Vjp = void (*)(const VjpContext& context, Tensor* grads);

/// What an operation with two or three outputs returns.
using TensorPair = std::array<Tensor, 2>;
using TensorTriple = std::array<Tensor, 3>;

struct OpInfo {
  const char* name = "";
  Kind kind = Kind::fused;
  uint8_t inputs = 1, outputs = 1;
  uint16_t saves = kSaveNone;
  Vjp vjp = nullptr;  // null: no gradient
  /// Computes the outputs (allocating them) on the CPU. Null for elementwise rows, whose loops are
  /// in cpu::KernelTable, and for views.
  void (*cpu)(const Tensor* const* in, const Attrs& attrs, Tensor* out) = nullptr;
  void (*cuda)(const Tensor* const* in, const Attrs& attrs, Tensor* out) = nullptr;
  /// Fused rows: the same result from primitives; reference, fallback and fusion input.
  void (*decompose)(const Tensor* const* in, const Attrs& attrs, Tensor* out) = nullptr;
  /// For the sweep, as Python text: the reference in NumPy over float64 arguments named as in
  /// `signature`, and a list of keyword samples, e.g. "[dict(x=R(3, 4), dim=1)]"; R(shape) draws in
  /// `domain`. Empty: not swept here but by a test of its own.
  const char* numpy = "";
  const char* samples = "";
  const char* domain = "(-2, 2)";
  bool differentiable_twice = true;
};

/// The row of an operation.
#define BESSEMER_ROW(name) op_row_##name

#define BESSEMER_UNARY(name, ...) extern const OpInfo BESSEMER_ROW(name);
#define BESSEMER_BINARY(name, ...) extern const OpInfo BESSEMER_ROW(name);
#define BESSEMER_OP(name, ...) extern const OpInfo BESSEMER_ROW(name);
#include "core/ops/ops.def"

/// The table, by OpId.
extern const std::array<const OpInfo*, kOps> op_table;
inline const OpInfo& op_info(OpId id) { return *op_table[static_cast<int>(id)]; }
/// Python parameters and doc line of an operation ("x, dim=None, keepdim=False").
struct OpText {
  const char* name;
  const char* signature;
  const char* doc;
};
extern const std::array<OpText, kOps> op_texts;

/// How autograd learns what was computed; set once by autograd. Called only in grad mode and when
/// an input requires a gradient and the row has a vjp.
extern void (*record_op)(OpId id, const Attrs& attrs, const Tensor* const* in, int inputs,
                         Tensor* out, int outputs);

/// Tells autograd (grad mode) what was computed. Every op function ends with it.
inline void finish_op(OpId id, const Attrs& attrs, const Tensor* const* in, int inputs, Tensor* out,
                      int outputs = 1) {
  if (current_mode & kModeGrad) {
    for (int i = 0; i < inputs; ++i) {
      if (in[i]->defined() && in[i]->requires_grad()) {
        if (record_op) record_op(id, attrs, in, inputs, out, outputs);
        return;
      }
    }
  }
}

/// Runs a row's CPU kernel and records it. The usual body of an op function:
///     Tensor softmax(const Tensor& x, int64_t dim) { checks; return apply(OpId::softmax, attrs,
///     x); }
template <class... In>
Tensor apply(OpId id, const Attrs& attrs, const In&... in) {
  const Tensor* inputs[] = {&in...};
  Tensor out;
  op_info(id).cpu(inputs, attrs, &out);
  finish_op(id, attrs, inputs, sizeof...(In), &out);
  return out;
}
/// The same for rows with several outputs.
template <int Outputs, class... In>
std::array<Tensor, Outputs> apply_many(OpId id, const Attrs& attrs, const In&... in) {
  const Tensor* inputs[] = {&in...};
  std::array<Tensor, Outputs> out;
  op_info(id).cpu(inputs, attrs, out.data());
  finish_op(id, attrs, inputs, sizeof...(In), out.data(), Outputs);
  return out;
}

}  // namespace bessemer
