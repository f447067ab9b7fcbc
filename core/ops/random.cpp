// Draws as pure functions of (seed, counter, element): Philox blocks of four words, element i
// taking word i % 4 of block i / 4. Seed and counter are tensors, so that a captured step stays
// valid while they move.
#include <cmath>

#include "core/base/rng.h"
#include "core/ops/family.h"

namespace bessemer {

namespace {

int64_t scalar_argument(const char* op, const char* what, const Tensor& x) {
  BESSEMER_CHECK(x.defined() && x.numel() == 1 && x.dtype() == Dtype::i64, TypeError, "[", op, "] ",
                 what, " must be one int64");
  return *static_cast<const int64_t*>(x.raw());
}

/// body(element index, block) for blocks of four elements; `count` of them are inside.
template <class Body>
void for_each_block(const Tensor* const* in, const char* op, const Tensor& out, Body&& body) {
  const Rng rng{static_cast<uint64_t>(scalar_argument(op, "seed", *in[0])), Stream::user};
  const auto counter = static_cast<uint64_t>(scalar_argument(op, "counter", *in[1]));
  const int64_t n = out.numel();
  for (int64_t i = 0; i < n; i += 4)
    body(i, n - i < 4 ? n - i : 4, rng.at(static_cast<uint64_t>(i / 4), counter));
}

void uniform_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  *out = Tensor::empty(attrs.as<PackedShape>().unpack(), Dtype::f32);
  float* to = out->data<float>();
  for_each_block(in, "random_uniform", *out,
                 [&](int64_t i, int64_t count, const PhiloxBlock& block) {
                   for (int64_t k = 0; k < count; ++k) to[i + k] = uniform_float(block.word[k]);
                 });
}

void normal_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  *out = Tensor::empty(attrs.as<PackedShape>().unpack(), Dtype::f32);
  float* to = out->data<float>();
  for_each_block(in, "random_normal", *out,
                 [&](int64_t i, int64_t count, const PhiloxBlock& block) {
                   double z[4];
                   normal_pair(block.word[0], block.word[1], z[0], z[1]);
                   if (count > 2) normal_pair(block.word[2], block.word[3], z[2], z[3]);
                   for (int64_t k = 0; k < count; ++k) to[i + k] = static_cast<float>(z[k]);
                 });
}

/// The first class whose cumulative probability exceeds u: classes of probability 0 are never
/// drawn.
template <class T>
int64_t invert(const T* probability, int64_t n, double u) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(probability[i]);
  const double target = u * total;
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!(probability[i] > 0)) continue;
    sum += static_cast<double>(probability[i]);
    last = i;
    if (sum > target) break;
  }
  return last;
}

void categorical_cpu(const Tensor* const* in, const Attrs&, Tensor* out) {
  NoGrad guard;
  Tensor logits = dense(*in[0]);
  if (logits.dtype() != Dtype::f64) logits = cast(logits, Dtype::f32);
  const Tensor uniform = dense(cast(*in[1], Dtype::f64));
  Shape shape = logits.sizes();
  const int64_t n = shape.dim[--shape.ndim];
  *out = Tensor::empty(shape, Dtype::i64);
  const Tensor probability = softmax(logits);
  const double* u = uniform.data<double>();
  int64_t* to = out->data<int64_t>();
  visit_float("categorical_sample", logits.dtype(), [&]<class T>() {
    const T* p = probability.data<T>();
    for (int64_t r = 0; r < out->numel(); ++r, p += n) {
      // A row of logits with NaN, +inf or only -inf has NaN probabilities.
      for (int64_t i = 0; i < n; ++i)
        BESSEMER_CHECK(p[i] == p[i], ValueError, "[categorical_sample] the logits of row ", r,
                       " are not a distribution (NaN, +inf, or all -inf)");
      BESSEMER_CHECK(u[r] >= 0 && u[r] < 1, ValueError, "[categorical_sample] uniform[", r, "] is ",
                     u[r], ", expected [0, 1)");
      to[r] = invert(p, n, u[r]);
    }
  });
}

}  // namespace

Tensor random_uniform(const Shape& shape, const Tensor& seed, const Tensor& counter) {
  return apply(OpId::random_uniform, Attrs::of(PackedShape(shape)), seed, counter);
}
Tensor random_normal(const Shape& shape, const Tensor& seed, const Tensor& counter) {
  return apply(OpId::random_normal, Attrs::of(PackedShape(shape)), seed, counter);
}

Tensor categorical_sample(const Tensor& logits, const Tensor& uniform) {
  BESSEMER_CHECK(logits.ndim() > 0 && logits.size(-1) > 0, ValueError,
                 "[categorical_sample] no classes in ", logits.shape());
  BESSEMER_CHECK(dtype_is_float(logits.dtype()) && dtype_is_float(uniform.dtype()), TypeError,
                 "[categorical_sample] needs floating tensors");
  Shape rows = logits.sizes();
  --rows.ndim;
  BESSEMER_CHECK(uniform.sizes() == rows, ValueError, "[categorical_sample] logits ",
                 logits.shape(), " need one uniform number a row, got ", uniform.shape());
  return apply(OpId::categorical_sample, Attrs(), logits, uniform);
}

// The first two have no inputs that can be swept; tests/core_ops/random_test.cpp has their checks.
constexpr OpInfo BESSEMER_ROW(random_uniform) = {
    .name = "random_uniform", .kind = Kind::random, .inputs = 2, .cpu = uniform_cpu};
constexpr OpInfo BESSEMER_ROW(random_normal) = {
    .name = "random_normal", .kind = Kind::random, .inputs = 2, .cpu = normal_cpu};
constexpr OpInfo BESSEMER_ROW(categorical_sample) = {
    .name = "categorical_sample",
    .kind = Kind::random,
    .inputs = 2,
    .cpu = categorical_cpu,
    .numpy = "np_categorical_sample(logits, uniform)",
    .samples =
        "[dict(logits=R(5, 3), uniform=U(5)), dict(logits=R(4), uniform=U()), "
        "dict(logits=R(2, 3, 4), uniform=U(2, 3)), dict(logits=R(0, 3), uniform=U(0))]"};

}  // namespace bessemer
