// Reductions over any set of dimensions.
//
// Canonical order of sums: it follows the logical shape only, never strides, threads or instruction
// set. Dimensions of size 1 are left out and neighbours of one kind merged, which leaves
// alternating kept and reduced groups. Reduced groups are folded from the last to the first:
//   * the last group of all is a sum of rows: blocks of 4096 elements, each summed in 16 virtual
//   lanes and
//     a fixed halving tree; the block sums are summed by the same rule;
//   * a group with kept dimensions after it is a sum of columns: one chain down blocks of 256 rows,
//   the
//     blocks added in order.
#include <algorithm>
#include <cmath>

#include "core/ops/family.h"

namespace bessemer {

namespace {

struct ReduceAttrs {
  uint32_t mask = 0;  // bit d: dimension d is reduced
  uint32_t keepdim = 0;
};

uint32_t reduce_mask(const char* op, const Tensor& x, const Dims& dims) {
  if (dims.count == 0) return (1u << x.ndim()) - 1;
  uint32_t mask = 0;
  for (int i = 0; i < dims.count; ++i) {
    const uint32_t bit = 1u << normalize_dim(op, dims.dim[i], x.ndim());
    BESSEMER_CHECK(!(mask & bit), ValueError, "[", op, "] dimension ", dims.dim[i],
                   " is named twice");
    mask |= bit;
  }
  return mask;
}

Shape reduced_shape(std::span<const int64_t> shape, uint32_t mask, bool keepdim) {
  Shape out;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (!(mask >> i & 1)) {
      out.dim[out.ndim++] = shape[i];
    } else if (keepdim) {
      out.dim[out.ndim++] = 1;
    }
  }
  return out;
}

/// The output's gradient (or value), stretched over the dimensions that were reduced.
Tensor spread(const Tensor& g, const Shape& shape, const ReduceAttrs& attrs) {
  if (attrs.keepdim || g.ndim() == 0) return expand(g, shape);
  return expand(reshape(g, reduced_shape(shape.dims(), attrs.mask, true)), shape);
}

// --- loops --------------------------------------------------------------------------------------
constexpr int kLanes = 16;
constexpr int64_t kRowBlock = 4096;
constexpr int64_t kColumnBlock = 256;

struct Sum {
  template <class T>
  static T combine(T a, T b) {
    return a + b;
  }
};
struct Max {
  template <class T>
  static T combine(T a, T b) {
    return (b > a) | (b != b) ? b : a;
  }  // NaN wins and stays, as in NumPy
};
struct Min {
  template <class T>
  static T combine(T a, T b) {
    return (b < a) | (b != b) ? b : a;
  }
};
struct Product {
  template <class T>
  static T combine(T a, T b) {
    return a * b;
  }
};

/// out[r] from x[r, 0..n): 16 lanes and a halving tree.
template <class Op, class T>
void fold_rows(int64_t rows, int64_t n, const T* x, T* out) {
  for (int64_t r = 0; r < rows; ++r, x += n) {
    if (n < kLanes) {
      T total = x[0];
      for (int64_t i = 1; i < n; ++i) total = Op::combine(total, x[i]);
      out[r] = total;
      continue;
    }
    T lane[kLanes];
    for (int l = 0; l < kLanes; ++l) lane[l] = x[l];
    int64_t i = kLanes;
    for (; i + kLanes <= n; i += kLanes)
      for (int l = 0; l < kLanes; ++l) lane[l] = Op::combine(lane[l], x[i + l]);
    for (int l = 0; i < n; ++i, ++l) lane[l] = Op::combine(lane[l], x[i]);
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int l = 0; l < half; ++l) lane[l] = Op::combine(lane[l], lane[l + half]);
    out[r] = lane[0];
  }
}

/// out[j] from x[0..rows, j]: one chain a column inside blocks of 256 rows.
template <class Op, class T>
void fold_columns(int64_t rows, int64_t n, const T* x, T* out) {
  constexpr int64_t kWidth = 64;
  for (int64_t j = 0; j < n; j += kWidth) {
    const int64_t width = std::min(kWidth, n - j);
    T total[kWidth], block[kWidth];
    for (int64_t r = 0; r < rows; r += kColumnBlock) {
      const int64_t stop = std::min(rows, r + kColumnBlock);
      std::copy_n(x + r * n + j, width, block);
      for (int64_t i = r + 1; i < stop; ++i)
        for (int64_t c = 0; c < width; ++c) block[c] = Op::combine(block[c], x[i * n + j + c]);
      if (r == 0)
        std::copy_n(block, width, total);
      else
        for (int64_t c = 0; c < width; ++c) total[c] = Op::combine(total[c], block[c]);
    }
    std::copy_n(total, width, out + j);
  }
}

template <class Op, class T>
void rows_any(int64_t rows, int64_t n, const T* x, T* out) {
  if constexpr (std::is_same_v<Op, Sum> && std::is_same_v<T, float>) {
    cpu::kernels().sum_rows(rows, n, x, n, out);
  } else {
    fold_rows<Op>(rows, n, x, out);
  }
}
template <class Op, class T>
void columns_any(int64_t rows, int64_t n, const T* x, T* out) {
  if constexpr (std::is_same_v<Op, Sum> && std::is_same_v<T, float>) {
    cpu::kernels().sum_columns(rows, n, x, n, out);
  } else {
    fold_columns<Op>(rows, n, x, out);
  }
}

/// Rows of any length, in blocks.
template <class Op, class T>
void reduce_rows(int64_t rows, int64_t n, const T* x, T* out) {
  if (n <= kRowBlock) return rows_any<Op>(rows, n, x, out);
  const int64_t blocks = (n + kRowBlock - 1) / kRowBlock;
  T small[64];
  Tensor large;
  T* partial = small;
  if (blocks > 64) {
    large = Tensor::empty({blocks}, dtype_of<T>());
    partial = static_cast<T*>(large.raw());
  }
  for (int64_t r = 0; r < rows; ++r, x += n) {
    // Blocks do not depend on each other, so who sums them does not matter.
    constexpr int64_t kBlocksPerTask = 16;
    const int64_t tasks = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
    auto sum_blocks = [&](int64_t task) {
      const int64_t first = task * kBlocksPerTask, last = std::min(blocks, first + kBlocksPerTask);
      for (int64_t b = first; b < last; ++b)
        rows_any<Op>(1, std::min(kRowBlock, n - b * kRowBlock), x + b * kRowBlock, partial + b);
    };
    if (tasks > 2) {
      cpu::pool().run(tasks, sum_blocks);
    } else {
      for (int64_t task = 0; task < tasks; ++task) sum_blocks(task);
    }
    reduce_rows<Op>(1, blocks, partial, out + r);
  }
}

/// Alternating kept and reduced groups of dimensions.
struct Groups {
  int count = 0;
  int64_t size[kMaxDims] = {};
  bool reduced[kMaxDims] = {};

  Groups(std::span<const int64_t> shape, uint32_t mask) {
    for (size_t i = 0; i < shape.size(); ++i)
      if (shape[i] != 1) push(shape[i], mask >> i & 1);
  }
  void remove(int which) {
    const int before = count;
    count = 0;
    for (int i = 0; i < before; ++i)
      if (i != which) push(size[i], reduced[i]);
  }
  void push(int64_t n, bool is_reduced) {
    if (count > 0 && reduced[count - 1] == is_reduced) {
      size[count - 1] *= n;
    } else {
      size[count] = n;
      reduced[count++] = is_reduced;
    }
  }
};

/// Folds the last reduced group, then the one before it, until none is left. No size is 0.
template <class Op, class T>
[[gnu::noinline]] void reduce_groups(Groups groups, const T* x, T* out) {
  Tensor holder;
  for (;;) {
    int last = groups.count - 1;
    while (last >= 0 && !groups.reduced[last]) --last;
    if (last < 0) {  // nothing to fold: a copy
      int64_t n = 1;
      for (int i = 0; i < groups.count; ++i) n *= groups.size[i];
      if (n) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(T));
      return;
    }
    int64_t outer = 1, inner = 1;
    bool final = true;
    for (int i = 0; i < last; ++i) {
      outer *= groups.size[i];
      final &= !groups.reduced[i];
    }
    for (int i = last + 1; i < groups.count; ++i) inner *= groups.size[i];
    const int64_t n = groups.size[last];
    Tensor next;
    T* target = out;
    if (!final) {
      next = Tensor::empty({outer * inner}, dtype_of<T>());
      target = static_cast<T*>(next.raw());
    }
    if (inner == 1) {
      reduce_rows<Op>(outer, n, x, target);
    } else {
      for (int64_t o = 0; o < outer; ++o)
        columns_any<Op>(n, inner, x + o * n * inner, target + o * inner);
    }
    if (final) return;
    groups.remove(last);
    holder = std::move(next);
    x = target;
  }
}

// --- rows ---------------------------------------------------------------------------------------
void sum_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const auto& a = attrs.as<ReduceAttrs>();
  const Tensor& given = *in[0];
  if (is_half(given.dtype())) {
    widen_half(OpId::sum, in, attrs, out);
    return;
  }
  const bool floating = dtype_is_float(given.dtype());
  *out = Tensor::empty(reduced_shape(given.shape(), a.mask, a.keepdim),
                       floating ? given.dtype() : Dtype::i64);
  if (given.numel() == 0) {
    std::memset(out->raw(), 0, static_cast<size_t>(out->numel()) * dtype_size(out->dtype()));
    return;
  }
  Tensor x = dense(given);
  if (!floating) {
    NoGrad guard;
    x = cast(x, Dtype::i64);
    return reduce_groups<Sum>(Groups(x.shape(), a.mask), x.data<int64_t>(), out->data<int64_t>());
  }
  visit_float("sum", x.dtype(), [&]<class T>() {
    reduce_groups<Sum>(Groups(x.shape(), a.mask), x.data<T>(), out->data<T>());
  });
}

void sum_vjp(const VjpContext& c, Tensor* grads) {
  grads[0] = spread(c.grad[0], c.in_shapes[0], c.attrs.as<ReduceAttrs>());
}

template <class Op>
void extreme_cpu(OpId id, const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(id, in, attrs, out)) return;
  const auto& a = attrs.as<ReduceAttrs>();
  const Tensor x = dense(*in[0]);
  *out = Tensor::empty(reduced_shape(x.shape(), a.mask, a.keepdim), x.dtype());
  if (out->numel() == 0) return;
  BESSEMER_CHECK(x.numel() > 0, ValueError, "[", op_info(id).name, "] no elements in ", x.shape());
  visit_number(op_info(id).name, x.dtype(), [&]<class T>() {
    reduce_groups<Op>(Groups(x.shape(), a.mask), static_cast<const T*>(x.raw()),
                      static_cast<T*>(out->raw()));
  });
}
void amax_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  extreme_cpu<Max>(OpId::amax, in, attrs, out);
}
void amin_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  extreme_cpu<Min>(OpId::amin, in, attrs, out);
}

void extreme_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<ReduceAttrs>();
  const Tensor &x = c.in[0], &g = c.grad[0];
  const Tensor ties = cast(eq(x, spread(c.out[0], x.sizes(), a)), g.dtype());
  Dims dims;
  for (int i = 0; i < x.ndim(); ++i)
    if (a.mask >> i & 1) dims.dim[dims.count++] = i;
  if (dims.count == 0) {
    grads[0] = g;
    return;
  }
  grads[0] = ties * spread(g, x.sizes(), a) / sum(ties, dims, true);
}

void prod_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::prod, in, attrs, out)) return;
  const auto& a = attrs.as<ReduceAttrs>();
  Tensor x = dense(*in[0]);
  if (!dtype_is_float(x.dtype())) {
    NoGrad guard;
    x = cast(x, Dtype::i64);
  }
  *out = Tensor::empty(reduced_shape(x.shape(), a.mask, a.keepdim), x.dtype());
  visit_number("prod", x.dtype(), [&]<class T>() {
    T* result = static_cast<T*>(out->raw());
    if (x.numel() == 0) {
      std::fill_n(result, out->numel(), T{1});
    } else {
      reduce_groups<Product>(Groups(x.shape(), a.mask), static_cast<const T*>(x.raw()), result);
    }
  });
}

/// Each factor's gradient is the product of the others, as (product before) * (product after):
/// exact where factors are 0. The running products are scans y[t] = x[t -/+ 1] * y[t -/+ 1] that
/// start at 1.
void prod_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<ReduceAttrs>();
  const Tensor& x = c.in[0];
  if (x.ndim() == 0 || x.numel() == 0) {
    grads[0] = expand(c.grad[0], x.sizes());
    return;
  }
  int dim = 0;
  while (!(a.mask >> dim & 1)) ++dim;
  const int64_t n = x.size(dim);
  Shape edge = x.sizes();
  edge.dim[dim] = 1;
  const Tensor one = Tensor::ones(edge, x.dtype());
  const Tensor before =
      linear_scan(pad(slice(x, dim, 0, n - 1), dim, 1, 0), pad(one, dim, 0, n - 1), dim);
  const Tensor after =
      linear_scan(pad(slice(x, dim, 1, n), dim, 0, 1), pad(one, dim, n - 1, 0), dim, true);
  grads[0] = spread(c.grad[0], x.sizes(), a) * (before * after);
}

/// Index of the first best element; a NaN is the best, as in NumPy.
template <bool Largest>
void arg_cpu(OpId id, const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const auto& a = attrs.as<ReduceAttrs>();
  Tensor x = dense(*in[0]);
  if (is_half(x.dtype())) {
    NoGrad guard;
    x = cast(x, Dtype::f32);
  }
  *out = Tensor::empty(reduced_shape(x.shape(), a.mask, a.keepdim), Dtype::i64);
  if (out->numel() == 0) return;
  BESSEMER_CHECK(x.numel() > 0, ValueError, "[", op_info(id).name, "] no elements in ", x.shape());
  int dim = 0;
  while (dim < x.ndim() && !(a.mask >> dim & 1)) ++dim;
  const Axis axis = x.ndim() ? Axis(x.shape(), dim) : Axis(std::array<int64_t, 1>{1}, 0);
  visit_number(op_info(id).name, x.dtype(), [&]<class T>() {
    const T* from = static_cast<const T*>(x.raw());
    int64_t* to = out->data<int64_t>();
    for (int64_t o = 0; o < axis.outer; ++o)
      for (int64_t i = 0; i < axis.inner; ++i) {
        const T* p = from + o * axis.size * axis.inner + i;
        T best = *p;
        int64_t at = 0;
        for (int64_t k = 1; k < axis.size && best == best; ++k) {
          const T value = p[k * axis.inner];
          if ((Largest ? value > best : value < best) || value != value) {
            best = value;
            at = k;
          }
        }
        to[o * axis.inner + i] = at;
      }
  });
}
void argmax_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  arg_cpu<true>(OpId::argmax, in, attrs, out);
}
void argmin_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  arg_cpu<false>(OpId::argmin, in, attrs, out);
}

Attrs one_dim(const char* op, const Tensor& x, int64_t dim, bool keepdim) {
  const uint32_t mask =
      x.ndim() == 0 && (dim == 0 || dim == -1) ? 0u : 1u << normalize_dim(op, dim, x.ndim());
  return Attrs::of(ReduceAttrs{mask, keepdim});
}

}  // namespace

Tensor sum(const Tensor& x, const Dims& dims, bool keepdim) {
  return apply(OpId::sum, Attrs::of(ReduceAttrs{reduce_mask("sum", x, dims), keepdim}), x);
}
Tensor amax(const Tensor& x, const Dims& dims, bool keepdim) {
  return apply(OpId::amax, Attrs::of(ReduceAttrs{reduce_mask("amax", x, dims), keepdim}), x);
}
Tensor amin(const Tensor& x, const Dims& dims, bool keepdim) {
  return apply(OpId::amin, Attrs::of(ReduceAttrs{reduce_mask("amin", x, dims), keepdim}), x);
}
Tensor prod(const Tensor& x, int64_t dim, bool keepdim) {
  return apply(OpId::prod, one_dim("prod", x, dim, keepdim), x);
}
Tensor argmax(const Tensor& x, int64_t dim, bool keepdim) {
  return apply(OpId::argmax, one_dim("argmax", x, dim, keepdim), x);
}
Tensor argmin(const Tensor& x, int64_t dim, bool keepdim) {
  return apply(OpId::argmin, one_dim("argmin", x, dim, keepdim), x);
}

#define BESSEMER_REDUCE_SAMPLES                                                                  \
  "[dict(x=R(3, 4)), dict(x=R(3, 4), dims=0), dict(x=R(3, 4), dims=1, keepdim=True), "           \
  "dict(x=R(2, 3, 4), dims=(0, 2)), dict(x=R(2, 3, 4), dims=1), dict(x=R()), dict(x=R(300, 5), " \
  "dims=0), "                                                                                    \
  "dict(x=R(5000))]"

constexpr OpInfo BESSEMER_ROW(sum) = {
    .name = "sum",
    .kind = Kind::reduce,
    .saves = kSaveShapes,
    .vjp = sum_vjp,
    .cpu = sum_cpu,
    .numpy = "np.sum(x, axis=dims, keepdims=keepdim)",
    .samples = BESSEMER_REDUCE_SAMPLES " + [dict(x=R(0, 3), dims=0), dict(x=R(2, 0), dims=1)]"};
constexpr OpInfo BESSEMER_ROW(amax) = {.name = "amax",
                                       .kind = Kind::reduce,
                                       .saves = kSaveIn0 | kSaveOut0,
                                       .vjp = extreme_vjp,
                                       .cpu = amax_cpu,
                                       .numpy = "np.max(x, axis=dims, keepdims=keepdim)",
                                       .samples = BESSEMER_REDUCE_SAMPLES};
constexpr OpInfo BESSEMER_ROW(amin) = {.name = "amin",
                                       .kind = Kind::reduce,
                                       .saves = kSaveIn0 | kSaveOut0,
                                       .vjp = extreme_vjp,
                                       .cpu = amin_cpu,
                                       .numpy = "np.min(x, axis=dims, keepdims=keepdim)",
                                       .samples = BESSEMER_REDUCE_SAMPLES};
constexpr OpInfo BESSEMER_ROW(prod) = {
    .name = "prod",
    .kind = Kind::reduce,
    .saves = kSaveIn0,
    .vjp = prod_vjp,
    .cpu = prod_cpu,
    .numpy = "np.prod(x, axis=dim, keepdims=keepdim)",
    .samples =
        "[dict(x=R(5)), dict(x=R(3, 4), dim=0), dict(x=R(2, 3, 2), dim=1, keepdim=True), "
        "dict(x=R(0, 3), dim=0), dict(x=Z(4, 3), dim=0)]"};
constexpr OpInfo BESSEMER_ROW(argmax) = {
    .name = "argmax",
    .kind = Kind::reduce,
    .cpu = argmax_cpu,
    .numpy = "np.argmax(x, axis=dim, keepdims=keepdim)",
    .samples = "[dict(x=R(5)), dict(x=R(3, 4), dim=0), dict(x=R(2, 3, 2), dim=1, keepdim=True)]"};
constexpr OpInfo BESSEMER_ROW(argmin) = {
    .name = "argmin",
    .kind = Kind::reduce,
    .cpu = argmin_cpu,
    .numpy = "np.argmin(x, axis=dim, keepdims=keepdim)",
    .samples = "[dict(x=R(5)), dict(x=R(3, 4), dim=0), dict(x=R(2, 3, 2), dim=1, keepdim=True)]"};

}  // namespace bessemer
