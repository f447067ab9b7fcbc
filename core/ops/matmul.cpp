// Products of matrices, strided and batched.
//
// Operands are read in place through their strides. Every element follows the canonical order of
// cpu::Gemm, so one row and a thousand rows give the same bits, and so does any batch.
#include <cstring>

#include "core/ops/family.h"

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

}  // namespace

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
}  // namespace bessemer
