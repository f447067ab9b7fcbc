// Scans along one dimension: running sums and the first-order linear recurrence behind returns, GAE
// and V-trace. Each lane is one chain in order: a product, then a sum, both rounded (no fused
// multiply-add), so every instruction set gives the same bits.
#include "core/ops/family.h"

namespace bessemer {

namespace {

template <class T>
void scan_sum(const Axis& axis, bool reverse, const T* x, T* y) {
  const int64_t step = reverse ? -axis.inner : axis.inner;
  const int64_t start = reverse ? (axis.size - 1) * axis.inner : 0;
  for (int64_t o = 0; o < axis.outer; ++o) {
    const T* from = x + o * axis.size * axis.inner + start;
    T* to = y + o * axis.size * axis.inner + start;
    std::memcpy(to, from, static_cast<size_t>(axis.inner) * sizeof(T));
    for (int64_t t = 1; t < axis.size; ++t) {
      const T* previous = to;
      from += step;
      to += step;
      for (int64_t i = 0; i < axis.inner; ++i) to[i] = previous[i] + from[i];
    }
  }
}

template <class T>
void scan_linear(const Axis& axis, bool reverse, const T* a, const T* b, T* y) {
  const int64_t step = reverse ? -axis.inner : axis.inner;
  const int64_t start = reverse ? (axis.size - 1) * axis.inner : 0;
  for (int64_t o = 0; o < axis.outer; ++o) {
    int64_t at = o * axis.size * axis.inner + start;
    std::memcpy(y + at, b + at, static_cast<size_t>(axis.inner) * sizeof(T));
    for (int64_t t = 1; t < axis.size; ++t) {
      const T* previous = y + at;
      at += step;
      for (int64_t i = 0; i < axis.inner; ++i) y[at + i] = a[at + i] * previous[i] + b[at + i];
    }
  }
}

void cumsum_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::cumsum, in, attrs, out)) return;
  const auto& d = attrs.as<DimAttrs>();
  Tensor x = dense(*in[0]);
  if (!dtype_is_float(x.dtype())) {
    NoGrad guard;
    x = cast(x, Dtype::i64);
  }
  *out = Tensor::empty(x.sizes(), x.dtype());
  if (x.numel() == 0) return;
  const Axis axis(x.shape(), d.dim);
  visit_number("cumsum", x.dtype(), [&]<class T>() {
    scan_sum(axis, d.flag, static_cast<const T*>(x.raw()), static_cast<T*>(out->raw()));
  });
}

void cumsum_vjp(const VjpContext& c, Tensor* grads) {
  const auto& d = c.attrs.as<DimAttrs>();
  grads[0] = cumsum(c.grad[0], d.dim, !d.flag);
}

void linear_scan_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::linear_scan, in, attrs, out)) return;
  const auto& d = attrs.as<DimAttrs>();
  const Tensor a = dense(*in[0]), b = dense(*in[1]);
  *out = Tensor::empty(b.sizes(), b.dtype());
  if (b.numel() == 0) return;
  const Axis axis(b.shape(), d.dim);
  visit_number("linear_scan", b.dtype(), [&]<class T>() {
    scan_linear(axis, d.flag, static_cast<const T*>(a.raw()), static_cast<const T*>(b.raw()),
                static_cast<T*>(out->raw()));
  });
}

/// x moved one place along dim, 0 entering: forward, element t becomes x[t - 1].
Tensor shifted(const Tensor& x, int64_t dim, bool forward) {
  const int64_t n = x.size(dim);
  if (n == 0) return x;
  return forward ? pad(slice(x, dim, 0, n - 1), dim, 1, 0) : pad(slice(x, dim, 1, n), dim, 0, 1);
}

/// The scan the other way: with h[t] = g[t] + a[t+1] h[t+1],  db[t] = h[t]  and  da[t] = h[t]
/// y[t-1].
void linear_scan_vjp(const VjpContext& c, Tensor* grads) {
  const auto& d = c.attrs.as<DimAttrs>();
  const Tensor h = linear_scan(shifted(c.in[0], d.dim, d.flag), c.grad[0], d.dim, !d.flag);
  if (c.want(0)) grads[0] = h * shifted(c.out[0], d.dim, !d.flag);
  if (c.want(1)) grads[1] = h;
}

}  // namespace

Tensor cumsum(const Tensor& x, int64_t dim, bool reverse) {
  return apply(OpId::cumsum, Attrs::of(DimAttrs{normalize_dim("cumsum", dim, x.ndim()), reverse}),
               x);
}

Tensor linear_scan(const Tensor& a, const Tensor& b, int64_t dim, bool reverse) {
  const Dtype dtype = promote(a.dtype(), b.dtype());
  if (a.dtype() != dtype) return linear_scan(cast(a, dtype), b, dim, reverse);
  if (b.dtype() != dtype) return linear_scan(a, cast(b, dtype), dim, reverse);
  const Shape sa = a.sizes(), sb = b.sizes();
  if (!(sa == sb)) {
    const Shape full = broadcast_shapes("linear_scan", sa, sb);
    return linear_scan(expand(a, full), expand(b, full), dim, reverse);
  }
  return apply(OpId::linear_scan,
               Attrs::of(DimAttrs{normalize_dim("linear_scan", dim, b.ndim()), reverse}), a, b);
}

constexpr OpInfo BESSEMER_ROW(cumsum) = {
    .name = "cumsum",
    .kind = Kind::reduce,
    .vjp = cumsum_vjp,
    .cpu = cumsum_cpu,
    .numpy = "np.flip(np.cumsum(np.flip(x, dim), dim), dim) if reverse else np.cumsum(x, dim)",
    .samples =
        "[dict(x=R(5)), dict(x=R(3, 4), dim=0), dict(x=R(3, 4), dim=1, reverse=True), "
        "dict(x=R(0, 3), dim=0)]"};
constexpr OpInfo BESSEMER_ROW(linear_scan) = {
    .name = "linear_scan",
    .kind = Kind::reduce,
    .inputs = 2,
    .saves = kSaveIn0 | kSaveOut0,
    .vjp = linear_scan_vjp,
    .cpu = linear_scan_cpu,
    .numpy = "np_linear_scan(a, b, dim, reverse)",
    .samples =
        "[dict(a=R(5), b=R(5)), dict(a=R(4, 3), b=R(4, 3)), "
        "dict(a=R(2, 4, 3), b=R(2, 4, 3), dim=1, reverse=True), dict(a=R(4, 1), b=R(4, 3))]"};

}  // namespace bessemer
