// Stable sorting along one dimension. A NaN counts as the largest value, as in NumPy.
#include <algorithm>
#include <numeric>
#include <vector>

#include "core/ops/family.h"

namespace bessemer {

namespace {

template <class T>
bool below(T a, T b) {
  return a < b || (b != b && a == a);
}

/// order(line of values, indices that sort it): for every line of x along dim, at outer * size *
/// inner.
template <class T, class Store>
void sort_lines(const Tensor& x, int dim, bool descending, Store&& store) {
  const Axis axis(x.shape(), dim);
  const T* from = static_cast<const T*>(x.raw());
  std::vector<T> line(static_cast<size_t>(axis.size));
  std::vector<int64_t> order(line.size());
  for (int64_t o = 0; o < axis.outer; ++o) {
    for (int64_t i = 0; i < axis.inner; ++i) {
      const int64_t start = o * axis.size * axis.inner + i;
      for (int64_t k = 0; k < axis.size; ++k) line[k] = from[start + k * axis.inner];
      std::iota(order.begin(), order.end(), int64_t{0});
      if (descending) {
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return below(line[b], line[a]); });
      } else {
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return below(line[a], line[b]); });
      }
      for (int64_t k = 0; k < axis.size; ++k)
        store(start + k * axis.inner, order[k], line[static_cast<size_t>(order[k])]);
    }
  }
}

void argsort_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const auto& d = attrs.as<DimAttrs>();
  Tensor x = dense(*in[0]);
  if (is_half(x.dtype())) {
    NoGrad guard;
    x = cast(x, Dtype::f32);
  }
  *out = Tensor::empty(x.sizes(), Dtype::i64);
  if (x.numel() == 0) return;
  int64_t* to = out->data<int64_t>();
  visit_number("argsort", x.dtype(), [&]<class T>() {
    sort_lines<T>(x, d.dim, d.flag, [&](int64_t at, int64_t index, T) { to[at] = index; });
  });
}

void sort_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::sort, in, attrs, out)) return;
  const auto& d = attrs.as<DimAttrs>();
  const Tensor x = dense(*in[0]);
  *out = Tensor::empty(x.sizes(), x.dtype());
  if (x.numel() == 0) return;
  visit_number("sort", x.dtype(), [&]<class T>() {
    T* to = static_cast<T*>(out->raw());
    sort_lines<T>(x, d.dim, d.flag, [&](int64_t at, int64_t, T value) { to[at] = value; });
  });
}

void sort_vjp(const VjpContext& c, Tensor* grads) {
  const auto& d = c.attrs.as<DimAttrs>();
  const Tensor &x = c.in[0], &g = c.grad[0];
  grads[0] = scatter_add(Tensor::zeros(x.sizes(), g.dtype()), d.dim, argsort(x, d.dim, d.flag), g);
}

}  // namespace

Tensor sort(const Tensor& x, int64_t dim, bool descending) {
  return apply(OpId::sort, Attrs::of(DimAttrs{normalize_dim("sort", dim, x.ndim()), descending}),
               x);
}
Tensor argsort(const Tensor& x, int64_t dim, bool descending) {
  return apply(OpId::argsort,
               Attrs::of(DimAttrs{normalize_dim("argsort", dim, x.ndim()), descending}), x);
}

constexpr OpInfo BESSEMER_ROW(sort) = {
    .name = "sort",
    .kind = Kind::index,
    .saves = kSaveIn0,
    .vjp = sort_vjp,
    .cpu = sort_cpu,
    .numpy = "np.flip(np.sort(x, axis=dim), dim) if descending else np.sort(x, axis=dim)",
    .samples =
        "[dict(x=R(7)), dict(x=R(4, 5), dim=0), dict(x=R(4, 5), descending=True), dict(x=R(0))]"};
constexpr OpInfo BESSEMER_ROW(argsort) = {
    .name = "argsort",
    .kind = Kind::index,
    .cpu = argsort_cpu,
    .numpy = "np.argsort(-x.astype('f8') if descending else x, axis=dim, kind='stable')",
    .samples = "[dict(x=R(7)), dict(x=R(4, 5), dim=0), dict(x=R(4, 5), descending=True)]"};

}  // namespace bessemer
