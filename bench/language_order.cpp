// What the canonical order of reductions costs (docs/architecture.md): products, rows and attention
// by our kernels beside the same work in whatever order is fastest, in one run on one thread. A
// ratio of 1 means that the order costs nothing, 0.5 that the work takes twice the time.
// BESSEMER_ISA chooses both sides' instruction set (avx2 or avx512). Products of many rows have no
// free twin: their tiles fill the registers with independent chains in any order (core_kernels
// products shows their share of the limit). The free softmax has an exponential of its own, good to
// 1e-6, so that its ratio is of both.
//   bench_language_order [--json]
#include <cmath>
#include <limits>

#include "bench/bench.h"
#include "bench/peak.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#include "core/ops/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bessemer::bench {
namespace {

struct FreeOrder {
  void (*product_row)(int64_t n, int64_t k, const float* x, const float* w, float* y);
  float (*row_sum)(int64_t n, const float* x);
  void (*rms_norm_row)(int64_t n, const float* x, const float* weight, float eps, float* out);
  void (*softmax_row)(int64_t n, int64_t seen, const float* x, float* out);
};

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma")
namespace avx512 {
using V = __m512;
constexpr int64_t kWidth = 16;
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V v) { _mm512_storeu_ps(p, v); }
inline V all(float x) { return _mm512_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline float total(V v) { return _mm512_reduce_add_ps(v); }
inline float highest(V v) { return _mm512_reduce_max_ps(v); }
inline V rounded(V v) { return _mm512_roundscale_ps(v, 8); }
inline V times_power_of_two(V v, V exponent) { return _mm512_scalef_ps(v, exponent); }
#include "bench/free_order.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
using V = __m256;
constexpr int64_t kWidth = 8;
inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V v) { _mm256_storeu_ps(p, v); }
inline V all(float x) { return _mm256_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm256_max_ps(a, b); }
inline float total(V v) {
  const __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
inline float highest(V v) {
  const __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}
inline V rounded(V v) { return _mm256_round_ps(v, 8); }
inline V times_power_of_two(V v, V exponent) {
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtps_epi32(exponent), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), bits));
}
#include "bench/free_order.h"
}  // namespace avx2
#pragma GCC pop_options

Tensor draw(const Shape& shape) {
  const Tensor seed = Tensor::full({}, 1, Dtype::i64), counter = Tensor::full({}, 0, Dtype::i64);
  return random_uniform(shape, seed, counter) * 2.0 - 1.0;
}

/// Largest difference of two results relative to the largest element.
void check_close(const std::string& work, const Tensor& a, const Tensor& b) {
  const double off = amax(abs(a - b)).item() / amax(abs(a)).item();
  BESSEMER_CHECK(off < 1e-4, Error, work, ": the two orders differ by ", off);
}

/// Ours and the free one of each pair in turns.
void report_pairs(Report& report, std::vector<Subject>& subjects, const char* unit) {
  measure(subjects, 11, 0.02);
  for (size_t i = 0; i + 1 < subjects.size(); i += 2)
    report.figure(subjects[i].name, subjects[i].rate() / 1e9, unit, "free order",
                  subjects[i].rate() / subjects[i + 1].rate());
}

void products(Report& report, const FreeOrder& free_order) {
  std::vector<Subject> s;
  for (const auto& [m, k, n] : std::initializer_list<std::array<int64_t, 3>>{
           {1, 576, 1536}, {1, 576, 49152}, {512, 576, 1}}) {
    const std::string work = cat("product ", m, " x ", k, " -> ", n);
    const Tensor x = draw({m, k}), w = draw({n, k}), y = Tensor::empty({m, n});
    const auto free_product = [=, &free_order] {
      for (int64_t r = 0; r < m; ++r)
        free_order.product_row(n, k, x.data<float>() + r * k, w.data<float>(),
                               y.data<float>() + r * n);
    };
    const auto ours = [=] {
      const NoGrad guard;
      keep(linear(x, w));
    };
    free_product();
    check_close(work, linear(x, w), y);
    const double flops = 2.0 * static_cast<double>(m * k * n);
    s.push_back({work, ours, flops});
    s.push_back({"free", free_product, flops});
  }
  report_pairs(report, s, "GFLOP/s");
}

void rows(Report& report, const FreeOrder& free_order, const cpu::KernelTable& t) {
  constexpr int64_t n = 1024;
  for (const int64_t count : {8, 16384}) {
    const Tensor x = draw({count, n}), w = draw({n}), y = Tensor::empty({count, n});
    const Tensor sums = Tensor::empty({count}), own = Tensor::empty({count, n});
    const Tensor own_sums = Tensor::empty({count});
    const float *px = x.data<float>(), *pw = w.data<float>();
    float *py = y.data<float>(), *ps = sums.data<float>(), *po = own.data<float>();
    const std::string where = count == 8 ? ", 32 KiB" : ", 64 MiB";
    const double bytes = 4.0 * static_cast<double>(count * n);
    std::vector<Subject> s;
    const auto add = [&](const char* work, double passes, std::function<void()> ours,
                         std::function<void(int64_t)> free_row) {
      s.push_back({work + where, std::move(ours), passes * bytes});
      s.push_back({"free",
                   [=] {
                     for (int64_t r = 0; r < count; ++r) free_row(r);
                   },
                   passes * bytes});
      s[s.size() - 2].body();
      s.back().body();
    };
    add(
        "row sum", 1, [=, &t, out = own_sums.data<float>()] { t.sum_rows(count, n, px, n, out); },
        [=, &free_order](int64_t r) { ps[r] = free_order.row_sum(n, px + r * n); });
    check_close("row sum", own_sums, sums);
    add(
        "rms_norm", 2, [=, &t] { t.rms_norm_rows(count, n, px, pw, 1e-5f, po); },
        [=, &free_order](int64_t r) {
          free_order.rms_norm_row(n, px + r * n, pw, 1e-5f, py + r * n);
        });
    check_close("rms_norm", own, y);
    add(
        "softmax", 2, [=, &t] { t.softmax_rows(count, n, px, po); },
        [=, &free_order](int64_t r) { free_order.softmax_row(n, n, px + r * n, py + r * n); });
    check_close("softmax", own, y);
    report_pairs(report, s, "GB/s");
  }
}

/// Causal attention of whole rows of scores: a block of queries against all keys they see, in two
/// products with the softmax between them, instead of 32 keys at a time.
void whole_row_attention(const FreeOrder& free_order, const cpu::KernelTable& t, const Tensor& q,
                         const Tensor& k, const Tensor& v, Tensor& scores, const Tensor& out) {
  constexpr int64_t kQueries = 64;
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2), row = heads * dim;
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t first = 0; first < tokens; first += kQueries) {
      const int64_t count = std::min(kQueries, tokens - first), keys = first + count;
      cpu::Gemm g{.m = count, .n = keys, .k = dim};
      g.a = q.data<float>() + first * row + h * dim;
      g.a_row = row;
      g.b = k.data<float>() + h * dim;
      g.b_row = 1;
      g.b_col = row;
      g.c = scores.data<float>();
      g.c_row = keys;
      t.gemm(g, nullptr);
      for (int64_t i = 0; i < count; ++i) {
        float* s = scores.data<float>() + i * keys;
        for (int64_t j = 0; j <= first + i; ++j) s[j] *= scale;
        free_order.softmax_row(keys, first + i + 1, s, s);
      }
      cpu::Gemm p{.m = count, .n = dim, .k = keys};
      p.a = scores.data<float>();
      p.a_row = keys;
      p.b = v.data<float>() + h * dim;
      p.b_row = row;
      p.c = out.data<float>() + first * row + h * dim;
      p.c_row = row;
      t.gemm(p, nullptr);
    }
  }
}

void attend(Report& report, const FreeOrder& free_order, const cpu::KernelTable& t) {
  constexpr int64_t heads = 9, dim = 64;
  std::vector<Subject> s;
  for (const int64_t tokens : {128, 1024}) {
    const Tensor q = draw({tokens, heads, dim}), k = draw({tokens, heads, dim});
    const Tensor v = draw({tokens, heads, dim}), out = Tensor::empty({tokens, heads, dim});
    Tensor scores = Tensor::empty({64, tokens}), segments = Tensor::zeros({1, 2}, Dtype::i64);
    segments.data<int64_t>()[1] = -1;
    const std::string work = cat("attention causal forward 9 heads x ", tokens, " x 64");
    const auto ours = [=] {
      const NoGrad guard;
      keep(attention(q, k, v, segments));
    };
    const auto whole = [=, &free_order, &t]() mutable {
      whole_row_attention(free_order, t, q, k, v, scores, out);
    };
    whole_row_attention(free_order, t, q, k, v, scores, out);
    check_close(work, attention(q, k, v, segments), out);
    const double flops = 2.0 * static_cast<double>(heads * dim * tokens * tokens);
    s.push_back({work, ours, flops});
    s.push_back({"free", whole, flops});
  }
  report_pairs(report, s, "GFLOP/s");
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer;
  bench::Report report(argc, argv);
  const cpu::KernelTable& table = cpu::kernels();
  const std::string isa = table.isa;
  if (isa != "avx512" && isa != "avx2") {
    std::fprintf(stderr, "no free order is written for %s\n", isa.c_str());
    return 1;
  }
  const bench::FreeOrder& free_order =
      isa == "avx512" ? bench::avx512::kFreeOrder : bench::avx2::kFreeOrder;
  std::vector<bench::Subject> limit = {bench::peak_subject(table)};
  bench::measure(limit);
  report.figure(limit[0].name, limit[0].rate() / 1e9, "GFLOP/s");
  bench::products(report, free_order);
  bench::rows(report, free_order, table);
  bench::attend(report, free_order, table);
}
#else
int main() {
  std::fprintf(stderr, "the free order is written for x86-64 alone\n");
  return 1;
}
#endif
