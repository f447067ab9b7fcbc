// Products: matmul (strided, batched) and linear (a layer with its bias and activation).
//
// Operands are read in place through their strides. Every element follows the canonical order of
// cpu::Gemm, so one row and a thousand rows give the same bits, and so does any batch.
#include <cstdlib>
#include <mutex>

#include "core/ops/family.h"
#include "core/ops/product.h"

namespace bessemer {

namespace {

constexpr int64_t kParallelFlops = 1 << 20;  // below this a product stays on one thread

/// Batches that are multiplied as one: C[m, n] = A[m, k] · B[k, n] with element strides.
struct Product {
  int64_t m, n, k;
  int64_t a_row, a_col, b_row, b_col;
};

void multiply(const Product& p, const float* a, const float* b, float* c, ThreadPool* pool) {
  cpu::Gemm g;
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  g.a = a;
  g.a_row = p.a_row;
  g.a_col = p.a_col;
  g.b = b;
  g.b_row = p.b_row;
  g.b_col = p.b_col;
  g.c = c;
  g.c_row = p.n;
  cpu::kernels().gemm(g, pool);
}
void multiply(const Product& p, const double* a, const double* b, double* c, ThreadPool*) {
  cpu::kernels().gemm_f64(p.m, p.n, p.k, a, p.a_row, p.a_col, b, p.b_row, p.b_col, c, p.n);
}
template <class T>
void multiply(const Product& p, const T* a, const T* b, T* c, ThreadPool*) {
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < p.n; ++j) {
      T total = 0;
      for (int64_t l = 0; l < p.k; ++l)
        total = static_cast<T>(total + a[i * p.a_row + l * p.a_col] * b[l * p.b_row + j * p.b_col]);
      c[i * p.n + j] = total;
    }
}

// --- matmul -------------------------------------------------------------------------------------
/// Leading dimensions of both operands, broadcast, with the strides that walk them.
struct Batches {
  Shape shape;
  int64_t a[kMaxDims], b[kMaxDims];
};

Batches broadcast_batches(const Tensor& a, const Tensor& b) {
  const int na = a.ndim() - 2, nb = b.ndim() - 2;
  Batches out;
  out.shape.ndim = na > nb ? na : nb;
  for (int i = 0; i < out.shape.ndim; ++i) {
    const int ia = i - (out.shape.ndim - na), ib = i - (out.shape.ndim - nb);
    const int64_t da = ia < 0 ? 1 : a.shape()[ia], db = ib < 0 ? 1 : b.shape()[ib];
    BESSEMER_CHECK(da == db || da == 1 || db == 1, ValueError,
                   "[matmul] leading sizes do not broadcast: ", a.shape(), " x ", b.shape());
    out.shape.dim[i] = da == 1 ? db : da;
    out.a[i] = ia < 0 || da != out.shape.dim[i] ? 0 : a.strides()[ia];
    out.b[i] = ib < 0 || db != out.shape.dim[i] ? 0 : b.strides()[ib];
  }
  return out;
}

/// b has no batches of its own and a's rows lie at one distance across its batches: one tall
/// product.
bool fold_rows(const Tensor& a, const Batches& batches, int64_t* rows) {
  int64_t m = a.size(-2), step = a.strides()[a.ndim() - 2];
  for (int i = batches.shape.ndim - 1; i >= 0; --i) {
    if (batches.shape.dim[i] == 1) continue;
    if (batches.b[i] != 0 || batches.a[i] != m * step) return false;
    m *= batches.shape.dim[i];
  }
  *rows = m;
  return true;
}

template <class T>
void matmul_loops(const Tensor& a, const Tensor& b, const Batches& batches, const Tensor& out) {
  const int da = a.ndim(), db = b.ndim();
  Product p{a.shape()[da - 2],   b.shape()[db - 1],   a.shape()[da - 1],  a.strides()[da - 2],
            a.strides()[da - 1], b.strides()[db - 2], b.strides()[db - 1]};
  const T* pa = static_cast<const T*>(a.raw());
  const T* pb = static_cast<const T*>(b.raw());
  T* pc = static_cast<T*>(out.raw());
  int64_t count = batches.shape.numel();
  if (count == 1 || fold_rows(a, batches, &p.m)) {
    multiply(p, pa, pb, pc, p.m * p.n * p.k * 2 > kParallelFlops ? &cpu::pool() : nullptr);
    return;
  }
  auto one = [&](int64_t i) {
    int64_t rest = i, at_a = 0, at_b = 0;
    for (int d = batches.shape.ndim - 1; d >= 0; --d) {
      const int64_t index = rest % batches.shape.dim[d];
      rest /= batches.shape.dim[d];
      at_a += index * batches.a[d];
      at_b += index * batches.b[d];
    }
    multiply(p, pa + at_a, pb + at_b, pc + i * p.m * p.n, nullptr);
  };
  if (count * p.m * p.n * p.k * 2 > kParallelFlops) {
    cpu::pool().run(count, one);
  } else {
    for (int64_t i = 0; i < count; ++i) one(i);
  }
}

void matmul_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::matmul, in, attrs, out)) return;
  const Tensor &a = *in[0], &b = *in[1];
  const Batches batches = broadcast_batches(a, b);
  Shape shape = batches.shape;
  shape.push(a.size(-2));
  shape.push(b.size(-1));
  *out = Tensor::empty(shape, a.dtype());
  if (out->numel() == 0) return;
  if (a.size(-1) == 0) {
    std::memset(out->raw(), 0, static_cast<size_t>(out->numel()) * dtype_size(out->dtype()));
    return;
  }
  visit_number("matmul", a.dtype(), [&]<class T>() { matmul_loops<T>(a, b, batches, *out); });
}

/// [..., m, k] as [rows, k].
Tensor as_rows(const Tensor& x) { return x.ndim() == 2 ? x : reshape(x, {-1, x.size(-1)}); }

void matmul_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &a = c.in[0], &b = c.in[1], &g = c.grad[0];
  if (c.want(0)) grads[0] = sum_to(matmul(g, transpose(b)), c.in_shapes[0]);
  if (c.want(1)) {
    const bool one_matrix = c.in_shapes[1].ndim == 2 && g.numel() > 0 && a.ndim() == g.ndim();
    grads[1] = one_matrix ? matmul(transpose(as_rows(a)), as_rows(g))
                          : sum_to(matmul(transpose(a), g), c.in_shapes[1]);
  }
}

// --- linear -------------------------------------------------------------------------------------
struct LinearAttrs {
  cpu::Activation activation;
  int32_t widen = 0;
};

std::mutex packing;

constexpr int kPackedViews = 64;

/// The weight in panels, packed once for each version of its storage and kept beside it. Null where
/// it cannot be kept (others may write unseen, or too many views of one storage are packed already)
/// or is not there and `make` is false.
const float* packed_weight(const Tensor& weight, bool make = true) {
  Storage& storage = *weight.impl()->storage;
  const int64_t n = weight.shape()[0], k = weight.shape()[1];
  if (storage.exposed) return nullptr;
  // FNV-1a over what decides the layout.
  const int64_t layout[] = {
      1,
      static_cast<const char*>(weight.raw()) - static_cast<const char*>(storage.data),
      n,
      k,
      weight.strides()[0],
      weight.strides()[1]};
  uint64_t key = 0xcbf29ce484222325ull;
  for (const int64_t part : layout) key = (key ^ static_cast<uint64_t>(part)) * 0x100000001b3ull;
  const uint32_t version = weight.version();
  std::atomic_ref<PackedWeight*> head(storage.packed);
  int views = 0;
  auto find = [&]() -> PackedWeight* {
    views = 0;
    for (PackedWeight* p = head.load(std::memory_order_acquire); p; p = p->next, ++views)
      if (p->key == key) return p;
    return nullptr;
  };
  PackedWeight* entry = find();
  if (entry && std::atomic_ref(entry->version).load(std::memory_order_acquire) == version)
    return static_cast<const float*>(entry->data);
  if (!make) return nullptr;

  std::lock_guard lock(packing);
  entry = find();
  const bool fresh = !entry;
  if (fresh) {
    if (views >= kPackedViews) return nullptr;
    const size_t bytes = static_cast<size_t>(cpu::packed_floats(k, n)) * sizeof(float);
    void* data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!data) fail<MemoryError>("[linear] cannot allocate ", bytes, " bytes for a packed weight");
    entry = new PackedWeight{data, bytes, key, version, head.load(std::memory_order_relaxed)};
  } else if (entry->version == version) {
    return static_cast<const float*>(entry->data);
  }
  cpu::kernels().pack_b(k, n, static_cast<const float*>(weight.raw()), weight.strides()[1],
                        weight.strides()[0], static_cast<float*>(entry->data));
  std::atomic_ref(entry->version).store(version, std::memory_order_release);
  if (fresh) head.store(entry, std::memory_order_release);
  return static_cast<const float*>(entry->data);
}

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
  const bool row = in[0]->ndim() == 1;
  Tensor z = matmul(row ? unsqueeze(*in[0], 0) : *in[0], transpose(*in[1]));
  if (row) z = squeeze(z, 0);
  if (in[2]->defined()) z = z + *in[2];
  *out = activate(z, attrs.as<LinearAttrs>().activation);
}

/// A bfloat16 x: the weight rounded to bfloat16, products summed in float32, rounded once.
void linear_bf16(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor x = cast(*in[0], Dtype::f32);
  const Tensor weight = cast(cast(*in[1], Dtype::bf16), Dtype::f32);
  const Tensor bias = in[2]->defined() ? cast(*in[2], Dtype::f32) : Tensor();
  const auto& linear_attrs = attrs.as<LinearAttrs>();
  *out = linear(x, weight, bias, linear_attrs.activation);
  if (!linear_attrs.widen) *out = cast(*out, Dtype::bf16);
}

void linear_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (in[0]->dtype() == Dtype::bf16) return linear_bf16(in, attrs, out);
  const Tensor& weight = *in[1];
  if (weight.dtype() != Dtype::f32) {
    NoGrad guard;
    return linear_decompose(in, attrs, out);
  }
  const int last = in[0]->ndim() - 1;
  Shape shape = in[0]->sizes();
  shape.dim[last] = weight.shape()[0];
  *out = Tensor::empty(shape, Dtype::f32);
  if (out->numel() == 0) return;
  cpu::Gemm g;
  g.n = weight.shape()[0];
  g.k = weight.shape()[1];
  g.m = out->numel() / g.n;
  // Two dimensions are read through their strides; more are rows of one contiguous block.
  const Tensor x = last <= 1 ? *in[0] : dense(*in[0]);
  g.a = static_cast<const float*>(x.raw());
  g.a_row = last == 1 ? x.strides()[0] : g.k;
  g.a_col = x.strides()[last];
  g.b_packed = packed_weight(weight);
  if (!g.b_packed) {
    g.b = static_cast<const float*>(weight.raw());
    g.b_row = weight.strides()[1];
    g.b_col = weight.strides()[0];
  }
  g.c = static_cast<float*>(out->raw());
  g.c_row = g.n;
  Tensor bias;
  if (in[2]->defined()) {
    bias = dense(*in[2]);
    g.bias = static_cast<const float*>(bias.raw());
  }
  g.activation = attrs.as<LinearAttrs>().activation;
  cpu::kernels().gemm(g, g.m * g.n * g.k * 2 > kParallelFlops ? &cpu::pool() : nullptr);
}

cpu::Gemm product(int64_t m, int64_t n, int64_t k, float* c, int64_t c_row) {
  cpu::Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.c = c;
  g.c_row = c_row;
  return g;
}
void run(const cpu::Gemm& g) {
  cpu::kernels().gemm(g, g.m * g.n * g.k * 2 > kParallelFlops ? &cpu::pool() : nullptr);
}

void linear_vjp(const VjpContext& c, Tensor* grads) {
  const cpu::Activation activation = c.attrs.as<LinearAttrs>().activation;
  Tensor x = c.in[0], weight = c.in[1], g = c.grad[0];
  if (activation != cpu::Activation::none) g = activation_backward(c.out[0], g, activation);
  const Dtype x_dtype = x.dtype(), weight_dtype = weight.dtype();
  const bool half = x_dtype == Dtype::bf16;
  if (half) {
    x = cast(x, Dtype::f32);
    weight = cast(cast(weight, Dtype::bf16), Dtype::f32);
    g = cast(cast(g, Dtype::bf16), Dtype::f32);
  }
  const int64_t out = weight.size(0);
  const Tensor rows = g.ndim() == 2 ? g : reshape(g, {out ? g.numel() / out : 0, out});
  if (c.want(0)) {
    Tensor dx = matmul(rows, weight);
    grads[0] = x.ndim() == 2 ? dx : reshape(dx, x.sizes());
    if (half) grads[0] = cast(grads[0], x_dtype);
  }
  if (c.want(1)) {
    grads[1] =
        matmul(transpose(rows), x.ndim() == 2 ? x : reshape(x, {rows.size(0), weight.size(1)}));
    if (half) grads[1] = cast(grads[1], weight_dtype);
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

void product_forward(const Tensor& x, const Tensor& weight, bool keep, float* out,
                     int64_t out_row) {
  cpu::Gemm g = product(x.size(0), weight.size(0), weight.size(1), out, out_row);
  g.a = static_cast<const float*>(x.raw());
  g.a_row = x.strides()[0];
  g.a_col = x.strides()[1];
  g.b_packed = packed_weight(weight, keep);
  g.b = static_cast<const float*>(weight.raw());
  g.b_row = weight.strides()[1];
  g.b_col = weight.strides()[0];
  run(g);
}

void product_input(int64_t rows, const float* g, int64_t g_row, const Tensor& weight, float* dx) {
  cpu::Gemm p = product(rows, weight.size(1), weight.size(0), dx, weight.size(1));
  p.a = g;
  p.a_row = g_row;
  p.b = static_cast<const float*>(weight.raw());
  p.b_row = weight.strides()[0];
  p.b_col = weight.strides()[1];
  run(p);
}

void product_weight(const float* g, int64_t g_row, const Tensor& x, int64_t out, float* dweight,
                    bool accumulate) {
  cpu::Gemm p = product(out, x.size(1), x.size(0), dweight, x.size(1));
  p.a = g;
  p.a_row = 1;
  p.a_col = g_row;
  p.b = static_cast<const float*>(x.raw());
  p.b_row = x.strides()[0];
  p.b_col = x.strides()[1];
  p.accumulate = accumulate;
  run(p);
}

Tensor matmul(const Tensor& a, const Tensor& b) {
  const Dtype dtype = promote(a.dtype(), b.dtype());
  if (a.dtype() != dtype) return matmul(cast(a, dtype), b);
  if (b.dtype() != dtype) return matmul(a, cast(b, dtype));
  const int na = a.ndim(), nb = b.ndim();
  BESSEMER_CHECK(na > 0 && nb > 0, ValueError, "[matmul] needs at least one dimension: ", a.shape(),
                 " x ", b.shape());
  BESSEMER_CHECK(a.shape()[na - 1] == b.shape()[nb == 1 ? 0 : nb - 2], ValueError,
                 "[matmul] inner sizes differ: ", a.shape(), " x ", b.shape());
  if (na == 1) {
    const Tensor product = matmul(unsqueeze(a, 0), b);
    return squeeze(product, product.ndim() - (nb == 1 ? 1 : 2));
  }
  if (nb == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  return apply(OpId::matmul, Attrs(), a, b);
}

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
  if (!half && x.dtype() != weight.dtype()) {
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

constexpr OpInfo BESSEMER_ROW(matmul) = {
    .name = "matmul",
    .kind = Kind::contraction,
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1 | kSaveShapes,
    .vjp = matmul_vjp,
    .cpu = matmul_cpu,
    .numpy = "np.matmul(a, b)",
    .samples =
        "[dict(a=R(3, 4), b=R(4, 5)), dict(a=R(4), b=R(4)), dict(a=R(4), b=R(4, 2)), "
        "dict(a=R(3, 4), b=R(4)), dict(a=R(2, 3, 4), b=R(4, 5)), dict(a=R(2, 3, 4), b=R(2, 4, 2)), "
        "dict(a=R(3, 4), b=R(2, 4, 2)), dict(a=R(2, 1, 3, 4), b=R(3, 4, 2)), dict(a=R(0, 4), "
        "b=R(4, 2)), "
        "dict(a=R(3, 0), b=R(0, 2)), dict(a=R(17, 33), b=R(33, 35))]"};
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
