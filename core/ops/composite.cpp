// Plain functions over rows: nothing here is registered.
#include <algorithm>
#include <cmath>

#include "core/ops/family.h"

namespace bessemer {

namespace {

/// How many elements a reduction over `dims` folds into one.
double folded(const char* op, const Tensor& x, const Dims& dims) {
  if (dims.count == 0) return static_cast<double>(x.numel());
  double n = 1;
  for (int i = 0; i < dims.count; ++i)
    n *= static_cast<double>(x.shape()[normalize_dim(op, dims.dim[i], x.ndim())]);
  return n;
}

Tensor floating(const Tensor& x) { return dtype_is_float(x.dtype()) ? x : cast(x, Dtype::f32); }

}  // namespace

Tensor mean(const Tensor& x, const Dims& dims, bool keepdim) {
  return sum(floating(x), dims, keepdim) / folded("mean", x, dims);
}

Tensor var(const Tensor& given, const Dims& dims, bool keepdim, double correction) {
  const Tensor x = floating(given);
  const Tensor squares = sum(square(x - mean(x, dims, true)), dims, keepdim);
  return squares / std::max(0.0, folded("var", x, dims) - correction);
}

Tensor logsumexp(const Tensor& given, int64_t dim, bool keepdim) {
  const Tensor x = floating(given);
  // The shift only keeps exp in range; its gradient cancels. An infinite one would give inf - inf.
  Tensor top;
  {
    NoGrad guard;
    top = amax(x, dim, true);
    top = where(isfinite(top), top, zeros_like(top));
  }
  const Tensor out = log(sum(exp(x - top), dim, true)) + top;
  return keepdim ? out : squeeze(out, dim);
}

Tensor clamp(const Tensor& x, double low, double high) {
  return minimum(maximum(x, Tensor::scalar(low, x.dtype())), Tensor::scalar(high, x.dtype()));
}
Tensor clamp(const Tensor& x, const Tensor& low, const Tensor& high) {
  return minimum(maximum(x, low), high);
}

Tensor transpose(const Tensor& x, int64_t dim0, int64_t dim1) {
  Dims order;
  order.count = x.ndim();
  for (int i = 0; i < order.count; ++i) order.dim[i] = i;
  std::swap(order.dim[normalize_dim("transpose", dim0, x.ndim())],
            order.dim[normalize_dim("transpose", dim1, x.ndim())]);
  return permute(x, order);
}

Tensor flip(const Tensor& x, int64_t dim) {
  const int64_t n = x.size(dim);
  return slice(x, dim, n - 1, -n - 1, -1);
}

Tensor squeeze(const Tensor& x, int64_t dim) {
  const int d = normalize_dim("squeeze", dim, x.ndim());
  BESSEMER_CHECK(x.shape()[d] == 1, ValueError, "[squeeze] dimension ", d, " of ", x.shape(),
                 " is not 1");
  Shape shape;
  for (int i = 0; i < x.ndim(); ++i)
    if (i != d) shape.push(x.shape()[i]);
  return reshape(x, shape);
}

Tensor unsqueeze(const Tensor& x, int64_t dim) {
  const int d = normalize_dim("unsqueeze", dim, x.ndim() + 1);
  Shape shape;
  for (int i = 0; i <= x.ndim(); ++i) {
    if (i == d) shape.push(1);
    if (i < x.ndim()) shape.push(x.shape()[i]);
  }
  return reshape(x, shape);
}

Tensor flatten(const Tensor& x, int64_t start, int64_t end) {
  if (x.ndim() == 0) return reshape(x, {1});
  const int first = normalize_dim("flatten", start, x.ndim());
  const int last = normalize_dim("flatten", end, x.ndim());
  BESSEMER_CHECK(first <= last, ValueError, "[flatten] start ", start, " comes after end ", end);
  Shape shape;
  for (int i = 0; i < x.ndim(); ++i) {
    if (i > first && i <= last) {
      shape.dim[shape.ndim - 1] *= x.shape()[i];
    } else {
      shape.push(x.shape()[i]);
    }
  }
  return reshape(x, shape);
}

Tensor select(const Tensor& x, int64_t dim, int64_t index) {
  const int d = normalize_dim("select", dim, x.ndim());
  const int64_t n = x.shape()[d];
  BESSEMER_CHECK(index >= -n && index < n, IndexError, "[select] index ", index,
                 " is out of range for a dimension of ", n);
  if (index < 0) index += n;
  return squeeze(slice(x, d, index, index + 1), d);
}

Tensor concat(std::span<const Tensor> parts, int64_t dim) {
  BESSEMER_CHECK(!parts.empty(), ValueError, "[concat] no tensors");
  // Halves of the list: every element is copied log2(parts) times.
  if (parts.size() == 1) return parts[0];
  const size_t half = parts.size() / 2;
  return cat_pair(concat(parts.first(half), dim), concat(parts.subspan(half), dim), dim);
}

Tensor stack(std::span<const Tensor> parts, int64_t dim) {
  BESSEMER_CHECK(!parts.empty(), ValueError, "[stack] no tensors");
  std::vector<Tensor> raised;
  raised.reserve(parts.size());
  for (const Tensor& part : parts) {
    BESSEMER_CHECK(part.sizes() == parts[0].sizes(), ValueError,
                   "[stack] shapes differ: ", parts[0].shape(), " and ", part.shape());
    raised.push_back(unsqueeze(part, dim));
  }
  return concat(raised, normalize_dim("stack", dim, parts[0].ndim() + 1));
}

Tensor one_hot(const Tensor& index, int64_t classes) {
  BESSEMER_CHECK(classes > 0, ValueError, "[one_hot] classes is ", classes);
  Shape shape = index.sizes();
  shape.push(classes);
  return scatter_add(Tensor::zeros(shape), -1, unsqueeze(index, -1),
                     expand(Tensor::scalar(1), unsqueeze(index, -1).sizes()));
}

Tensor zeros_like(const Tensor& x) { return Tensor::zeros(x.sizes(), x.dtype()); }
Tensor ones_like(const Tensor& x) { return Tensor::ones(x.sizes(), x.dtype()); }

Tensor sum_to(const Tensor& x, const Shape& shape) {
  const int lead = x.ndim() - shape.ndim;
  Dims dims;
  bool reshaped = false;
  for (int i = 0; i < x.ndim(); ++i) {
    const int64_t n = x.shape()[i];
    if (i >= lead && n == shape.dim[i - lead]) continue;
    BESSEMER_CHECK(i < lead || shape.dim[i - lead] == 1, ValueError, "[sum_to] ", x.shape(),
                   " is not a broadcast of ", shape.dims());
    dims.dim[dims.count++] = i;
    reshaped |= i >= lead;
  }
  if (dims.count == 0) return x;
  const Tensor total = sum(x, dims);
  return reshaped ? reshape(total, shape) : total;
}

/// d/dx x Phi(x) = Phi(x) + x phi(x).
Tensor gelu_slope(const Tensor& x) {
  const Tensor cdf = 0.5 * (1.0 + erf(x * M_SQRT1_2));
  return cdf + x * exp(-0.5 * square(x)) * 0.3989422804014327;
}
/// d/dx x s(x) = s + x s (1 - s).
Tensor silu_slope(const Tensor& x) {
  const Tensor s = sigmoid(x);
  return s * (1.0 + x * (1.0 - s));
}

}  // namespace bessemer
