// The elementwise rows: promotion, broadcasting and the walk over strides; their loops are in the
// kernel table, their bodies in core/ops/scalar.h.
#include <algorithm>
#include <string_view>

#include "core/cpu/kernels.h"
#include "core/ops/iterate.h"
#include "core/ops/ops.h"

namespace bessemer {

namespace {

using cpu::BinaryLoop;
using cpu::UnaryLoop;

enum class Rule : uint8_t { FLOAT, NUMBER, LOGIC, COMPARE };
constexpr int64_t kParallelFrom =
    1 << 16;  // elements from which a second thread pays for its wake-up

Dtype compute_dtype(Rule rule, Dtype d) {
  if (rule == Rule::FLOAT) return dtype_is_float(d) ? d : Dtype::f32;
  if (rule == Rule::NUMBER && d == Dtype::boolean) return Dtype::i64;  // counts
  return d;
}
bool is_half(Dtype d) { return d == Dtype::f16 || d == Dtype::bf16; }

[[gnu::cold, gnu::noinline]] void undefined_input(OpId id) {
  fail<ValueError>("[", op_info(id).name, "] an input is an undefined tensor");
}
void check_defined(OpId id, const Tensor& x) {
  if (!x.defined()) [[unlikely]]
    undefined_input(id);
}

BinaryLoop binary_loop(OpId id, Dtype d) {
  const auto& table = cpu::kernels();
  const int row = static_cast<int>(id) - kUnaryOps;
  switch (d) {
    case Dtype::f32:
      return table.binary_f32[row];
    case Dtype::f64:
      return table.binary_f64[row];
    case Dtype::i32:
      return table.binary_i32[row];
    case Dtype::i64:
      return table.binary_i64[row];
    case Dtype::boolean:
    case Dtype::u8:
      return table.binary_u8[row];
    case Dtype::i8:
      return table.binary_i8[row];
    default:
      return nullptr;
  }
}
UnaryLoop unary_loop(OpId id, Dtype d) {
  const auto& table = cpu::kernels();
  const int row = static_cast<int>(id);
  switch (d) {
    case Dtype::f32:
      return table.unary_f32[row];
    case Dtype::f64:
      return table.unary_f64[row];
    case Dtype::i32:
      return table.unary_i32[row];
    case Dtype::i64:
      return table.unary_i64[row];
    default:
      return nullptr;
  }
}

/// Splits n elements over the pool where that pays; body(start, count).
template <class Body>
void parallel_elements(int64_t n, Body&& body) {
  ThreadPool& pool = cpu::pool();
  if (n < kParallelFrom || pool.threads() == 1) {
    body(int64_t{0}, n);
    return;
  }
  const int64_t chunk = kParallelFrom / 2, chunks = (n + chunk - 1) / chunk;
  pool.run(chunks, [&](int64_t i) { body(i * chunk, std::min(chunk, n - i * chunk)); });
}

void run_unary(UnaryLoop loop, const Tensor& out, const Tensor& x) {
  const size_t size_out = dtype_size(out.dtype()), size_x = dtype_size(x.dtype());
  auto* to = static_cast<char*>(out.raw());
  const auto* from = static_cast<const char*>(x.raw());
  if (x.contiguous() && out.contiguous() && x.numel() == out.numel()) {
    parallel_elements(out.numel(), [&](int64_t start, int64_t n) {
      loop(n, to + start * size_out, 1, from + start * size_x, 1);
    });
    return;
  }
  int64_t steps[2][kMaxDims];
  const Shape shape = out.sizes();
  broadcast_strides(out, shape, steps[0]);
  broadcast_strides(x, shape, steps[1]);
  const StridedLoop<2> walk(shape, steps);
  walk.run([&](int64_t n, const int64_t* at) {
    loop(n, to + at[0] * static_cast<int64_t>(size_out), walk.inner_step(0),
         from + at[1] * static_cast<int64_t>(size_x), walk.inner_step(1));
  });
}

void run_binary(BinaryLoop loop, const Tensor& out, const Tensor& a, const Tensor& b) {
  const size_t size_out = dtype_size(out.dtype()), size_in = dtype_size(a.dtype());
  auto* to = static_cast<char*>(out.raw());
  const auto *pa = static_cast<const char*>(a.raw()), *pb = static_cast<const char*>(b.raw());
  const bool one_a = a.numel() == 1, one_b = b.numel() == 1;
  const int64_t total = out.numel();
  if ((one_a || (a.contiguous() && a.numel() == total)) &&
      (one_b || (b.contiguous() && b.numel() == total))) {
    const int64_t step_a = one_a ? 0 : 1, step_b = one_b ? 0 : 1;
    parallel_elements(total, [&](int64_t start, int64_t n) {
      loop(n, to + start * size_out, 1, pa + start * step_a * static_cast<int64_t>(size_in), step_a,
           pb + start * step_b * static_cast<int64_t>(size_in), step_b);
    });
    return;
  }
  int64_t steps[3][kMaxDims];
  const Shape shape = out.sizes();
  broadcast_strides(out, shape, steps[0]);
  broadcast_strides(a, shape, steps[1]);
  broadcast_strides(b, shape, steps[2]);
  const StridedLoop<3> walk(shape, steps);
  walk.run([&](int64_t n, const int64_t* at) {
    loop(n, to + at[0] * static_cast<int64_t>(size_out), walk.inner_step(0),
         pa + at[1] * static_cast<int64_t>(size_in), walk.inner_step(1),
         pb + at[2] * static_cast<int64_t>(size_in), walk.inner_step(2));
  });
}

Tensor convert(const Tensor& x, Dtype to) {
  Tensor out = Tensor::empty(x.sizes(), to);
  const UnaryLoop loop = cpu::kernels().cast[static_cast<int>(x.dtype())][static_cast<int>(to)];
  run_unary(loop, out, x);
  return out;
}

/// The result without recording: any dtype, any strides.
Tensor compute_unary(OpId id, Rule rule, const Tensor& x) {
  const Dtype d = compute_dtype(rule, x.dtype());
  const bool logic = rule == Rule::LOGIC;
  if (const UnaryLoop loop = unary_loop(id, d); loop && d == x.dtype()) {
    Tensor out = Tensor::empty(x.sizes(), logic ? Dtype::boolean : d);
    run_unary(loop, out, x);
    return out;
  }
  // No loop of its own: half types through float32, small integers through int32.
  const Dtype wide =
      dtype_is_float(d) ? (d == Dtype::f64 ? d : Dtype::f32) : (d == Dtype::i64 ? d : Dtype::i32);
  const UnaryLoop loop = unary_loop(id, wide);
  BESSEMER_CHECK(loop, TypeError, "[", op_info(id).name, "] does not take ", dtype_name(x.dtype()));
  Tensor out = Tensor::empty(x.sizes(), logic ? Dtype::boolean : wide);
  run_unary(loop, out, x.dtype() == wide ? x : convert(x, wide));
  return logic || d == wide ? out : convert(out, d);
}

Tensor compute_binary(OpId id, Rule rule, const Tensor& a, const Tensor& b) {
  const Dtype d = compute_dtype(rule, promote(a.dtype(), b.dtype()));
  const bool compare = rule == Rule::COMPARE;
  const Dtype wide = is_half(d) ? Dtype::f32 : d;
  const BinaryLoop loop = binary_loop(id, wide);
  BESSEMER_CHECK(loop, TypeError, "[", op_info(id).name, "] does not take ", dtype_name(a.dtype()),
                 " and ", dtype_name(b.dtype()));
  const Shape shape = broadcast_shapes(op_info(id).name, a.sizes(), b.sizes());
  Tensor out = Tensor::empty(shape, compare ? Dtype::boolean : wide);
  run_binary(loop, out, a.dtype() == wide ? a : convert(a, wide),
             b.dtype() == wide ? b : convert(b, wide));
  return compare || d == wide ? out : convert(out, d);
}

bool same_shape(const TensorImpl& a, const TensorImpl& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

Tensor unary(OpId id, Rule rule, const Tensor& x) {
  check_defined(id, x);
  Tensor out = compute_unary(id, rule, x);
  const Tensor* in[] = {&x};
  finish_op(id, Attrs(), in, 1, &out);
  return out;
}

Tensor binary(OpId id, Rule rule, const Tensor& a, const Tensor& b) {
  check_defined(id, a);
  check_defined(id, b);
  const TensorImpl &x = *a.impl(), &y = *b.impl();
  Tensor out;
  if (rule != Rule::COMPARE && x.dtype == Dtype::f32 && y.dtype == Dtype::f32 && x.contiguous &&
      y.contiguous && x.numel < kParallelFrom && same_shape(x, y)) {
    // The common small case, without the walk.
    out = Tensor::empty(x.sizes(), Dtype::f32);
    cpu::kernels().binary_f32[static_cast<int>(id) - kUnaryOps](x.numel, out.raw(), 1, x.data, 1,
                                                                y.data, 1);
  } else {
    out = compute_binary(id, rule, a, b);
  }
  if (current_mode & kModeGrad) {
    const Tensor* in[] = {&a, &b};
    finish_op(id, Attrs(), in, 2, &out);
  }
  return out;
}

constexpr uint16_t IN = kSaveIn0, OUT = kSaveOut0, NONE = kSaveNone, BOTH = kSaveIn0 | kSaveIn1,
                   BOTH_OUT = kSaveIn0 | kSaveIn1 | kSaveOut0;

/// Stands where a row has no gradient; its vjp is then never asked for anything.
#define BESSEMER_NO_GRADIENT Tensor()

}  // namespace

#define BESSEMER_UNARY(op, dtypes, saved, gradient, range, reference, ...)               \
  Tensor op(const Tensor& x) { return unary(OpId::op, Rule::dtypes, x); }                \
  static void vjp_##op(const VjpContext& c, Tensor* grads) {                             \
    [[maybe_unused]] const Tensor &x = c.in[0], &y = c.out[0], &g = c.grad[0];           \
    grads[0] = gradient;                                                                 \
  }                                                                                      \
  const OpInfo BESSEMER_ROW(op){                                                         \
      .name = #op,                                                                       \
      .kind = Kind::unary,                                                               \
      .inputs = 1,                                                                       \
      .saves = saved,                                                                    \
      .vjp = std::string_view(#gradient) == "BESSEMER_NO_GRADIENT" ? nullptr : vjp_##op, \
      .numpy = reference,                                                                \
      .domain = range};
#define BESSEMER_BINARY(op, dtypes, saved, gradient_a, gradient_b, range, reference, ...)      \
  Tensor op(const Tensor& a, const Tensor& b) { return binary(OpId::op, Rule::dtypes, a, b); } \
  static void vjp_##op(const VjpContext& c, Tensor* grads) {                                   \
    [[maybe_unused]] const Tensor &a = c.in[0], &b = c.in[1], &y = c.out[0], &g = c.grad[0];   \
    if (c.want(0)) grads[0] = gradient_a;                                                      \
    if (c.want(1)) grads[1] = gradient_b;                                                      \
  }                                                                                            \
  const OpInfo BESSEMER_ROW(op){.name = #op,                                                   \
                                .kind = Kind::binary,                                          \
                                .inputs = 2,                                                   \
                                .saves = saved,                                                \
                                .vjp = Rule::dtypes == Rule::COMPARE ? nullptr : vjp_##op,     \
                                .numpy = reference,                                            \
                                .domain = range};
#include "core/ops/ops.def"

Dtype promote(Dtype a, Dtype b) {
  if (a == b) return a;
  const bool fa = dtype_is_float(a), fb = dtype_is_float(b);
  if (fa != fb) return fa ? a : b;  // a float wins over any integer
  if (fa) {
    if (a == Dtype::f64 || b == Dtype::f64) return Dtype::f64;
    return Dtype::f32;  // float32 with a half, or the two halves together
  }
  if (a == Dtype::boolean) return b;
  if (b == Dtype::boolean) return a;
  if ((a == Dtype::u8 && b == Dtype::i8) || (a == Dtype::i8 && b == Dtype::u8)) return Dtype::i32;
  return a > b ? a : b;
}

Tensor scalar_like(const Tensor& like, double value) {
  return Tensor::full({}, value, dtype_is_float(like.dtype()) ? like.dtype() : Dtype::f32);
}

// --- cast, contiguous ---------------------------------------------------------------------------

namespace {
struct CastAttrs {
  Dtype from, to;
};
void cpu_cast(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  *out = convert(*in[0], attrs.as<CastAttrs>().to);
}
void vjp_cast(const VjpContext& c, Tensor* grads) {
  grads[0] = cast(c.grad[0], c.attrs.as<CastAttrs>().from);
}
void cpu_contiguous(const Tensor* const* in, const Attrs&, Tensor* out) {
  *out = convert(*in[0], in[0]->dtype());
}
void vjp_contiguous(const VjpContext& c, Tensor* grads) { grads[0] = c.grad[0]; }
}  // namespace

const OpInfo BESSEMER_ROW(cast){
    .name = "cast",
    .kind = Kind::memory,
    .vjp = vjp_cast,
    .cpu = cpu_cast,
    .numpy = "x.astype(dtype)",
    .samples =
        "[dict(x=R(3, 4), dtype='float64'), dict(x=R(2, 0), dtype='float64'), "
        "dict(x=R(), dtype='float64')]"};
const OpInfo BESSEMER_ROW(contiguous){.name = "contiguous",
                                      .kind = Kind::memory,
                                      .vjp = vjp_contiguous,
                                      .cpu = cpu_contiguous,
                                      .numpy = "x",
                                      .samples = "[dict(x=R(3, 4)), dict(x=R(0)), dict(x=R())]"};

Tensor cast(const Tensor& x, Dtype dtype) {
  check_defined(OpId::cast, x);
  if (x.dtype() == dtype) return x;
  return apply(OpId::cast, Attrs::of(CastAttrs{x.dtype(), dtype}), x);
}

Tensor contiguous(const Tensor& x) {
  check_defined(OpId::contiguous, x);
  if (x.contiguous()) return x;
  return apply(OpId::contiguous, Attrs(), x);
}

// --- in place -----------------------------------------------------------------------------------

void check_writable(const char* op, const Tensor& target) {
  BESSEMER_CHECK(target.defined(), ValueError, "[", op, "] the target is an undefined tensor");
  BESSEMER_CHECK(
      !(target.requires_grad() && (current_mode & kModeGrad)), ValueError, "[", op,
      "] a tensor that requires a gradient cannot be written in place while gradients are "
      "recorded");
  BESSEMER_CHECK(!(current_mode & kModeTrace), ValueError, "[", op,
                 "] tensors cannot be written in place while a function is traced");
  BESSEMER_CHECK(!target.impl()->storage->read_only, ValueError, "[", op,
                 "] the tensor's memory is read-only");
  const TensorImpl& impl = *target.impl();
  for (int i = 0; i < impl.ndim; ++i)
    BESSEMER_CHECK(impl.strides[i] != 0 || impl.shape[i] <= 1 || impl.numel == 0, ValueError, "[",
                   op, "] an expanded tensor holds one element in several places");
}

namespace {
void check_fits(const char* op, const Tensor& target, const Tensor& source) {
  BESSEMER_CHECK(broadcast_shapes(op, target.sizes(), source.sizes()) == target.sizes(), ValueError,
                 "[", op, "] ", source.shape(), " does not broadcast to ", target.shape());
}
}  // namespace

void assign(const Tensor& target, const Tensor& source) {
  check_writable("assign", target);
  check_fits("assign", target, source);
  NoGrad guard;
  const UnaryLoop loop =
      cpu::kernels().cast[static_cast<int>(source.dtype())][static_cast<int>(target.dtype())];
  // Overlapping views: read everything before the first write.
  const bool shared = source.impl()->storage == target.impl()->storage;
  run_unary(loop, target, shared ? convert(source, source.dtype()) : source);
  target.bump();
}

void fill(const Tensor& target, double value) {
  check_writable("fill", target);
  const Tensor source = Tensor::full({}, value, target.dtype());
  run_unary(cpu::kernels().cast[static_cast<int>(target.dtype())][static_cast<int>(target.dtype())],
            target, source);
  target.bump();
}

void add_in_place(const Tensor& target, const Tensor& source, double scale) {
  check_writable("add_in_place", target);
  check_fits("add_in_place", target, source);
  NoGrad guard;
  const Tensor scaled = scale == 1 ? source : source * scale;
  const BinaryLoop loop = binary_loop(OpId::add, target.dtype());
  if (loop && scaled.dtype() == target.dtype() && target.contiguous() && scaled.contiguous() &&
      target.numel() == scaled.numel()) {
    loop(target.numel(), target.raw(), 1, target.raw(), 1, scaled.raw(), 1);
    target.bump();
    return;
  }
  assign(target, add(target, scaled));
}

}  // namespace bessemer
