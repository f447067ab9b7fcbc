// The operations as functions: tensors in, new tensors out. Every row of ops.def is declared here;
// what follows them are composites, plain functions over rows that need no entry in the table.
#pragma once

#include <initializer_list>
#include <span>
#include <vector>

#include "core/cpu/kernels.h"
#include "core/ops/op.h"

namespace bessemer {

/// A small list of dimensions: {0, -1}. Empty means all of them where an op says so.
struct Dims {
  int32_t count = 0;
  int64_t dim[kMaxDims] = {};
  Dims() = default;
  Dims(int64_t one) : count(1), dim{one} {}
  Dims(std::initializer_list<int64_t> list) : Dims(std::span(list.begin(), list.size())) {}
  explicit Dims(std::span<const int64_t> list) {
    BESSEMER_CHECK(list.size() <= kMaxDims, ValueError, "at most ", kMaxDims, " dimensions");
    count = static_cast<int32_t>(list.size());
    for (int i = 0; i < count; ++i) dim[i] = list[i];
  }
};

#define BESSEMER_UNARY(name, ...) Tensor name(const Tensor& x);
#define BESSEMER_BINARY(name, ...) Tensor name(const Tensor& a, const Tensor& b);
#define BESSEMER_OP(name, result, parameters, ...) result name parameters;
#include "core/ops/ops.def"

// --- operators; a number becomes a 0-d tensor of the tensor's dtype (float32 for integers)
// ----------
Tensor scalar_like(const Tensor& like, double value);
inline Tensor operator-(const Tensor& x) { return neg(x); }
#define BESSEMER_OPERATOR(symbol, name)                                                           \
  inline Tensor operator symbol(const Tensor& a, const Tensor& b) { return name(a, b); }          \
  inline Tensor operator symbol(const Tensor& a, double b) { return name(a, scalar_like(a, b)); } \
  inline Tensor operator symbol(double a, const Tensor& b) { return name(scalar_like(b, a), b); }
BESSEMER_OPERATOR(+, add)
BESSEMER_OPERATOR(-, sub)
BESSEMER_OPERATOR(*, mul)
BESSEMER_OPERATOR(/, div)
#undef BESSEMER_OPERATOR
inline Tensor pow(const Tensor& a, double b) { return pow(a, scalar_like(a, b)); }

// --- composites
// --------------------------------------------------------------------------------------
Tensor mean(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
/// Biased by default (correction 0), as NumPy.
Tensor var(const Tensor& x, const Dims& dims = {}, bool keepdim = false, double correction = 0);
/// log(sum(exp(x))) over one dimension, without overflow.
Tensor logsumexp(const Tensor& x, int64_t dim = -1, bool keepdim = false);
Tensor clamp(const Tensor& x, double low, double high);
Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high);
Tensor transpose(const Tensor& x, int64_t dim0 = -2, int64_t dim1 = -1);
Tensor flip(const Tensor& x, int64_t dim);
Tensor squeeze(const Tensor& x, int64_t dim);
Tensor unsqueeze(const Tensor& x, int64_t dim);
Tensor flatten(const Tensor& x, int64_t start = 0, int64_t end = -1);
/// x[index] along dim, which disappears.
Tensor select(const Tensor& x, int64_t dim, int64_t index);
Tensor concat(std::span<const Tensor> parts, int64_t dim = 0);
Tensor stack(std::span<const Tensor> parts, int64_t dim = 0);
Tensor one_hot(const Tensor& index, int64_t classes);  // float32
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
/// Sums x down to `shape`, undoing a broadcast.
Tensor sum_to(const Tensor& x, const Shape& shape);
/// Derivatives of gelu and silu, written in rows.
Tensor gelu_slope(const Tensor& x);
Tensor silu_slope(const Tensor& x);

// --- in place: for tensors that need no gradient and are not being traced; the version is bumped
// ------
/// Elements of `source` (broadcast, cast) into `target`.
void assign(const Tensor& target, const Tensor& source);
void fill(const Tensor& target, double value);
/// target += source * scale.
void add_in_place(const Tensor& target, const Tensor& source, double scale = 1);

/// Keys and values k, v [N, Hkv, D] into a cache of pages of 32 tokens (k_pages [P, Hkv, D, 32],
/// v_pages [P, Hkv, 32, D], float32 or bfloat16); slots i64 [N]: page * 32 + place.
void kv_write(const Tensor& k_pages, const Tensor& v_pages, const Tensor& k, const Tensor& v,
              const Tensor& slots);

/// i64 [tokens]: where in its sequence each token of a packed batch stands (attention's segments):
/// length of the prefix + offset in the segment.
Tensor segment_positions(const Tensor& segments, int64_t tokens);

/// Result dtype of an arithmetic operation on the two (docs/architecture.md has the table).
Dtype promote(Dtype a, Dtype b);

}  // namespace bessemer
