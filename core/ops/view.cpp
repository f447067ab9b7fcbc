// Movement: the same elements under another shape. Views share storage; pad and cat_pair copy.
#include <algorithm>

#include "core/ops/family.h"

namespace bessemer {

namespace {

Tensor finish_view(OpId id, const Attrs& attrs, const Tensor& x, Tensor view) {
  const Tensor* inputs[] = {&x};
  finish_op(id, attrs, inputs, 1, &view);
  return view;
}

bool same_shape(const Tensor& x, const Shape& shape) {
  if (x.ndim() != shape.ndim) return false;
  for (int i = 0; i < shape.ndim; ++i)
    if (x.shape()[i] != shape.dim[i]) return false;
  return true;
}

// --- reshape ------------------------------------------------------------------------------------
/// `shape` with its -1 worked out.
Shape resolve(const Tensor& x, const Shape& shape) {
  Shape out = shape;
  int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < shape.ndim; ++i) {
    if (shape.dim[i] == -1) {
      BESSEMER_CHECK(unknown < 0, ValueError, "[reshape] more than one -1 in ", shape.dims());
      unknown = i;
    } else {
      BESSEMER_CHECK(shape.dim[i] >= 0, ValueError, "[reshape] negative size in ", shape.dims());
      known *= shape.dim[i];
    }
  }
  if (unknown >= 0) {
    BESSEMER_CHECK(known > 0 && x.numel() % known == 0, ValueError, "[reshape] cannot reshape ",
                   x.shape(), " to ", shape.dims());
    out.dim[unknown] = x.numel() / known;
  } else {
    BESSEMER_CHECK(known == x.numel(), ValueError, "[reshape] cannot reshape ", x.shape(), " to ",
                   shape.dims());
  }
  return out;
}

/// Strides under which x's elements have the new shape without moving; false where there are none.
bool reshape_strides(const Tensor& x, const Shape& shape, int64_t* strides) {
  if (x.contiguous()) {
    contiguous_strides(shape, strides);
    return true;
  }
  // x's dimensions merged into runs of elements at one distance; new dimensions must divide the
  // runs.
  int64_t run_size[kMaxDims], run_stride[kMaxDims];
  int runs = 0;
  for (int i = 0; i < x.ndim(); ++i) {
    const int64_t n = x.shape()[i], step = x.strides()[i];
    if (n == 1) continue;
    if (runs && run_stride[runs - 1] == n * step) {
      run_size[runs - 1] *= n;
      run_stride[runs - 1] = step;
    } else {
      run_size[runs] = n;
      run_stride[runs++] = step;
    }
  }
  int d = shape.ndim - 1;
  for (int r = runs - 1; r >= 0; --r) {
    int64_t left = run_size[r], step = run_stride[r];
    while (left > 1) {
      if (d < 0 || left % shape.dim[d] != 0) return false;
      strides[d] = step;
      step *= shape.dim[d];
      left /= shape.dim[d];
      --d;
    }
  }
  for (; d >= 0; --d) strides[d] = 1;  // sizes of 1
  return true;
}

void reshape_vjp(const VjpContext& c, Tensor* grads) {
  grads[0] = reshape(c.grad[0], c.in_shapes[0]);
}

// --- permute, expand ----------------------------------------------------------------------------
struct PermuteAttrs {
  int32_t count;
  int8_t dim[kMaxDims];
};

void permute_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<PermuteAttrs>();
  Dims back;
  back.count = a.count;
  for (int i = 0; i < a.count; ++i) back.dim[a.dim[i]] = i;
  grads[0] = permute(c.grad[0], back);
}

void expand_vjp(const VjpContext& c, Tensor* grads) {
  grads[0] = sum_to(c.grad[0], c.in_shapes[0]);
}

// --- slice, pad ---------------------------------------------------------------------------------
struct SliceAttrs {
  int64_t dim, start, step, count;  // resolved: `count` elements from `start`
};

/// Puts g where the slice read: spread by the step (zeros between), then padded on both sides. All
/// of it is views and pads, so it can be differentiated again.
void slice_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<SliceAttrs>();
  Tensor g = c.grad[0];
  const int64_t n = c.in_shapes[0].dim[a.dim];
  if (a.count == 0) {
    grads[0] = Tensor::zeros(c.in_shapes[0], g.dtype());
    return;
  }
  int64_t start = a.start, step = a.step;
  if (step < 0) {
    g = flip(g, a.dim);
    start += (a.count - 1) * step;
    step = -step;
  }
  if (step > 1 && a.count > 1) {
    Shape merged = g.sizes();
    merged.dim[a.dim] = a.count * step;
    g = reshape(pad(unsqueeze(g, a.dim + 1), a.dim + 1, 0, step - 1), merged);
    g = slice(g, a.dim, 0, (a.count - 1) * step + 1);
  }
  const int64_t after = n - start - g.size(a.dim);
  grads[0] = start == 0 && after == 0 ? g : pad(g, a.dim, start, after);
}

struct PadAttrs {
  int64_t dim, before, after;
  double value;
};

void pad_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const auto& a = attrs.as<PadAttrs>();
  const Tensor x = dense(*in[0]);
  Shape shape = x.sizes();
  const int64_t n = shape.dim[a.dim];
  shape.dim[a.dim] += a.before + a.after;
  *out = Tensor::full(shape, a.value, x.dtype());
  if (x.numel() == 0) return;
  const Axis axis(x.shape(), static_cast<int>(a.dim));
  const size_t row = static_cast<size_t>(axis.inner) * dtype_size(x.dtype());
  for (int64_t o = 0; o < axis.outer; ++o)
    std::memcpy(bytes_of_output(*out) + static_cast<size_t>(o * shape.dim[a.dim] + a.before) * row,
                bytes_of(x) + static_cast<size_t>(o * n) * row, static_cast<size_t>(n) * row);
}

void pad_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<PadAttrs>();
  grads[0] = slice(c.grad[0], a.dim, a.before, c.grad[0].size(a.dim) - a.after);
}

// --- cat_pair -----------------------------------------------------------------------------------
struct CatAttrs {
  int64_t dim, size_a;
};

void cat_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const int dim = static_cast<int>(attrs.as<CatAttrs>().dim);
  const Tensor a = dense(*in[0]), b = dense(*in[1]);
  Shape shape = a.sizes();
  shape.dim[dim] += b.shape()[dim];
  *out = Tensor::empty(shape, a.dtype());
  const Axis left(a.shape(), dim), right(b.shape(), dim);
  const size_t size = dtype_size(a.dtype());
  const size_t wide_a = static_cast<size_t>(left.size * left.inner) * size;
  const size_t wide_b = static_cast<size_t>(right.size * right.inner) * size;
  char* to = bytes_of_output(*out);
  for (int64_t o = 0; o < left.outer; ++o, to += wide_a + wide_b) {
    if (wide_a) std::memcpy(to, bytes_of(a) + static_cast<size_t>(o) * wide_a, wide_a);
    if (wide_b) std::memcpy(to + wide_a, bytes_of(b) + static_cast<size_t>(o) * wide_b, wide_b);
  }
}

void cat_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<CatAttrs>();
  if (c.want(0)) grads[0] = slice(c.grad[0], a.dim, 0, a.size_a);
  if (c.want(1)) grads[1] = slice(c.grad[0], a.dim, a.size_a, c.grad[0].size(a.dim));
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& wanted) {
  const Shape shape = resolve(x, wanted);
  if (same_shape(x, shape)) return x;
  int64_t strides[kMaxDims];
  Tensor out;
  if (reshape_strides(x, shape, strides)) {
    out = make_view(x, shape, strides);
  } else {
    contiguous_strides(shape, strides);
    out = make_view(dense(x), shape, strides);
  }
  return finish_view(OpId::reshape, Attrs::of(PackedShape(shape)), x, std::move(out));
}

Tensor permute(const Tensor& x, const Dims& dims) {
  BESSEMER_CHECK(dims.count == x.ndim(), ValueError, "[permute] ", std::span(dims.dim, dims.count),
                 " does not order ", x.ndim(), " dimensions");
  PermuteAttrs attrs{dims.count, {}};
  Shape shape;
  shape.ndim = dims.count;
  int64_t strides[kMaxDims];
  uint32_t seen = 0;
  for (int i = 0; i < dims.count; ++i) {
    const int d = normalize_dim("permute", dims.dim[i], x.ndim());
    BESSEMER_CHECK(!(seen >> d & 1), ValueError, "[permute] dimension ", d, " is named twice in ",
                   std::span(dims.dim, dims.count));
    seen |= 1u << d;
    attrs.dim[i] = static_cast<int8_t>(d);
    shape.dim[i] = x.shape()[d];
    strides[i] = x.strides()[d];
  }
  return finish_view(OpId::permute, Attrs::of(attrs), x, make_view(x, shape, strides));
}

Tensor expand(const Tensor& x, const Shape& wanted) {
  if (same_shape(x, wanted)) return x;
  const int lead = wanted.ndim - x.ndim();
  BESSEMER_CHECK(lead >= 0, ValueError, "[expand] cannot expand ", x.shape(), " to ",
                 wanted.dims());
  Shape shape = wanted;
  int64_t strides[kMaxDims];
  for (int i = 0; i < shape.ndim; ++i) {
    const int64_t n = i < lead ? 1 : x.shape()[i - lead];
    if (shape.dim[i] == -1 && i >= lead) shape.dim[i] = n;
    BESSEMER_CHECK(shape.dim[i] == n || (n == 1 && shape.dim[i] >= 0), ValueError,
                   "[expand] cannot expand ", x.shape(), " to ", wanted.dims());
    strides[i] = shape.dim[i] == n && i >= lead ? x.strides()[i - lead] : 0;
  }
  return finish_view(OpId::expand, Attrs::of(PackedShape(shape)), x, make_view(x, shape, strides));
}

Tensor slice(const Tensor& x, int64_t dim, int64_t start, int64_t stop, int64_t step) {
  BESSEMER_CHECK(step != 0, ValueError, "[slice] step is 0");
  const int d = normalize_dim("slice", dim, x.ndim());
  const int64_t n = x.shape()[d];
  // Python's rules: negative bounds count from the end, then both are clipped.
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  auto bound = [&](int64_t at) { return std::clamp(at < 0 ? at + n : at, low, high); };
  start = bound(std::max(start, -n - 1));
  stop = bound(std::max(stop, -n - 1));
  const int64_t count = step > 0 ? (stop > start ? (stop - start - 1) / step + 1 : 0)
                                 : (start > stop ? (start - stop - 1) / -step + 1 : 0);
  if (count == n && step == 1) return x;
  Shape shape = x.sizes();
  shape.dim[d] = count;
  int64_t strides[kMaxDims];
  std::copy(x.strides().begin(), x.strides().end(), strides);
  const int64_t offset = count ? start * strides[d] : 0;
  strides[d] *= step;
  return finish_view(OpId::slice, Attrs::of(SliceAttrs{d, start, step, count}), x,
                     make_view(x, shape, strides, offset));
}

Tensor pad(const Tensor& x, int64_t dim, int64_t before, int64_t after, double value) {
  const int d = normalize_dim("pad", dim, x.ndim());
  BESSEMER_CHECK(before >= 0 && after >= 0, ValueError, "[pad] negative padding (", before, ", ",
                 after, "); slice cuts");
  return apply(OpId::pad, Attrs::of(PadAttrs{d, before, after, value}), x);
}

Tensor cat_pair(const Tensor& a, const Tensor& b, int64_t dim) {
  const Dtype dtype = promote(a.dtype(), b.dtype());
  if (a.dtype() != dtype) return cat_pair(cast(a, dtype), b, dim);
  if (b.dtype() != dtype) return cat_pair(a, cast(b, dtype), dim);
  const int d = normalize_dim("cat_pair", dim, a.ndim());
  bool fits = a.ndim() == b.ndim();
  for (int i = 0; fits && i < a.ndim(); ++i) fits = i == d || a.shape()[i] == b.shape()[i];
  BESSEMER_CHECK(fits, ValueError, "[cat_pair] shapes differ outside dimension ", d, ": ",
                 a.shape(), " and ", b.shape());
  return apply(OpId::cat_pair, Attrs::of(CatAttrs{d, a.shape()[d]}), a, b);
}

constexpr OpInfo BESSEMER_ROW(reshape) = {
    .name = "reshape",
    .kind = Kind::view,
    .saves = kSaveShapes,
    .vjp = reshape_vjp,
    .numpy = "np.reshape(x, shape)",
    .samples =
        "[dict(x=R(3, 4), shape=(2, 6)), dict(x=R(2, 3, 4), shape=(-1, 4)), "
        "dict(x=R(1), shape=()), dict(x=R(0, 3), shape=(3, 0))]"};
constexpr OpInfo BESSEMER_ROW(permute) = {
    .name = "permute",
    .kind = Kind::view,
    .vjp = permute_vjp,
    .numpy = "np.transpose(x, dims)",
    .samples =
        "[dict(x=R(3, 4), dims=(1, 0)), dict(x=R(2, 3, 4), dims=(2, 0, 1)), "
        "dict(x=R(2, 3, 4), dims=(0, -1, 1))]"};
constexpr OpInfo BESSEMER_ROW(expand) = {.name = "expand",
                                         .kind = Kind::view,
                                         .saves = kSaveShapes,
                                         .vjp = expand_vjp,
                                         .numpy = "np.broadcast_to(x, shape)",
                                         .samples =
                                             "[dict(x=R(3, 1), shape=(3, 4)), dict(x=R(4), "
                                             "shape=(2, 3, 4)), dict(x=R(), shape=(2, 2))]"};
constexpr OpInfo BESSEMER_ROW(slice) = {
    .name = "slice",
    .kind = Kind::view,
    .saves = kSaveShapes,
    .vjp = slice_vjp,
    .numpy = "x[(slice(None),) * (dim % x.ndim) + (slice(start, stop, step),)]",
    .samples =
        "[dict(x=R(5, 3), dim=0, start=1, stop=4), dict(x=R(3, 7), dim=1, start=0, stop=7, "
        "step=3), "
        "dict(x=R(3, 7), dim=-1, start=-1, stop=-8, step=-1), "
        "dict(x=R(2, 7), dim=1, start=5, stop=0, step=-2), dict(x=R(4), dim=0, start=3, stop=3)]"};
constexpr OpInfo BESSEMER_ROW(pad) = {
    .name = "pad",
    .kind = Kind::memory,
    .vjp = pad_vjp,
    .cpu = pad_cpu,
    .numpy =
        "np.pad(x, [(before, after) if i == dim % x.ndim else (0, 0) for i in range(x.ndim)], "
        "constant_values=value)",
    .samples =
        "[dict(x=R(3, 4), dim=0, before=1, after=2), dict(x=R(3, 4), dim=-1, before=0, after=2, "
        "value=1.5), dict(x=R(0, 4), dim=0, before=1, after=0)]"};
constexpr OpInfo BESSEMER_ROW(cat_pair) = {
    .name = "cat_pair",
    .kind = Kind::memory,
    .inputs = 2,
    .vjp = cat_vjp,
    .cpu = cat_cpu,
    .numpy = "np.concatenate([a, b], axis=dim)",
    .samples =
        "[dict(a=R(3, 4), b=R(2, 4)), dict(a=R(3, 4), b=R(3, 1), dim=1), dict(a=R(0), b=R(3))]"};

}  // namespace bessemer
