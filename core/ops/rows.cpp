// Fused rows over the last dimension: softmax, log_softmax. Each carries its decomposition.
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
}  // namespace bessemer
