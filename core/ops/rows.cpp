// Fused rows over the last dimension: softmax, log_softmax, layer_norm. Each carries its
// decomposition.
#include <cmath>

#include "core/ops/family.h"

namespace bessemer {

namespace {

/// Last dimension and how many rows of it there are.
struct Rows {
  int64_t rows, n;
  explicit Rows(const Tensor& x) : rows(0), n(x.ndim() ? x.shape()[x.ndim() - 1] : 1) {
    rows = n ? x.numel() / n : 0;
  }
};

// --- float64 loops: the reference of the float32 kernels ----------------------------------------
double row_max(const double* x, int64_t n) {
  double best = x[0];
  for (int64_t i = 1; i < n; ++i) best = x[i] > best || x[i] != x[i] ? x[i] : best;
  return best;
}
void softmax_rows(int64_t rows, int64_t n, const double* x, double* y) {
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    const double top = row_max(x, n);
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += y[i] = std::exp(x[i] - top);
    for (int64_t i = 0; i < n; ++i) y[i] /= total;
  }
}
void log_softmax_rows(int64_t rows, int64_t n, const double* x, double* y) {
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    const double top = row_max(x, n);
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += std::exp(x[i] - top);
    const double shift = top + std::log(total);
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] - shift;
  }
}
void softmax_backward_rows(int64_t rows, int64_t n, const double* y, const double* g, double* dx) {
  for (int64_t r = 0; r < rows; ++r, y += n, g += n, dx += n) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += g[i] * y[i];
    for (int64_t i = 0; i < n; ++i) dx[i] = y[i] * (g[i] - total);
  }
}
void log_softmax_backward_rows(int64_t rows, int64_t n, const double* y, const double* g,
                               double* dx) {
  for (int64_t r = 0; r < rows; ++r, y += n, g += n, dx += n) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) total += g[i];
    for (int64_t i = 0; i < n; ++i) dx[i] = g[i] - std::exp(y[i]) * total;
  }
}
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

// --- softmax, log_softmax -----------------------------------------------------------------------
using Rows32 = void (*)(int64_t, int64_t, const float*, float*);
using Rows64 = void (*)(int64_t, int64_t, const double*, double*);
using Backward32 = void (*)(int64_t, int64_t, const float*, const float*, float*);
using Backward64 = void (*)(int64_t, int64_t, const double*, const double*, double*);

void run_rows(OpId id, const Tensor* const* in, const Attrs& attrs, Tensor* out, Rows32 f32,
              Rows64 f64) {
  if (widen_half(id, in, attrs, out)) return;
  const Tensor x = dense(*in[0]);
  const Rows r(x);
  *out = Tensor::empty(x.sizes(), x.dtype());
  if (x.numel() == 0) return;
  if (x.dtype() == Dtype::f32) {
    f32(r.rows, r.n, x.data<float>(), out->data<float>());
  } else {
    f64(r.rows, r.n, x.data<double>(), out->data<double>());
  }
}
void run_backward(OpId id, const Tensor* const* in, const Attrs& attrs, Tensor* out, Backward32 f32,
                  Backward64 f64) {
  if (widen_half(id, in, attrs, out)) return;
  const Tensor y = dense(*in[0]), g = dense(*in[1]);
  const Rows r(y);
  *out = Tensor::empty(y.sizes(), y.dtype());
  if (y.numel() == 0) return;
  if (y.dtype() == Dtype::f32) {
    f32(r.rows, r.n, y.data<float>(), g.data<float>(), out->data<float>());
  } else {
    f64(r.rows, r.n, y.data<double>(), g.data<double>(), out->data<double>());
  }
}

void softmax_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  run_rows(OpId::softmax, in, attrs, out, cpu::kernels().softmax_rows, softmax_rows);
}
void log_softmax_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  run_rows(OpId::log_softmax, in, attrs, out, cpu::kernels().log_softmax_rows, log_softmax_rows);
}
void softmax_backward_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  run_backward(OpId::softmax_backward, in, attrs, out, cpu::kernels().softmax_backward_rows,
               softmax_backward_rows);
}
void log_softmax_backward_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  run_backward(OpId::log_softmax_backward, in, attrs, out, cpu::kernels().log_softmax_backward_rows,
               log_softmax_backward_rows);
}

void softmax_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  const Tensor& x = *in[0];
  const Tensor e = exp(x - amax(x, -1, true).detach());
  *out = e / sum(e, -1, true);
}
void log_softmax_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  *out = *in[0] - logsumexp(*in[0], -1, true);
}

void softmax_vjp(const VjpContext& c, Tensor* grads) {
  grads[0] = softmax_backward(c.out[0], c.grad[0]);
}
void log_softmax_vjp(const VjpContext& c, Tensor* grads) {
  grads[0] = log_softmax_backward(c.out[0], c.grad[0]);
}
/// dx = y (g - sum(g y)); symmetric in g, so its adjoint in g is itself.
void softmax_backward_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &y = c.in[0], &g = c.in[1], &h = c.grad[0];
  if (c.want(0)) grads[0] = h * (g - sum(g * y, -1, true)) - g * sum(h * y, -1, true);
  if (c.want(1)) grads[1] = softmax_backward(y, h);
}
/// dx = g - exp(y) sum(g).
void log_softmax_backward_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &y = c.in[0], &g = c.in[1], &h = c.grad[0];
  const Tensor he = h * exp(y);
  if (c.want(0)) grads[0] = -he * sum(g, -1, true);
  if (c.want(1)) grads[1] = h - sum(he, -1, true);
}

void check_rows(const char* op, const Tensor& x) {
  BESSEMER_CHECK(x.ndim() > 0, ValueError, "[", op, "] needs at least one dimension");
  BESSEMER_CHECK(dtype_is_float(x.dtype()), TypeError, "[", op, "] needs a floating tensor, got ",
                 dtype_name(x.dtype()));
}
void check_pair(const char* op, const Tensor& y, const Tensor& g) {
  check_rows(op, y);
  BESSEMER_CHECK(y.sizes() == g.sizes() && y.dtype() == g.dtype(), ValueError, "[", op, "] y ",
                 y.shape(), " and g ", g.shape(), " differ");
}

// --- layer_norm ---------------------------------------------------------------------------------
struct NormAttrs {
  double eps;
};

void layer_norm_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::layer_norm, in, attrs, out)) return;
  const Tensor x = dense(*in[0]);
  const Tensor weight = in[1]->defined() ? dense(*in[1]) : Tensor();
  const Tensor bias = in[2]->defined() ? dense(*in[2]) : Tensor();
  const double eps = attrs.as<NormAttrs>().eps;
  const Rows r(x);
  *out = Tensor::empty(x.sizes(), x.dtype());
  if (x.numel() == 0) return;
  if (x.dtype() == Dtype::f32) {
    cpu::kernels().layer_norm_rows(r.rows, r.n, x.data<float>(),
                                   weight ? weight.data<float>() : nullptr,
                                   bias ? bias.data<float>() : nullptr, static_cast<float>(eps),
                                   out->data<float>(), nullptr, nullptr);
  } else {
    layer_norm_rows(r.rows, r.n, x.data<double>(), weight ? weight.data<double>() : nullptr,
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

/// With n = (x - mean) r:  dx = r (gw - mean(gw) - n mean(gw n)),  dw = sum(g n),  db = sum(g).
void layer_norm_vjp(const VjpContext& c, Tensor* grads) {
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

}  // namespace

Tensor softmax(const Tensor& x) {
  check_rows("softmax", x);
  return apply(OpId::softmax, Attrs(), x);
}
Tensor log_softmax(const Tensor& x) {
  check_rows("log_softmax", x);
  return apply(OpId::log_softmax, Attrs(), x);
}
Tensor softmax_backward(const Tensor& y, const Tensor& g) {
  check_pair("softmax_backward", y, g);
  return apply(OpId::softmax_backward, Attrs(), y, g);
}
Tensor log_softmax_backward(const Tensor& y, const Tensor& g) {
  check_pair("log_softmax_backward", y, g);
  return apply(OpId::log_softmax_backward, Attrs(), y, g);
}

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  check_rows("layer_norm", x);
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

#define BESSEMER_ROW_SAMPLES                                                               \
  "[dict(x=R(5)), dict(x=R(3, 4)), dict(x=R(2, 3, 2)), dict(x=R(0, 3)), dict(x=R(3, 0)), " \
  "dict(x=R(4, 37))]"
#define BESSEMER_PAIR_SAMPLES \
  "[dict(y=R(5), g=R(5)), dict(y=R(3, 4), g=R(3, 4)), dict(y=R(0, 3), g=R(0, 3))]"

constexpr OpInfo BESSEMER_ROW(softmax) = {.name = "softmax",
                                          .saves = kSaveOut0,
                                          .vjp = softmax_vjp,
                                          .cpu = softmax_cpu,
                                          .decompose = softmax_decompose,
                                          .numpy = "np.exp(np_log_softmax(x))",
                                          .samples = BESSEMER_ROW_SAMPLES};
constexpr OpInfo BESSEMER_ROW(log_softmax) = {.name = "log_softmax",
                                              .saves = kSaveOut0,
                                              .vjp = log_softmax_vjp,
                                              .cpu = log_softmax_cpu,
                                              .decompose = log_softmax_decompose,
                                              .numpy = "np_log_softmax(x)",
                                              .samples = BESSEMER_ROW_SAMPLES};
constexpr OpInfo BESSEMER_ROW(softmax_backward) = {
    .name = "softmax_backward",
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = softmax_backward_vjp,
    .cpu = softmax_backward_cpu,
    .numpy = "y * (g - np.sum(g * y, axis=-1, keepdims=True))",
    .samples = BESSEMER_PAIR_SAMPLES};
constexpr OpInfo BESSEMER_ROW(log_softmax_backward) = {
    .name = "log_softmax_backward",
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = log_softmax_backward_vjp,
    .cpu = log_softmax_backward_cpu,
    .numpy = "g - np.exp(y) * np.sum(g, axis=-1, keepdims=True)",
    .samples = BESSEMER_PAIR_SAMPLES};
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
