// Normalisation over the last dimension. Each row carries its decomposition.
//
// Gradients with respect to parameters are sums over rows: one chain inside blocks of 256 rows, the
// blocks added in order. A block is a thread's task, so the bits do not depend on threads.
#include <algorithm>
#include <cmath>

#include "core/ops/family.h"

namespace bessemer {

namespace {

struct NormAttrs {
  double eps;
};

constexpr int64_t kBlockRows = 256;

/// body(block, first row, rows) over blocks of rows of n elements, on all threads where there is
/// work for them.
template <class Body>
void each_block(int64_t rows, int64_t n, Body&& body) {
  constexpr int64_t kWorthThreads = 1 << 17;
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  const auto one = [&](int64_t b) {
    body(b, b * kBlockRows, std::min(kBlockRows, rows - b * kBlockRows));
  };
  if (rows * n >= kWorthThreads) return cpu::pool().run(blocks, one);
  for (int64_t b = 0; b < blocks; ++b) one(b);
}

/// Rows of float32, whatever the floating dtype was.
struct FloatRows {
  Tensor x;
  int64_t rows, n;
  explicit FloatRows(const Tensor& given)
      : x(dense(cast(given, Dtype::f32))), rows(0), n(x.size(-1)) {
    rows = n ? x.numel() / n : 0;
  }
  const float* row(int64_t r) const { return x.data<float>() + r * n; }
};

/// Sums over rows made by blocks: partial sums [blocks, n], and their total.
class RowSums {
 public:
  RowSums(bool wanted, int64_t rows, int64_t n)
      : n_(n), blocks_((rows + kBlockRows - 1) / kBlockRows) {
    if (wanted) partial_ = Tensor::empty({blocks_, n});
  }
  float* block(int64_t b) const {
    return partial_.defined() ? partial_.data<float>() + b * n_ : nullptr;
  }
  Tensor total() const {
    if (!partial_.defined()) return Tensor();
    if (blocks_ == 1) return reshape(partial_, {n_});
    const Tensor out = Tensor::zeros({n_});
    float* to = out.data<float>();
    for (int64_t b = 0; b < blocks_; ++b)
      for (int64_t j = 0; j < n_; ++j) to[j] = b ? to[j] + block(b)[j] : block(b)[j];
    return out;
  }

 private:
  int64_t n_, blocks_;
  Tensor partial_;
};

/// The fused gradients are numbers: recorded second derivatives and float64 take the composition.
bool fused_gradient(const Tensor& x) {
  return !(current_mode & kModeGrad) && x.dtype() != Dtype::f64;
}
const float* floats(const Tensor& x) { return x.defined() ? x.data<float>() : nullptr; }
Tensor dense_weight(const Tensor& weight) { return weight.defined() ? dense(weight) : weight; }

// --- rms_norm: Zhang & Sennrich 2019 ------------------------------------------------------------
void rms_norm_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor& x = *in[0];
  *out = x * rsqrt(mean(square(x), -1, true) + attrs.as<NormAttrs>().eps);
  if (in[1]->defined()) *out = *out * *in[1];
}

void rms_norm_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::rms_norm, in, attrs, out)) return;
  if (in[0]->dtype() == Dtype::f64) {
    NoGrad guard;
    return rms_norm_decompose(in, attrs, out);
  }
  const FloatRows x(*in[0]);
  const Tensor weight = dense_weight(*in[1]);
  const auto eps = static_cast<float>(attrs.as<NormAttrs>().eps);
  *out = Tensor::empty(x.x.sizes());
  float* to = out->data<float>();
  each_block(x.rows, x.n, [&](int64_t, int64_t first, int64_t count) {
    cpu::kernels().rms_norm_rows(count, x.n, x.row(first), floats(weight), eps, to + first * x.n);
  });
}

void rms_norm_fused_vjp(const VjpContext& c, Tensor* grads) {
  const FloatRows x(c.in[0]), g(c.grad[0]);
  const Tensor weight = dense_weight(c.in[1]);
  const auto eps = static_cast<float>(c.attrs.as<NormAttrs>().eps);
  const Tensor dx = c.want(0) ? Tensor::empty(x.x.sizes()) : Tensor();
  const RowSums sums(c.want(1), x.rows, x.n);
  each_block(x.rows, x.n, [&](int64_t b, int64_t first, int64_t count) {
    cpu::kernels().rms_norm_backward_rows(count, x.n, x.row(first), floats(weight), g.row(first),
                                          eps, dx ? dx.data<float>() + first * x.n : nullptr,
                                          sums.block(b));
  });
  if (c.want(0)) grads[0] = cast(dx, c.in[0].dtype());
  if (c.want(1)) grads[1] = sums.total();
}

/// With r = 1 / sqrt(mean(x^2) + eps), n = x r:  dx = r (gw - n mean(gw n)),  dw = sum(g n).
void rms_norm_vjp(const VjpContext& c, Tensor* grads) {
  if (fused_gradient(c.in[0]) && c.in[0].numel() > 0) return rms_norm_fused_vjp(c, grads);
  const Dtype dtype = c.in[0].dtype(), wide = is_half(dtype) ? Dtype::f32 : dtype;
  const Tensor x = cast(c.in[0], wide), g = cast(c.grad[0], wide);
  const Tensor& weight = c.in[1];
  const Tensor scale = rsqrt(mean(square(x), -1, true) + c.attrs.as<NormAttrs>().eps);
  const Tensor normal = x * scale;
  if (c.want(1)) grads[1] = sum_to(g * normal, weight.sizes());
  if (!c.want(0)) return;
  const Tensor gw = weight.defined() ? g * weight : g;
  grads[0] = cast(scale * (gw - normal * mean(gw * normal, -1, true)), dtype);
}

// --- layer_norm ---------------------------------------------------------------------------------
/// The reference of the float32 kernel.
void layer_norm_rows(int64_t rows, int64_t n, const double* x, const double* weight,
                     const double* bias, double eps, double* y) {
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
    const double scale = 1 / std::sqrt(square / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i)
      y[i] = (x[i] - mean) * scale * (weight ? weight[i] : 1.0) + (bias ? bias[i] : 0.0);
  }
}

void layer_norm_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::layer_norm, in, attrs, out)) return;
  const Tensor x = dense(*in[0]);
  const Tensor weight = in[1]->defined() ? dense(*in[1]) : Tensor();
  const Tensor bias = in[2]->defined() ? dense(*in[2]) : Tensor();
  const double eps = attrs.as<NormAttrs>().eps;
  const int64_t n = x.size(-1), rows = n ? x.numel() / n : 0;
  *out = Tensor::empty(x.sizes(), x.dtype());
  if (x.numel() == 0) return;
  if (x.dtype() == Dtype::f32) {
    float* to = out->data<float>();
    each_block(rows, n, [&](int64_t, int64_t first, int64_t count) {
      cpu::kernels().layer_norm_rows(count, n, x.data<float>() + first * n, floats(weight),
                                     floats(bias), static_cast<float>(eps), to + first * n, nullptr,
                                     nullptr);
    });
  } else {
    layer_norm_rows(rows, n, x.data<double>(), weight ? weight.data<double>() : nullptr,
                    bias ? bias.data<double>() : nullptr, eps, out->data<double>());
  }
}

void layer_norm_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor& x = *in[0];
  const Tensor centered = x - mean(x, -1, true);
  Tensor y = centered * rsqrt(mean(square(centered), -1, true) + attrs.as<NormAttrs>().eps);
  if (in[1]->defined()) y = y * *in[1];
  if (in[2]->defined()) y = y + *in[2];
  *out = y;
}

void layer_norm_fused_vjp(const VjpContext& c, Tensor* grads) {
  const FloatRows x(c.in[0]), g(c.grad[0]);
  const Tensor weight = c.in[1].defined() ? dense(cast(c.in[1], Dtype::f32)) : Tensor();
  const auto eps = static_cast<float>(c.attrs.as<NormAttrs>().eps);
  const Tensor dx = c.want(0) ? Tensor::empty(x.x.sizes()) : Tensor();
  const RowSums dweight(c.want(1), x.rows, x.n), dbias(c.want(2), x.rows, x.n);
  each_block(x.rows, x.n, [&](int64_t b, int64_t first, int64_t count) {
    cpu::kernels().layer_norm_backward_rows(count, x.n, x.row(first), floats(weight), g.row(first),
                                            eps, dx ? dx.data<float>() + first * x.n : nullptr,
                                            dweight.block(b), dbias.block(b));
  });
  const Dtype dtype = c.in[0].dtype();
  if (c.want(0)) grads[0] = cast(dx, dtype);
  if (c.want(1)) grads[1] = cast(dweight.total(), dtype);
  if (c.want(2)) grads[2] = cast(dbias.total(), dtype);
}

/// With n = (x - mean) r:  dx = r (gw - mean(gw) - n mean(gw n)),  dw = sum(g n),  db = sum(g).
void layer_norm_vjp(const VjpContext& c, Tensor* grads) {
  if (fused_gradient(c.in[0]) && c.in[0].numel() > 0) return layer_norm_fused_vjp(c, grads);
  const Tensor &x = c.in[0], &weight = c.in[1], &g = c.grad[0];
  Shape features;
  features.push(x.size(-1));
  if (c.want(2)) grads[2] = sum_to(g, features);
  if (!c.want(0) && !c.want(1)) return;
  const Tensor centered = x - mean(x, -1, true);
  const Tensor scale = rsqrt(mean(square(centered), -1, true) + c.attrs.as<NormAttrs>().eps);
  const Tensor normal = centered * scale;
  if (c.want(1)) grads[1] = sum_to(g * normal, features);
  if (!c.want(0)) return;
  const Tensor gw = weight.defined() ? g * weight : g;
  grads[0] = scale * (gw - mean(gw, -1, true) - normal * mean(gw * normal, -1, true));
}

void check_floats(const char* op, const Tensor& x) {
  BESSEMER_CHECK(x.ndim() > 0, ValueError, "[", op, "] needs at least one dimension");
  BESSEMER_CHECK(dtype_is_float(x.dtype()), TypeError, "[", op, "] needs a floating tensor, got ",
                 dtype_name(x.dtype()));
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  check_floats("rms_norm", x);
  if (weight.defined()) {
    BESSEMER_CHECK(weight.ndim() == 1 && weight.shape()[0] == x.shape()[x.ndim() - 1], ValueError,
                   "[rms_norm] weight ", weight.shape(), " does not fit ", x.shape());
    const Dtype compute = is_half(x.dtype()) ? Dtype::f32 : x.dtype();
    if (weight.dtype() != compute) return rms_norm(x, cast(weight, compute), eps);
  }
  return apply(OpId::rms_norm, Attrs::of(NormAttrs{eps}), x, weight);
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_floats("layer_norm", x);
  const int64_t n = x.size(-1);
  for (const Tensor* part : {&weight, &bias}) {
    if (!part->defined()) continue;
    BESSEMER_CHECK(part->ndim() == 1 && part->shape()[0] == n, ValueError, "[layer_norm] ",
                   part == &weight ? "weight " : "bias ", part->shape(), " does not fit ",
                   x.shape());
    if (part->dtype() != x.dtype())
      return layer_norm(x, weight.defined() ? cast(weight, x.dtype()) : weight,
                        bias.defined() ? cast(bias, x.dtype()) : bias, eps);
  }
  return apply(OpId::layer_norm, Attrs::of(NormAttrs{eps}), x, weight, bias);
}

constexpr OpInfo BESSEMER_ROW(rms_norm) = {
    .name = "rms_norm",
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = rms_norm_vjp,
    .cpu = rms_norm_cpu,
    .decompose = rms_norm_decompose,
    .numpy = "np_rms_norm(x, weight, eps)",
    .samples =
        "[dict(x=R(3, 5), weight=R(5)), dict(x=R(2, 3, 4)), dict(x=R(3, 5), weight=R(5), eps=0.1), "
        "dict(x=R(0, 4), weight=R(4)), dict(x=R(3, 70), weight=R(70)), dict(x=R(16))]"};

constexpr OpInfo BESSEMER_ROW(layer_norm) = {
    .name = "layer_norm",
    .inputs = 3,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = layer_norm_vjp,
    .cpu = layer_norm_cpu,
    .decompose = layer_norm_decompose,
    .numpy = "np_layer_norm(x, weight, bias, eps)",
    .samples =
        "[dict(x=R(3, 5), weight=R(5), bias=R(5)), dict(x=R(2, 3, 4)), dict(x=R(3, 5), "
        "weight=R(5)), "
        "dict(x=R(3, 5), bias=R(5), eps=0.1), dict(x=R(0, 4), weight=R(4)), dict(x=R(3, 70), "
        "weight=R(70))]"};

}  // namespace bessemer
