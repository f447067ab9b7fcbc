// Selection by condition and by index. An index must lie in [0, size): negative ones are errors
// here (Python's door resolves them where people type them).
#include <algorithm>

#include "core/ops/family.h"
#include "core/ops/iterate.h"

namespace bessemer {

namespace {

[[noreturn, gnu::cold]] void out_of_range(const char* op, int64_t value, int64_t position,
                                          int64_t size) {
  fail<IndexError>("[", op, "] index ", value, " at position ", position,
                   " is out of range for a dimension of ", size);
}

/// Checks all of it before anything is written.
void check_range(const char* op, const int64_t* index, int64_t n, int64_t size) {
  for (int64_t i = 0; i < n; ++i)
    if (static_cast<uint64_t>(index[i]) >= static_cast<uint64_t>(size))
      out_of_range(op, index[i], i, size);
}

/// A sum that is exact about small values: halves and integers of their own width.
template <class T>
void add_to(T& target, T value) {
  target = static_cast<T>(target + value);
}
void add_to(f16& target, f16 value) { target = to_f16(to_float(target) + to_float(value)); }
void add_to(bf16& target, bf16 value) { target = to_bf16(to_float(target) + to_float(value)); }

// --- where --------------------------------------------------------------------------------------
void where_cpu(const Tensor* const* in, const Attrs&, Tensor* out) {
  const Tensor &condition = *in[0], &a = *in[1], &b = *in[2];
  Shape shape = broadcast_shapes("where", a.sizes(), b.sizes());
  shape = broadcast_shapes("where", condition.sizes(), shape);
  *out = Tensor::empty(shape, a.dtype());
  const size_t size = dtype_size(a.dtype());
  const int width = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
  int64_t steps[4][kMaxDims];
  broadcast_strides(*out, shape, steps[0]);
  broadcast_strides(condition, shape, steps[1]);
  broadcast_strides(a, shape, steps[2]);
  broadcast_strides(b, shape, steps[3]);
  const StridedLoop<4> loop(shape, steps);
  const auto kernel = cpu::kernels().where[width];
  const int64_t bytes = static_cast<int64_t>(size);
  loop.run([&](int64_t n, const int64_t* offset) {
    kernel(n, bytes_of_output(*out) + offset[0] * bytes, loop.inner_step(0),
           bytes_of(condition) + offset[1], loop.inner_step(1), bytes_of(a) + offset[2] * bytes,
           loop.inner_step(2), bytes_of(b) + offset[3] * bytes, loop.inner_step(3));
  });
}

void where_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor& g = c.grad[0];
  const Tensor zero = Tensor::zeros({}, g.dtype());
  if (c.want(1)) grads[1] = sum_to(where(c.in[0], g, zero), c.in_shapes[1]);
  if (c.want(2)) grads[2] = sum_to(where(c.in[0], zero, g), c.in_shapes[2]);
}

// --- gather, scatter_add ------------------------------------------------------------------------
/// Walks an index tensor [outer, along, inner]: body(outer, position along, inner, index value).
/// Where the index is one row stretched over the other dimensions, `whole` is called once a row
/// instead.
template <class Each, class Whole>
void for_each_index(const char* op, const Tensor& index, int dim, int64_t size, Each&& each,
                    Whole&& whole) {
  const Axis axis(index.shape(), dim);
  bool row_like = axis.inner > 1;
  for (int i = 0; i < index.ndim(); ++i)
    if (i != dim && index.shape()[i] != 1) row_like &= index.strides()[i] == 0;
  if (row_like) {
    const int64_t* p = static_cast<const int64_t*>(index.raw());
    const int64_t step = index.strides()[dim];
    for (int64_t k = 0; k < axis.size; ++k)
      if (static_cast<uint64_t>(p[k * step]) >= static_cast<uint64_t>(size))
        out_of_range(op, p[k * step], k, size);
    for (int64_t o = 0; o < axis.outer; ++o)
      for (int64_t k = 0; k < axis.size; ++k) whole(o, k, p[k * step]);
    return;
  }
  const Tensor flat = dense(index);
  const int64_t* p = flat.data<int64_t>();
  check_range(op, p, index.numel(), size);
  for (int64_t o = 0; o < axis.outer; ++o)
    for (int64_t k = 0; k < axis.size; ++k)
      for (int64_t i = 0; i < axis.inner; ++i) each(o, k, i, *p++);
}

/// x cut to the index's sizes outside dim, row-major.
Tensor cut_like(const Tensor& x, const Tensor& index, int dim) {
  Shape shape = index.sizes();
  shape.dim[dim] = x.shape()[dim];
  if (shape == x.sizes()) return dense(x);
  return dense(make_view(x, shape, x.strides().data()));
}

void gather_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const int dim = attrs.as<DimAttrs>().dim;
  const Tensor& index = *in[1];
  *out = Tensor::empty(index.sizes(), in[0]->dtype());
  if (out->numel() == 0) return;
  const Tensor x = cut_like(*in[0], index, dim);
  const Axis axis(x.shape(), dim);
  const int64_t along = index.shape()[dim], inner = axis.inner;
  visit_width(x.dtype(), [&]<class U>() {
    const U* from = static_cast<const U*>(x.raw());
    U* to = static_cast<U*>(out->raw());
    for_each_index(
        "gather", index, dim, axis.size,
        [&](int64_t o, int64_t k, int64_t i, int64_t at) {
          to[(o * along + k) * inner + i] = from[(o * axis.size + at) * inner + i];
        },
        [&](int64_t o, int64_t k, int64_t at) {
          std::memcpy(to + (o * along + k) * inner, from + (o * axis.size + at) * inner,
                      static_cast<size_t>(inner) * sizeof(U));
        });
  });
}

void gather_vjp(const VjpContext& c, Tensor* grads) {
  const int dim = c.attrs.as<DimAttrs>().dim;
  grads[0] = scatter_add(Tensor::zeros(c.in_shapes[0], c.grad[0].dtype()), dim, c.in[1], c.grad[0]);
}

template <class Body>
void visit_stored(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::f16:
      return body.template operator()<f16>();
    case Dtype::bf16:
      return body.template operator()<bf16>();
    default:
      return visit_number("scatter_add", dtype, body);
  }
}

/// The index has x's sizes outside dim.
template <class T>
void scatter_add_same(const Tensor& index, int dim, const Axis& axis, int64_t size, const T* from,
                      T* to) {
  const int64_t inner = axis.inner;
  for_each_index(
      "scatter_add", index, dim, size,
      [&](int64_t o, int64_t k, int64_t i, int64_t at) {
        add_to(to[(o * size + at) * inner + i], from[(o * axis.size + k) * inner + i]);
      },
      [&](int64_t o, int64_t k, int64_t at) {
        T* row = to + (o * size + at) * inner;
        const T* values = from + (o * axis.size + k) * inner;
        for (int64_t i = 0; i < inner; ++i) add_to(row[i], values[i]);
      });
}

void scatter_add_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const int dim = attrs.as<DimAttrs>().dim;
  const Tensor &x = *in[0], &index = *in[1];
  const Tensor source = dense(*in[2]);
  *out = Tensor::empty(x.sizes(), x.dtype());
  const Tensor base = dense(x);
  const size_t bytes = static_cast<size_t>(x.numel()) * dtype_size(x.dtype());
  if (bytes) std::memcpy(out->raw(), base.raw(), bytes);
  if (index.numel() == 0) return;
  const Axis axis(index.shape(), dim), target(x.shape(), dim);
  if (target.outer == axis.outer && target.inner == axis.inner) {
    visit_stored(x.dtype(), [&]<class T>() {
      scatter_add_same(index, dim, axis, target.size, static_cast<const T*>(source.raw()),
                       static_cast<T*>(out->raw()));
    });
    return;
  }
  // The index is smaller than x outside dim: places in x of its outer and inner positions.
  int64_t strides[kMaxDims];
  contiguous_strides(x.sizes(), strides);
  auto offsets = [&](int64_t count, int first, int last) {
    std::vector<int64_t> list(static_cast<size_t>(count), 0);
    for (int64_t n = 0; n < count; ++n) {
      int64_t rest = n;
      for (int i = last - 1; i >= first; --i) {
        list[static_cast<size_t>(n)] += rest % index.shape()[i] * strides[i];
        rest /= index.shape()[i];
      }
    }
    return list;
  };
  const auto before = offsets(axis.outer, 0, dim),
             after = offsets(axis.inner, dim + 1, index.ndim());
  const int64_t step = strides[dim];
  visit_stored(x.dtype(), [&]<class T>() {
    const T* from = static_cast<const T*>(source.raw());
    T* to = static_cast<T*>(out->raw());
    auto each = [&](int64_t o, int64_t k, int64_t i, int64_t at) {
      add_to(to[before[o] + at * step + after[i]], from[(o * axis.size + k) * axis.inner + i]);
    };
    for_each_index("scatter_add", index, dim, target.size, each,
                   [&](int64_t o, int64_t k, int64_t at) {
                     for (int64_t i = 0; i < axis.inner; ++i) each(o, k, i, at);
                   });
  });
}

void scatter_add_vjp(const VjpContext& c, Tensor* grads) {
  if (c.want(0)) grads[0] = c.grad[0];
  if (c.want(2)) grads[2] = gather(c.grad[0], c.attrs.as<DimAttrs>().dim, c.in[1]);
}

void check_index_shape(const char* op, const Tensor& x, const Tensor& index, int dim) {
  bool fits = x.ndim() == index.ndim();
  for (int i = 0; fits && i < x.ndim(); ++i) fits = i == dim || index.shape()[i] <= x.shape()[i];
  BESSEMER_CHECK(fits, ValueError, "[", op, "] index ", index.shape(), " does not fit ", x.shape(),
                 " outside dimension ", dim);
}

// --- index_select -------------------------------------------------------------------------------
void index_select_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const int dim = attrs.as<DimAttrs>().dim;
  const Tensor x = dense(*in[0]), index = dense(*in[1]);
  const Axis axis(x.shape(), dim);
  Shape shape = x.sizes();
  shape.dim[dim] = index.numel();
  *out = Tensor::empty(shape, x.dtype());
  const int64_t* at = index.data<int64_t>();
  check_range("index_select", at, index.numel(), axis.size);
  const size_t row = static_cast<size_t>(axis.inner) * dtype_size(x.dtype());
  if (row == 0) return;
  char* to = bytes_of_output(*out);
  for (int64_t o = 0; o < axis.outer; ++o) {
    const char* from = bytes_of(x) + static_cast<size_t>(o * axis.size) * row;
    for (int64_t k = 0; k < index.numel(); ++k, to += row)
      std::memcpy(to, from + static_cast<size_t>(at[k]) * row, row);
  }
}

void index_select_vjp(const VjpContext& c, Tensor* grads) {
  const int dim = c.attrs.as<DimAttrs>().dim;
  const Tensor& g = c.grad[0];
  Shape row;
  row.ndim = g.ndim();
  for (int i = 0; i < row.ndim; ++i) row.dim[i] = i == dim ? g.size(i) : 1;
  grads[0] = scatter_add(Tensor::zeros(c.in_shapes[0], g.dtype()), dim,
                         expand(reshape(c.in[1], row), g.sizes()), g);
}

}  // namespace

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  if (condition.dtype() != Dtype::boolean) return where(cast(condition, Dtype::boolean), a, b);
  const Dtype dtype = promote(a.dtype(), b.dtype());
  if (a.dtype() != dtype) return where(condition, cast(a, dtype), b);
  if (b.dtype() != dtype) return where(condition, a, cast(b, dtype));
  return apply(OpId::where, Attrs(), condition, a, b);
}

Tensor gather(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = normalize_dim("gather", dim, x.ndim());
  check_index_shape("gather", x, index, d);
  return apply(OpId::gather, Attrs::of(DimAttrs{d, 0}), x, as_index("gather", "the index", index));
}

Tensor scatter_add(const Tensor& x, int64_t dim, const Tensor& index, const Tensor& source) {
  const int d = normalize_dim("scatter_add", dim, x.ndim());
  check_index_shape("scatter_add", x, index, d);
  BESSEMER_CHECK(index.sizes() == source.sizes(), ValueError, "[scatter_add] index ", index.shape(),
                 " and source ", source.shape(), " differ");
  if (source.dtype() != x.dtype()) return scatter_add(x, d, index, cast(source, x.dtype()));
  return apply(OpId::scatter_add, Attrs::of(DimAttrs{d, 0}), x,
               as_index("scatter_add", "the index", index), source);
}

Tensor index_select(const Tensor& x, int64_t dim, const Tensor& index) {
  const int d = normalize_dim("index_select", dim, x.ndim());
  BESSEMER_CHECK(index.ndim() == 1, ValueError, "[index_select] the index has shape ",
                 index.shape(), ", expected one dimension");
  return apply(OpId::index_select, Attrs::of(DimAttrs{d, 0}), x,
               as_index("index_select", "the index", index));
}

constexpr OpInfo BESSEMER_ROW(where) = {
    .name = "where",
    .kind = Kind::index,
    .inputs = 3,
    .saves = kSaveIn0 | kSaveShapes,
    .vjp = where_vjp,
    .cpu = where_cpu,
    .numpy = "np.where(condition, a, b)",
    .samples =
        "[dict(condition=B(3, 4), a=R(3, 4), b=R(3, 4)), dict(condition=B(3, 1), a=R(4), b=R()), "
        "dict(condition=B(), a=R(2, 2), b=R(2, 1)), dict(condition=B(0, 3), a=R(3), b=R(0, 1))]"};
constexpr OpInfo BESSEMER_ROW(gather) = {
    .name = "gather",
    .kind = Kind::index,
    .inputs = 2,
    .saves = kSaveIn1 | kSaveShapes,
    .vjp = gather_vjp,
    .cpu = gather_cpu,
    .numpy = "np.take_along_axis(x, index, dim)",
    .samples =
        "[dict(x=R(5, 3), dim=1, index=I(3, 5, 1)), dict(x=R(5, 3), dim=0, index=I(5, 2, 3)), "
        "dict(x=R(6), dim=0, index=I(6, 9)), dict(x=R(2, 4, 3), dim=1, index=I(4, 2, 2, 3))]"};
constexpr OpInfo BESSEMER_ROW(scatter_add) = {
    .name = "scatter_add",
    .kind = Kind::index,
    .inputs = 3,
    .saves = kSaveIn1,
    .vjp = scatter_add_vjp,
    .cpu = scatter_add_cpu,
    .numpy = "np_scatter_add(x, dim, index, source)",
    .samples =
        "[dict(x=R(5, 3), dim=0, index=I(5, 7, 3), source=R(7, 3)), "
        "dict(x=R(4), dim=0, index=I(4, 6), source=R(6)), "
        "dict(x=R(3, 5, 2), dim=1, index=I(5, 2, 4, 2), source=R(2, 4, 2))]"};
constexpr OpInfo BESSEMER_ROW(index_select) = {
    .name = "index_select",
    .kind = Kind::index,
    .inputs = 2,
    .saves = kSaveIn1 | kSaveShapes,
    .vjp = index_select_vjp,
    .cpu = index_select_cpu,
    .numpy = "np.take(x, index, axis=dim)",
    .samples =
        "[dict(x=R(5, 3), dim=0, index=I(5, 8)), dict(x=R(2, 4, 3), dim=1, index=I(4, 3)), "
        "dict(x=R(4), dim=0, index=I(4, 0))]"};

}  // namespace bessemer
