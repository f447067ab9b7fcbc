// Two-dimensional convolution by unfolding one image at a time into a matrix (im2col) and
// multiplying.
//
// Three rows close under differentiation: the convolution C(x, w), its adjoint in x, X(g, w), and
// its adjoint in w, W(x, g). Each is linear in both arguments, so each one's gradients are the
// other two.
#include <algorithm>
#include <vector>

#include "core/ops/family.h"

namespace bessemer {

namespace {

struct ConvAttrs {
  int64_t stride, padding;
  int64_t height,
      width;  // of x for conv2d_backward_input, of the weight for conv2d_backward_weight
};

/// Sizes of one convolution.
struct Geometry {
  int64_t n, c, h, w, o, kh, kw, oh, ow, stride, padding;
  int64_t patch() const { return c * kh * kw; }
  int64_t pixels() const { return oh * ow; }
};

Geometry geometry(const Shape& x, const Shape& weight, int64_t stride, int64_t padding) {
  Geometry g{x[0], x[1], x[2], x[3], weight[0], weight[2], weight[3], 0, 0, stride, padding};
  g.oh = (g.h + 2 * padding - g.kh) / stride + 1;
  g.ow = (g.w + 2 * padding - g.kw) / stride + 1;
  return g;
}

/// First and last + 1 output column whose input column ow * stride + offset is inside [0, w).
void valid_columns(const Geometry& g, int64_t offset, int64_t* first, int64_t* last) {
  *first = offset >= 0 ? 0 : (-offset + g.stride - 1) / g.stride;
  *last = g.w - 1 - offset < 0 ? 0 : std::min(g.ow, (g.w - 1 - offset) / g.stride + 1);
  *first = std::min(*first, *last);
}

/// column[(c, kh, kw), (oh, ow)] from one image [c, h, w].
template <class T>
void unfold(const Geometry& g, const T* image, T* column) {
  for (int64_t c = 0; c < g.c; ++c)
    for (int64_t i = 0; i < g.kh; ++i)
      for (int64_t j = 0; j < g.kw; ++j) {
        int64_t first, last;
        valid_columns(g, j - g.padding, &first, &last);
        for (int64_t oh = 0; oh < g.oh; ++oh, column += g.ow) {
          const int64_t y = oh * g.stride + i - g.padding;
          if (y < 0 || y >= g.h) {
            std::fill_n(column, g.ow, T{0});
            continue;
          }
          const T* line = image + (c * g.h + y) * g.w + j - g.padding;
          std::fill_n(column, first, T{0});
          for (int64_t ow = first; ow < last; ++ow) column[ow] = line[ow * g.stride];
          std::fill_n(column + last, g.ow - last, T{0});
        }
      }
}

/// The adjoint of unfold: adds every column element to the pixel it came from, in column order.
template <class T>
void fold(const Geometry& g, const T* column, T* image) {
  std::fill_n(image, g.c * g.h * g.w, T{0});
  for (int64_t c = 0; c < g.c; ++c)
    for (int64_t i = 0; i < g.kh; ++i)
      for (int64_t j = 0; j < g.kw; ++j) {
        int64_t first, last;
        valid_columns(g, j - g.padding, &first, &last);
        for (int64_t oh = 0; oh < g.oh; ++oh, column += g.ow) {
          const int64_t y = oh * g.stride + i - g.padding;
          if (y < 0 || y >= g.h) continue;
          T* line = image + (c * g.h + y) * g.w + j - g.padding;
          for (int64_t ow = first; ow < last; ++ow) line[ow * g.stride] += column[ow];
        }
      }
}

/// C[m, n] (+)= A[m, k] · B[k, n], C dense.
void product(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
             const float* b, int64_t b_row, int64_t b_col, float* c, bool accumulate) {
  cpu::Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a = a;
  g.a_row = a_row;
  g.a_col = a_col;
  g.b = b;
  g.b_row = b_row;
  g.b_col = b_col;
  g.c = c;
  g.c_row = n;
  g.accumulate = accumulate;
  cpu::kernels().gemm(g, nullptr);
}
void product(int64_t m, int64_t n, int64_t k, const double* a, int64_t a_row, int64_t a_col,
             const double* b, int64_t b_row, int64_t b_col, double* c, bool accumulate) {
  std::vector<double> before;
  if (accumulate) before.assign(c, c + m * n);
  cpu::kernels().gemm_f64(m, n, k, a, a_row, a_col, b, b_row, b_col, c, n);
  for (size_t i = 0; i < before.size(); ++i) c[i] += before[i];
}

void conv2d_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::conv2d, in, attrs, out)) return;
  const auto& a = attrs.as<ConvAttrs>();
  const Tensor x = dense(*in[0]), weight = dense(*in[1]);
  const Tensor bias = in[2]->defined() ? dense(*in[2]) : Tensor();
  const Geometry g = geometry(x.sizes(), weight.sizes(), a.stride, a.padding);
  *out = Tensor::empty({g.n, g.o, g.oh, g.ow}, x.dtype());
  if (out->numel() == 0) return;
  visit_float("conv2d", x.dtype(), [&]<class T>() {
    const T *px = x.data<T>(), *pw = weight.data<T>(), *pb = bias ? bias.data<T>() : nullptr;
    T* to = out->data<T>();
    cpu::pool().run(g.n, [&](int64_t n) {
      const Tensor column = Tensor::empty({g.patch() * g.pixels()}, x.dtype());
      unfold(g, px + n * g.c * g.h * g.w, column.data<T>());
      T* y = to + n * g.o * g.pixels();
      for (int64_t o = 0; o < g.o; ++o)
        std::fill_n(y + o * g.pixels(), g.pixels(), pb ? pb[o] : T{0});
      product(g.o, g.pixels(), g.patch(), pw, g.patch(), 1, column.data<T>(), g.pixels(), 1, y,
              true);
    });
  });
}

void conv2d_input_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::conv2d_backward_input, in, attrs, out)) return;
  const auto& a = attrs.as<ConvAttrs>();
  const Tensor gradient = dense(*in[0]), weight = dense(*in[1]);
  const Shape shape{gradient.size(0), weight.size(1), a.height, a.width};
  const Geometry g = geometry(shape, weight.sizes(), a.stride, a.padding);
  *out = Tensor::empty(shape, gradient.dtype());
  if (out->numel() == 0) return;
  visit_float("conv2d_backward_input", gradient.dtype(), [&]<class T>() {
    const T *pg = gradient.data<T>(), *pw = weight.data<T>();
    T* to = out->data<T>();
    cpu::pool().run(g.n, [&](int64_t n) {
      const Tensor column = Tensor::zeros({g.patch() * g.pixels()}, gradient.dtype());
      product(g.patch(), g.pixels(), g.o, pw, 1, g.patch(), pg + n * g.o * g.pixels(), g.pixels(),
              1, column.data<T>(), false);
      fold(g, column.data<T>(), to + n * g.c * g.h * g.w);
    });
  });
}

/// Images are added in order, so the sum does not depend on threads.
void conv2d_weight_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::conv2d_backward_weight, in, attrs, out)) return;
  const auto& a = attrs.as<ConvAttrs>();
  const Tensor x = dense(*in[0]), gradient = dense(*in[1]);
  const Shape shape{gradient.size(1), x.size(1), a.height, a.width};
  const Geometry g = geometry(x.sizes(), shape, a.stride, a.padding);
  *out = Tensor::zeros(shape, x.dtype());
  if (out->numel() == 0 || g.pixels() == 0) return;
  visit_float("conv2d_backward_weight", x.dtype(), [&]<class T>() {
    const T *px = x.data<T>(), *pg = gradient.data<T>();
    const Tensor column = Tensor::empty({g.patch() * g.pixels()}, x.dtype());
    for (int64_t n = 0; n < g.n; ++n) {
      unfold(g, px + n * g.c * g.h * g.w, column.data<T>());
      product(g.o, g.patch(), g.pixels(), pg + n * g.o * g.pixels(), g.pixels(), 1,
              column.data<T>(), 1, g.pixels(), out->data<T>(), true);
    }
  });
}

void conv2d_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<ConvAttrs>();
  const Tensor &x = c.in[0], &weight = c.in[1], &g = c.grad[0];
  if (c.want(0))
    grads[0] = conv2d_backward_input(g, weight, x.size(2), x.size(3), a.stride, a.padding);
  if (c.want(1))
    grads[1] = conv2d_backward_weight(x, g, weight.size(2), weight.size(3), a.stride, a.padding);
  if (c.want(2)) grads[2] = sum(g, {0, 2, 3});
}

void conv2d_input_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<ConvAttrs>();
  const Tensor &g = c.in[0], &weight = c.in[1], &h = c.grad[0];
  if (c.want(0)) grads[0] = conv2d(h, weight, {}, a.stride, a.padding);
  if (c.want(1))
    grads[1] = conv2d_backward_weight(h, g, weight.size(2), weight.size(3), a.stride, a.padding);
}

void conv2d_weight_vjp(const VjpContext& c, Tensor* grads) {
  const auto& a = c.attrs.as<ConvAttrs>();
  const Tensor &x = c.in[0], &g = c.in[1], &h = c.grad[0];
  if (c.want(0)) grads[0] = conv2d_backward_input(g, h, x.size(2), x.size(3), a.stride, a.padding);
  if (c.want(1)) grads[1] = conv2d(x, h, {}, a.stride, a.padding);
}

void check_conv(const char* op, const Shape& x, const Shape& weight, int64_t stride,
                int64_t padding) {
  BESSEMER_CHECK(x.ndim == 4 && weight.ndim == 4, ValueError, "[", op,
                 "] expected [N, C, H, W] and ", "[O, C, KH, KW], got ", x.dims(), " and ",
                 weight.dims());
  BESSEMER_CHECK(x[1] == weight[1], ValueError, "[", op, "] channels differ: ", x.dims(),
                 " and weight ", weight.dims());
  BESSEMER_CHECK(stride > 0 && padding >= 0, ValueError, "[", op, "] stride ", stride, ", padding ",
                 padding);
  BESSEMER_CHECK(weight[2] > 0 && weight[3] > 0 && x[2] + 2 * padding >= weight[2] &&
                     x[3] + 2 * padding >= weight[3],
                 ValueError, "[", op, "] the weight ", weight.dims(),
                 " is larger than the padded input ", x.dims());
}

/// The gradient of a convolution's output must have the output's shape.
void check_gradient(const char* op, const Tensor& g, const Shape& x, const Shape& weight,
                    const ConvAttrs& a) {
  check_conv(op, x, weight, a.stride, a.padding);
  const Geometry s = geometry(x, weight, a.stride, a.padding);
  BESSEMER_CHECK((g.sizes() == Shape{s.n, s.o, s.oh, s.ow}), ValueError, "[", op,
                 "] the gradient has shape ", g.shape(), ", expected ",
                 Shape({s.n, s.o, s.oh, s.ow}).dims());
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t stride,
              int64_t padding) {
  check_conv("conv2d", x.sizes(), weight.sizes(), stride, padding);
  BESSEMER_CHECK(!bias.defined() || (bias.ndim() == 1 && bias.shape()[0] == weight.shape()[0]),
                 ValueError, "[conv2d] bias ", bias.shape(), " does not fit weight ",
                 weight.shape());
  BESSEMER_CHECK(dtype_is_float(weight.dtype()), TypeError, "[conv2d] the weight is ",
                 dtype_name(weight.dtype()), ", expected a floating dtype");
  if (x.dtype() != weight.dtype())
    return conv2d(cast(x, weight.dtype()), weight, bias, stride, padding);
  if (bias.defined() && bias.dtype() != weight.dtype())
    return conv2d(x, weight, cast(bias, weight.dtype()), stride, padding);
  return apply(OpId::conv2d, Attrs::of(ConvAttrs{stride, padding, 0, 0}), x, weight, bias);
}

Tensor conv2d_backward_input(const Tensor& g, const Tensor& weight, int64_t height, int64_t width,
                             int64_t stride, int64_t padding) {
  BESSEMER_CHECK(g.ndim() == 4 && weight.ndim() == 4, ValueError, "[conv2d_backward_input] got ",
                 g.shape(), " and ", weight.shape());
  const ConvAttrs attrs{stride, padding, height, width};
  check_gradient("conv2d_backward_input", g, {g.size(0), weight.size(1), height, width},
                 weight.sizes(), attrs);
  return apply(OpId::conv2d_backward_input, Attrs::of(attrs), g, weight);
}

Tensor conv2d_backward_weight(const Tensor& x, const Tensor& g, int64_t height, int64_t width,
                              int64_t stride, int64_t padding) {
  BESSEMER_CHECK(x.ndim() == 4 && g.ndim() == 4, ValueError, "[conv2d_backward_weight] got ",
                 x.shape(), " and ", g.shape());
  const ConvAttrs attrs{stride, padding, height, width};
  check_gradient("conv2d_backward_weight", g, x.sizes(), {g.size(1), x.size(1), height, width},
                 attrs);
  return apply(OpId::conv2d_backward_weight, Attrs::of(attrs), x, g);
}

constexpr OpInfo BESSEMER_ROW(conv2d) = {
    .name = "conv2d",
    .kind = Kind::contraction,
    .inputs = 3,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = conv2d_vjp,
    .cpu = conv2d_cpu,
    .numpy = "np_conv2d(x, weight, bias, stride, padding)",
    .samples =
        "[dict(x=R(2, 3, 5, 6), weight=R(4, 3, 3, 2), bias=R(4)), "
        "dict(x=R(2, 2, 7, 5), weight=R(3, 2, 3, 3), stride=2, padding=1), "
        "dict(x=R(1, 1, 4, 4), weight=R(1, 1, 4, 4)), "
        "dict(x=R(1, 2, 2, 2), weight=R(2, 2, 1, 5), bias=R(2), stride=3, padding=2), "
        "dict(x=R(0, 2, 4, 4), weight=R(3, 2, 3, 3))]"};
constexpr OpInfo BESSEMER_ROW(conv2d_backward_input) = {
    .name = "conv2d_backward_input",
    .kind = Kind::contraction,
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = conv2d_input_vjp,
    .cpu = conv2d_input_cpu,
    .numpy = "np_conv2d_backward_input(g, weight, height, width, stride, padding)",
    .samples =
        "[dict(g=R(2, 4, 3, 5), weight=R(4, 3, 3, 2), height=5, width=6), "
        "dict(g=R(2, 3, 4, 3), weight=R(3, 2, 3, 3), height=7, width=5, stride=2, padding=1)]"};
constexpr OpInfo BESSEMER_ROW(conv2d_backward_weight) = {
    .name = "conv2d_backward_weight",
    .kind = Kind::contraction,
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = conv2d_weight_vjp,
    .cpu = conv2d_weight_cpu,
    .numpy = "np_conv2d_backward_weight(x, g, height, width, stride, padding)",
    .samples =
        "[dict(x=R(2, 3, 5, 6), g=R(2, 4, 3, 5), height=3, width=2), "
        "dict(x=R(2, 2, 7, 5), g=R(2, 3, 4, 3), height=3, width=3, stride=2, padding=1)]"};

}  // namespace bessemer
