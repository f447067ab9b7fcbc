// A linear layer with its bias and activation, and the gradient of activations from their outputs.
#include "core/ops/family.h"
#include "core/ops/product.h"

namespace bessemer {

namespace {

// --- linear -------------------------------------------------------------------------------------
struct LinearAttrs {
  cpu::Activation activation;
  int32_t widen = 0;
};

Tensor activate(const Tensor& z, cpu::Activation activation) {
  switch (activation) {
    case cpu::Activation::none:
      return z;
    case cpu::Activation::relu:
      return relu(z);
    case cpu::Activation::tanh:
      return tanh(z);
    case cpu::Activation::sigmoid:
      return sigmoid(z);
    case cpu::Activation::silu:
      return silu(z);
    case cpu::Activation::gelu:
      return gelu(z);
  }
  return z;
}

void linear_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const auto& linear = attrs.as<LinearAttrs>();
  const bool half = in[0]->dtype() == Dtype::bf16, row = in[0]->ndim() == 1;
  Tensor x = row ? unsqueeze(*in[0], 0) : *in[0], weight = *in[1];
  if (half) {
    weight = cast(cast(weight, Dtype::bf16), Dtype::f32);
    x = cast(x, Dtype::f32);
  }
  Tensor z = matmul(x, transpose(cast(weight, x.dtype())));
  if (row) z = squeeze(z, 0);
  if (in[2]->defined()) z = z + *in[2];
  *out = activate(z, linear.activation);
  if (half && !linear.widen) *out = cast(*out, Dtype::bf16);
}

void linear_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor& weight = *in[1];
  const auto& linear = attrs.as<LinearAttrs>();
  if (in[0]->dtype() != Dtype::f32 && in[0]->dtype() != Dtype::bf16) {
    NoGrad guard;
    return linear_decompose(in, attrs, out);
  }
  const int last = in[0]->ndim() - 1;
  Shape shape = in[0]->sizes();
  shape.dim[last] = weight.shape()[0];
  const bool narrow = in[0]->dtype() == Dtype::bf16 && !linear.widen;
  *out = Tensor::empty(shape, narrow && shape.numel() == 0 ? Dtype::bf16 : Dtype::f32);
  if (out->numel() == 0) return;
  cpu::Gemm g;
  g.n = weight.shape()[0];
  g.k = weight.shape()[1];
  g.m = out->numel() / g.n;
  // Two dimensions are read through their strides; more are rows of one contiguous block.
  const Tensor x = last <= 1 ? *in[0] : dense(*in[0]);
  Operands held;
  const Factors factors = forward_operands(x, last == 1 ? x.strides()[0] : g.k, x.strides()[last],
                                           weight, true, g, held);
  g.c = static_cast<float*>(out->raw());
  g.c_row = g.n;
  Tensor bias;
  if (in[2]->defined()) {
    bias = dense(*in[2]);
    g.bias = static_cast<const float*>(bias.raw());
  }
  g.activation = linear.activation;
  run_product(g, factors);
  if (narrow) {
    NoGrad guard;
    *out = cast(*out, Dtype::bf16);
  }
}

/// Rows in [rows, width]; bfloat16 or float32.
ProductRows product_rows(const Tensor& x, int64_t width) {
  return {x.raw(), x.dtype(), width ? x.numel() / width : 0, width, width};
}

/// A bfloat16 x: products of bfloat16 with float32 sums; the weight's gradient is not rounded to
/// bfloat16 where the weight is not.
void linear_half_vjp(const VjpContext& c, const Tensor& g, Tensor* grads) {
  const Tensor &x = c.in[0], &weight = c.in[1];
  const Tensor dense_g = dense(g), dense_x = dense(x);
  const ProductRows rows = product_rows(dense_g, weight.size(0));
  const ProductRows inputs = product_rows(dense_x, weight.size(1));
  if (c.want(0)) {
    const Tensor dx = Tensor::empty(x.sizes());
    product_input(rows, weight, true, dx.data<float>());
    grads[0] = cast(dx, x.dtype());
  }
  if (c.want(1)) {
    const Tensor dweight =
        rows.count ? Tensor::empty(weight.sizes()) : Tensor::zeros(weight.sizes());
    if (rows.count) product_weight(rows, inputs, true, dweight.data<float>(), false);
    grads[1] = cast(dweight, weight.dtype());
  }
  if (c.want(2)) grads[2] = sum(reshape(cast(g, Dtype::f32), {rows.count, rows.width}), 0);
}

void linear_vjp(const VjpContext& c, Tensor* grads) {
  const cpu::Activation activation = c.attrs.as<LinearAttrs>().activation;
  const Dtype x_dtype = c.in[0].dtype(), weight_dtype = c.in[1].dtype();
  Tensor x = c.in[0], weight = c.in[1], g = c.grad[0];
  if (activation != cpu::Activation::none) g = activation_backward(c.out[0], g, activation);
  if (x_dtype == Dtype::bf16) {
    if (!(current_mode & kModeGrad)) return linear_half_vjp(c, g, grads);
    x = cast(x, Dtype::f32);
    weight = cast(cast(weight, Dtype::bf16), Dtype::f32);
    g = cast(g, Dtype::f32);
  }
  weight = cast(weight, x.dtype());
  const int64_t out = weight.size(0);
  const Tensor rows = g.ndim() == 2 ? g : reshape(g, {out ? g.numel() / out : 0, out});
  if (c.want(0)) {
    Tensor dx = matmul(rows, weight);
    grads[0] = x.ndim() == 2 ? dx : reshape(dx, x.sizes());
    grads[0] = cast(grads[0], x_dtype);
  }
  if (c.want(1)) {
    grads[1] =
        matmul(transpose(rows), x.ndim() == 2 ? x : reshape(x, {rows.size(0), weight.size(1)}));
    grads[1] = cast(grads[1], weight_dtype);
  }
  if (c.want(2)) grads[2] = sum(rows, 0);
}

// --- activation_backward ------------------------------------------------------------------------
void activation_backward_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::activation_backward, in, attrs, out)) return;
  const auto activation = attrs.as<LinearAttrs>().activation;
  const Tensor y = dense(*in[0]), g = dense(*in[1]);
  *out = Tensor::empty(y.sizes(), y.dtype());
  if (y.dtype() == Dtype::f32) {
    cpu::kernels().activation_backward(activation, y.numel(), y.data<float>(), g.data<float>(),
                                       out->data<float>());
    return;
  }
  const double *py = y.data<double>(), *pg = g.data<double>();
  double* to = out->data<double>();
  for (int64_t i = 0; i < y.numel(); ++i) {
    const double slope = activation == cpu::Activation::relu   ? (py[i] > 0 ? 1.0 : 0.0)
                         : activation == cpu::Activation::tanh ? 1.0 - py[i] * py[i]
                                                               : py[i] * (1.0 - py[i]);
    to[i] = pg[i] * slope;
  }
}

void activation_backward_vjp(const VjpContext& c, Tensor* grads) {
  const auto activation = c.attrs.as<LinearAttrs>().activation;
  const Tensor &y = c.in[0], &g = c.in[1], &h = c.grad[0];
  if (c.want(1)) grads[1] = activation_backward(y, h, activation);
  if (!c.want(0)) return;
  switch (activation) {
    case cpu::Activation::tanh:
      grads[0] = h * g * y * -2.0;
      break;
    case cpu::Activation::sigmoid:
      grads[0] = h * g * (1.0 - 2.0 * y);
      break;
    default:
      grads[0] = zeros_like(y);
  }
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, cpu::Activation activation,
              bool widen) {
  BESSEMER_CHECK(weight.ndim() == 2, ValueError, "[linear] the weight has shape ", weight.shape(),
                 ", expected [out, in]");
  BESSEMER_CHECK(x.ndim() > 0 && x.shape()[x.ndim() - 1] == weight.shape()[1], ValueError,
                 "[linear] inner sizes differ: ", x.shape(), " x ", weight.shape(), " transposed");
  BESSEMER_CHECK(!bias.defined() || (bias.ndim() == 1 && bias.shape()[0] == weight.shape()[0]),
                 ValueError, "[linear] bias ", bias.shape(), " does not fit weight ",
                 weight.shape());
  BESSEMER_CHECK(dtype_is_float(weight.dtype()), TypeError, "[linear] the weight is ",
                 dtype_name(weight.dtype()), ", expected a floating dtype");
  const bool half =
      x.dtype() == Dtype::bf16 && (weight.dtype() == Dtype::bf16 || weight.dtype() == Dtype::f32);
  // A float32 x widens a bfloat16 weight as it is read.
  const bool loads = half || (x.dtype() == Dtype::f32 && weight.dtype() == Dtype::bf16);
  if (!loads && x.dtype() != weight.dtype()) {
    if (dtype_is_float(x.dtype()) && is_half(weight.dtype()))
      return linear(x, cast(weight, x.dtype()), bias, activation, widen);
    return linear(cast(x, weight.dtype()), weight, bias, activation, widen);
  }
  const Dtype sums = half ? Dtype::f32 : x.dtype();
  if (bias.defined() && bias.dtype() != sums)
    return linear(x, weight, cast(bias, sums), activation, widen);
  if (widen && !half && is_half(x.dtype()))
    return linear(cast(x, Dtype::f32), cast(weight, Dtype::f32), bias, activation);
  // These two slopes need the input of the activation: while gradients are recorded they run as
  // rows of their own, which save it. The values are the same.
  if ((activation == cpu::Activation::silu || activation == cpu::Activation::gelu) &&
      (current_mode & kModeGrad) &&
      (x.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad())))
    return activate(linear(x, weight, bias, cpu::Activation::none, widen), activation);
  return apply(OpId::linear, Attrs::of(LinearAttrs{activation, half && widen}), x, weight, bias);
}

Tensor activation_backward(const Tensor& y, const Tensor& g, cpu::Activation activation) {
  BESSEMER_CHECK(activation == cpu::Activation::relu || activation == cpu::Activation::tanh ||
                     activation == cpu::Activation::sigmoid,
                 ValueError, "[activation_backward] needs relu, tanh or sigmoid");
  BESSEMER_CHECK(dtype_is_float(y.dtype()), TypeError, "[activation_backward] y is ",
                 dtype_name(y.dtype()), ", expected a floating dtype");
  BESSEMER_CHECK(y.sizes() == g.sizes() && y.dtype() == g.dtype(), ValueError,
                 "[activation_backward] y ", y.shape(), " and g ", g.shape(), " differ");
  return apply(OpId::activation_backward, Attrs::of(LinearAttrs{activation}), y, g);
}

constexpr OpInfo BESSEMER_ROW(linear) = {
    .name = "linear",
    .kind = Kind::contraction,
    .inputs = 3,
    .saves = kSaveIn0 | kSaveIn1 | kSaveOut0,
    .vjp = linear_vjp,
    .cpu = linear_cpu,
    .decompose = linear_decompose,
    .numpy = "np_linear(x, weight, bias, activation)",
    .samples =
        "[dict(x=R(3, 4), weight=R(5, 4), bias=R(5)), dict(x=R(3, 4), weight=R(5, 4)), "
        "dict(x=R(4), weight=R(5, 4), bias=R(5), activation='tanh'), "
        "dict(x=R(2, 3, 4), weight=R(5, 4), bias=R(5), activation='sigmoid'), "
        "dict(x=R(3, 4), weight=R(5, 4), bias=R(5), activation='relu'), "
        "dict(x=R(3, 4), weight=R(5, 4), bias=R(5), activation='silu'), "
        "dict(x=R(3, 4), weight=R(5, 4), activation='gelu'), dict(x=R(0, 4), weight=R(5, 4)), "
        "dict(x=R(19, 40), weight=R(70, 40), bias=R(70), activation='tanh'), "
        "dict(x=R(3, 4), weight=R(5, 4), widen=True)]"};
constexpr OpInfo BESSEMER_ROW(activation_backward) = {
    .name = "activation_backward",
    .kind = Kind::fused,
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = activation_backward_vjp,
    .cpu = activation_backward_cpu,
    .numpy = "np_activation_backward(y, g, activation)",
    .samples =
        "[dict(y=R(3, 4), g=R(3, 4), activation='tanh'), dict(y=R(3, 4), g=R(3, 4), "
        "activation='sigmoid'), dict(y=R(3, 4), g=R(3, 4), activation='relu')]",
    .domain = "(0.05, 0.95)"};

}  // namespace bessemer
