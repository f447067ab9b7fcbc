// Normalisation over the last dimension. Each row carries its decomposition.
#include "core/ops/family.h"

namespace bessemer {

namespace {

struct NormAttrs {
  double eps;
};

// --- rms_norm: Zhang & Sennrich 2019 ------------------------------------------------------------
void rms_norm_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor& x = *in[0];
  *out = x * rsqrt(mean(square(x), -1, true) + attrs.as<NormAttrs>().eps);
  if (in[1]->defined()) *out = *out * *in[1];
}

void rms_norm_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::rms_norm, in, attrs, out)) return;
  NoGrad guard;
  rms_norm_decompose(in, attrs, out);
}

/// With r = 1 / sqrt(mean(x^2) + eps), n = x r:  dx = r (gw - n mean(gw n)),  dw = sum(g n).
void rms_norm_vjp(const VjpContext& c, Tensor* grads) {
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

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  BESSEMER_CHECK(x.ndim() > 0, ValueError, "[rms_norm] needs at least one dimension");
  BESSEMER_CHECK(dtype_is_float(x.dtype()), TypeError, "[rms_norm] needs a floating tensor, got ",
                 dtype_name(x.dtype()));
  if (weight.defined()) {
    BESSEMER_CHECK(weight.ndim() == 1 && weight.shape()[0] == x.shape()[x.ndim() - 1], ValueError,
                   "[rms_norm] weight ", weight.shape(), " does not fit ", x.shape());
    const Dtype compute = is_half(x.dtype()) ? Dtype::f32 : x.dtype();
    if (weight.dtype() != compute) return rms_norm(x, cast(weight, compute), eps);
  }
  return apply(OpId::rms_norm, Attrs::of(NormAttrs{eps}), x, weight);
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

}  // namespace bessemer
