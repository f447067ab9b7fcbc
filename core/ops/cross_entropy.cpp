// The last layer of a decoder with its loss: log-probability and entropy of tokens from hidden
// states, without the [T, V] logits (Wijmans et al. 2024, "Cut your losses"). Logits, log-softmax
// and their order of sums are those of the rows `linear` and `log_softmax`.
#include "core/ops/family.h"

namespace bessemer {

namespace {

Dtype compute_dtype(const Tensor& x) { return is_half(x.dtype()) ? Dtype::f32 : x.dtype(); }

/// x @ weight.T, at least in float32.
Tensor raw_logits(const Tensor& x, const Tensor& weight) {
  return linear(x, weight, Tensor(), cpu::Activation::none, true);
}

// --- linear_cross_entropy -----------------------------------------------------------------------
void cross_entropy_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  Tensor z = raw_logits(*in[0], *in[1]);
  if (in[3]->defined()) z = z * *in[3];
  const Tensor log_p = log_softmax(z);
  out[0] = squeeze(gather(log_p, 1, unsqueeze(*in[2], 1)), 1);
  out[1] = -sum(exp(log_p) * log_p, -1);
}

void cross_entropy_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  cross_entropy_decompose(in, attrs, out);
}

/// With z = raw * s, l = log_softmax(z), p = exp(l), H = -sum(p l):
///   dz = g_log_prob (onehot - p) - g_entropy p (l + H),  d raw = dz s,  ds = sum(dz raw).
void cross_entropy_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &x = c.in[0], &weight = c.in[1], &targets = c.in[2], &scale = c.in[3];
  const Tensor raw = raw_logits(x, weight);
  const Tensor log_p = log_softmax(scale.defined() ? raw * scale : raw), p = exp(log_p);
  Tensor dz = zeros_like(raw);
  if (c.grad[0].defined()) {
    const Tensor g = unsqueeze(c.grad[0], 1);
    dz = scatter_add(-(p * g), 1, unsqueeze(targets, 1), g);
  }
  if (c.grad[1].defined()) {
    const Tensor entropy = -sum(p * log_p, -1, true);
    dz = dz - unsqueeze(c.grad[1], 1) * p * (log_p + entropy);
  }
  if (c.want(3)) grads[3] = sum(dz * raw);
  if (scale.defined()) dz = dz * scale;
  const Dtype wide = dz.dtype();
  if (c.want(0)) grads[0] = cast(matmul(dz, cast(weight, wide)), x.dtype());
  if (c.want(1)) grads[1] = cast(matmul(transpose(dz), cast(x, wide)), weight.dtype());
}

// --- linear_nll ---------------------------------------------------------------------------------
/// Which gradients the forward pass makes.
struct NllAttrs {
  int32_t x, weight;
};

/// Outputs: dx, dweight (empty where nobody asked), the loss.
void nll_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor &x = *in[0], &weight = *in[1], &targets = *in[2], &token_weights = *in[3];
  const auto [log_prob, entropy] = linear_cross_entropy(x, weight, targets, *in[4]);
  out[2] = -sum(token_weights * log_prob);
  const auto& wanted = attrs.as<NllAttrs>();
  const Tensor g[2] = {-token_weights, Tensor()}, inputs[4] = {x, weight, targets, *in[4]};
  const auto wants = static_cast<uint8_t>(wanted.x | wanted.weight << 1);
  Tensor grads[4];
  if (wants) cross_entropy_vjp({attrs, inputs, nullptr, g, nullptr, wants}, grads);
  out[0] = wanted.x ? grads[0] : Tensor::empty({0}, x.dtype());
  out[1] = wanted.weight ? grads[1] : Tensor::empty({0}, weight.dtype());
}

void nll_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  const auto parts = linear_cross_entropy(*in[0], *in[1], *in[2], *in[4]);
  out[2] = -sum(*in[3] * parts[0]);
}

void nll_vjp(const VjpContext& c, Tensor* grads) {
  BESSEMER_CHECK(!(current_mode & kModeGrad), ValueError,
                 "[linear_nll] its gradients are numbers by now; for second derivatives use "
                 "linear_cross_entropy");
  const Tensor& g = c.grad[2];
  const bool one = g.item() == 1;
  for (int i = 0; i < 2; ++i)
    if (c.want(i)) grads[i] = one ? c.out[i] : c.out[i] * cast(g, c.out[i].dtype());
}

struct Checked {
  Tensor targets, scale;
};
Checked check_inputs(const char* op, const Tensor& x, const Tensor& weight, const Tensor& targets,
                     const Tensor& inverse_temperature) {
  BESSEMER_CHECK(dtype_is_float(x.dtype()) && dtype_is_float(weight.dtype()), TypeError, "[", op,
                 "] needs floating tensors, got ", dtype_name(x.dtype()), " and ",
                 dtype_name(weight.dtype()));
  BESSEMER_CHECK(x.ndim() == 2 && weight.ndim() == 2 && x.size(1) == weight.size(1), ValueError,
                 "[", op, "] x ", x.shape(), " and weight ", weight.shape(),
                 " do not fit, expected [tokens, width] and [vocabulary, width]");
  BESSEMER_CHECK(weight.size(0) > 0, ValueError, "[", op, "] the vocabulary is empty");
  BESSEMER_CHECK(targets.ndim() == 1 && targets.size(0) == x.size(0), ValueError, "[", op,
                 "] targets ", targets.shape(), " do not fit ", x.shape());
  Checked checked{as_index(op, "targets", targets), Tensor()};
  check_tokens(op, checked.targets, weight.size(0));
  if (inverse_temperature.defined()) {
    BESSEMER_CHECK(inverse_temperature.numel() == 1, ValueError, "[", op,
                   "] inverse_temperature has shape ", inverse_temperature.shape(),
                   ", expected one number");
    checked.scale = cast(reshape(inverse_temperature, {}), compute_dtype(x));
  }
  return checked;
}

}  // namespace

TensorPair linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                const Tensor& inverse_temperature) {
  const Checked checked =
      check_inputs("linear_cross_entropy", x, weight, targets, inverse_temperature);
  return apply_many<2>(OpId::linear_cross_entropy, Attrs(), x, weight, checked.targets,
                       checked.scale);
}

Tensor linear_nll(const Tensor& x, const Tensor& weight, const Tensor& targets,
                  const Tensor& token_weights, const Tensor& inverse_temperature) {
  const Checked checked = check_inputs("linear_nll", x, weight, targets, inverse_temperature);
  BESSEMER_CHECK(dtype_is_float(token_weights.dtype()), TypeError,
                 "[linear_nll] token_weights are ", dtype_name(token_weights.dtype()),
                 ", expected a floating dtype");
  BESSEMER_CHECK(token_weights.sizes() == targets.sizes(), ValueError,
                 "[linear_nll] token_weights ", token_weights.shape(), " do not fit targets ",
                 targets.shape());
  const Tensor weights = cast(token_weights, compute_dtype(x));
  const bool grad = current_mode & kModeGrad;
  // What the forward pass does not differentiate.
  if (grad &&
      (weights.requires_grad() || (checked.scale.defined() && checked.scale.requires_grad())))
    return -sum(weights * linear_cross_entropy(x, weight, checked.targets, checked.scale)[0]);
  const NllAttrs attrs{grad && x.requires_grad(), grad && weight.requires_grad()};
  return apply_many<3>(OpId::linear_nll, Attrs::of(attrs), x, weight, checked.targets, weights,
                       checked.scale)[2];
}

constexpr OpInfo BESSEMER_ROW(linear_cross_entropy) = {
    .name = "linear_cross_entropy",
    .inputs = 4,
    .outputs = 2,
    .saves = kSaveIn0 | kSaveIn1 | kSaveIn2 | kSaveIn3,
    .vjp = cross_entropy_vjp,
    .cpu = cross_entropy_cpu,
    .decompose = cross_entropy_decompose,
    .numpy = "np_linear_cross_entropy(x, weight, targets, inverse_temperature)",
    .samples =
        "[dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3)), "
        "dict(x=R(6, 4), weight=R(2, 4), targets=I(2, 6), inverse_temperature=R()), "
        "dict(x=R(37, 5), weight=R(70, 5), targets=I(70, 37), inverse_temperature=R()), "
        "dict(x=R(0, 4), weight=R(5, 4), targets=I(5, 0))]"};
constexpr OpInfo BESSEMER_ROW(linear_nll) = {
    .name = "linear_nll",
    .inputs = 5,
    .outputs = 3,
    .saves = kSaveOut0 | kSaveOut1,
    .vjp = nll_vjp,
    .cpu = nll_cpu,
    .decompose = nll_decompose,
    .numpy = "np_linear_nll(x, weight, targets, token_weights, inverse_temperature)",
    .samples =
        "[dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3), token_weights=U(3)), "
        "dict(x=R(37, 5), weight=R(70, 5), targets=I(70, 37), token_weights=U(37), "
        "inverse_temperature=U()), "
        "dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3), token_weights=R(3), "
        "inverse_temperature=R()), "
        "dict(x=R(0, 4), weight=R(5, 4), targets=I(5, 0), token_weights=U(0))]",
    .differentiable_twice = false};

}  // namespace bessemer
