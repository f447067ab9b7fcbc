// Kernels of a decoder's rows: the same bits in every instruction set and batch, products of
// bfloat16 against their definitions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

std::vector<bf16> halves(const std::vector<float>& x) {
  std::vector<bf16> out;
  for (const float v : x) out.push_back(to_bf16(v));
  return out;
}
std::vector<float> widened(const std::vector<bf16>& x) {
  std::vector<float> out;
  for (const bf16 v : x) out.push_back(to_float(v));
  return out;
}
const float* as_floats(const std::vector<uint32_t>& words) {
  return reinterpret_cast<const float*>(words.data());
}

/// C [m, n] = x [m, k] @ w [n, k].T by pairs, the weight packed or not.
std::vector<float> multiply_pairs(const KernelTable& t, int64_t m, int64_t n, int64_t k,
                                  const std::vector<bf16>& x, const std::vector<bf16>& w, bool pack,
                                  ThreadPool* pool = nullptr) {
  const int64_t pairs = (k + 1) / 2;
  std::vector<uint32_t> a(static_cast<size_t>(m * pairs)), b(static_cast<size_t>(n * pairs));
  t.pair_columns(m, k, x.data(), k, a.data());
  t.pair_columns(n, k, w.data(), k, b.data());
  std::vector<float> packed(static_cast<size_t>(packed_floats(pairs, n)));
  std::vector<float> c(static_cast<size_t>(m * n));
  Gemm g{.m = m, .n = n, .k = pairs, .a = as_floats(a), .a_row = pairs};
  g.b = as_floats(b);
  g.b_row = 1;
  g.b_col = pairs;
  if (pack) {
    t.pack_b(pairs, n, g.b, 1, pairs, packed.data());
    g.b_packed = packed.data();
  }
  g.c = c.data();
  g.c_row = n;
  t.gemm_pairs(g, pool);
  return c;
}

using Kernel = std::function<std::vector<float>(const KernelTable&, int64_t rows, int64_t n)>;
/// Rows of several kernels, each from the same draws; a batch of more rows begins with the same.
const std::pair<const char*, Kernel> kernels_by_row[] = {
    {"rms_norm",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1), w = draw(n, 2);
       std::vector<float> y(x.size());
       t.rms_norm_rows(rows, n, x.data(), w.data(), 1e-5f, y.data());
       return y;
     }},
    {"rms_norm backward",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1), w = draw(n, 2), g = draw(rows * n, 3);
       std::vector<float> y(x.size());
       t.rms_norm_backward_rows(rows, n, x.data(), w.data(), g.data(), 1e-5f, y.data(), nullptr);
       return y;
     }},
    {"layer_norm",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1), w = draw(n, 2);
       std::vector<float> y(x.size());
       t.layer_norm_rows(rows, n, x.data(), w.data(), w.data(), 1e-5f, y.data(), nullptr, nullptr);
       return y;
     }},
    {"layer_norm backward",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1), w = draw(n, 2), g = draw(rows * n, 3);
       std::vector<float> y(x.size());
       t.layer_norm_backward_rows(rows, n, x.data(), w.data(), g.data(), 1e-5f, y.data(), nullptr,
                                  nullptr);
       return y;
     }},
    {"swiglu",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1, -9, 9), u = draw(rows * n, 2);
       std::vector<float> y(x.size());
       t.swiglu(rows * n, x.data(), u.data(), y.data());
       return y;
     }},
    {"rope",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * 2 * n, 1), angles = draw(64 * 2 * n, 2);
       std::vector<int64_t> places;
       for (int64_t r = 0; r < rows; ++r) places.push_back(r * 7 % 64);
       std::vector<float> y(x.size());
       t.rope_rows(rows, 1, n, x.data(), angles.data(), places.data(), -1.0f, y.data());
       return y;
     }},
    {"token stats",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1, -5, 5);
       std::vector<int64_t> targets;
       for (int64_t r = 0; r < rows; ++r) targets.push_back(r * 5 % n);
       std::vector<TokenStats> stats(static_cast<size_t>(rows));
       t.token_stats_rows(rows, n, x.data(), n, 0.7f, targets.data(), true, stats.data());
       std::vector<float> y;
       for (const TokenStats& s : stats) {
         for (const float v : {s.max, s.log_sum, s.log_prob, s.entropy, s.hit ? 1.0f : 0.0f})
           y.push_back(v);
       }
       return y;
     }},
    {"token weights",
     [](auto& t, int64_t rows, int64_t n) {
       const auto x = draw(rows * n, 1, -5, 5);
       std::vector<float> y;
       for (int64_t r = 0; r < rows; ++r) {
         std::vector<float> weights(static_cast<size_t>(n)),
             sums(weights.size() / kWeightBlock + 1);
         const TokenWeights w =
             t.token_weights(n, x.data() + r * n, 0.7f, weights.data(), sums.data());
         for (const float v : {w.max, w.log_sum, static_cast<float>(w.block)}) y.push_back(v);
         y.insert(y.end(), weights.begin(), weights.end());
         y.insert(y.end(), sums.begin(), sums.begin() + (n + kWeightBlock - 1) / kWeightBlock);
       }
       return y;
     }},
};

}  // namespace

TEST_CASE("weights of a row are its exponentials, their sums and its statistics") {
  for (const KernelTable* t : exact_tables()) {
    for (const int64_t n : {1, 16, 255, 256, 300, 700}) {
      for (const float scale : {1.0f, 0.7f}) {
        const auto x = draw(n, 3, -5, 5);
        const auto blocks = static_cast<size_t>((n + kWeightBlock - 1) / kWeightBlock);
        std::vector<float> weights(x.size()), sums(blocks), expected(x.size()), totals(blocks);
        const TokenWeights w = t->token_weights(n, x.data(), scale, weights.data(), sums.data());
        TokenStats stats;
        const int64_t target = 0;
        t->token_stats_rows(1, n, x.data(), n, scale, &target, false, &stats);
        for (size_t i = 0; i < x.size(); ++i) expected[i] = x[i] * scale - stats.max;
        t->unary_f32[static_cast<int>(OpId::exp)](n, expected.data(), 1, expected.data(), 1);
        for (size_t b = 0; b < blocks; ++b) {
          const auto first = static_cast<int64_t>(b) * kWeightBlock;
          t->sum_rows(1, std::min(n - first, kWeightBlock), expected.data() + first, n, &totals[b]);
        }
        CHECK(w.max == stats.max);
        CHECK(w.log_sum == stats.log_sum);
        CHECK(w.block == (std::max_element(x.begin(), x.end()) - x.begin()) / kWeightBlock);
        CHECK(same_bits(weights, expected));
        CHECK(same_bits(sums, totals));
      }
    }
    float bad[] = {1, -INFINITY, 2}, out[3], sum;
    CHECK(!std::isfinite(t->token_weights(3, bad, 1, out, &sum).max));
  }
}

TEST_CASE("a decoder's rows have the same bits in any batch and instruction set") {
  for (const auto& [name, kernel] : kernels_by_row) {
    for (const int64_t n : {1, 3, 16, 17, 70, 256, 300}) {
      std::vector<float> first;
      for (const KernelTable* t : exact_tables()) {
        for (const int64_t rows : {1, 3, 4, 9}) {
          auto y = kernel(*t, rows, n);
          y.resize(y.size() / static_cast<size_t>(rows));  // the first row
          if (first.empty()) first = y;
          CAPTURE(name);
          CAPTURE(n);
          CAPTURE(rows);
          CHECK(same_bits(y, first));
        }
      }
    }
  }
}

TEST_CASE("gradients of a norm's parameters are one chain down the rows") {
  const int64_t rows = 11, n = 37;
  const auto x = draw(rows * n, 1), g = draw(rows * n, 3);
  std::vector<float> first;
  for (const KernelTable* t : exact_tables()) {
    std::vector<float> both(static_cast<size_t>(3 * n));
    t->rms_norm_backward_rows(rows, n, x.data(), nullptr, g.data(), 1e-5f, nullptr, both.data());
    t->layer_norm_backward_rows(rows, n, x.data(), nullptr, g.data(), 1e-5f, nullptr,
                                both.data() + n, both.data() + 2 * n);
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += g[static_cast<size_t>(r * n + j)];
      CHECK(both[static_cast<size_t>(2 * n + j)] == sum);
    }
    if (first.empty()) first = both;
    CHECK(same_bits(both, first));
  }
}

TEST_CASE("products of bfloat16 pairs: one row as many, packed or not, any threads") {
  ThreadPool two(2);
  for (const KernelTable* t : tables()) {
    CAPTURE(t->isa);
    for (const int64_t k : {1, 2, 31, 64, 385, 800}) {
      for (const int64_t n : {1, 5, 33, 130}) {
        const int64_t m = 40;
        const auto x = halves(draw(m * k, 1)), w = halves(draw(n * k, 2));
        const auto c = multiply_pairs(*t, m, n, k, x, w, true);
        CHECK(same_bits(c, multiply_pairs(*t, m, n, k, x, w, false)));
        CHECK(same_bits(c, multiply_pairs(*t, m, n, k, x, w, true, &two)));
        const std::vector<bf16> one(x.begin(), x.begin() + k);
        const auto row = multiply_pairs(*t, 1, n, k, one, w, true);
        CHECK(same_bits(row, {c.begin(), c.begin() + n}));
        double worst = 0;
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0, size = 1;
            for (int64_t p = 0; p < k; ++p) {
              const double term = double{to_float(x[static_cast<size_t>(i * k + p)])} *
                                  to_float(w[static_cast<size_t>(j * k + p)]);
              sum += term;
              size += std::fabs(term);
            }
            worst = std::max(worst, std::fabs(c[static_cast<size_t>(i * n + j)] - sum) / size);
          }
        }
        CHECK(worst < 2e-6);
      }
    }
  }
}

/// The definition: chains over blocks of pairs, the odd element first, blocks added in order.
float chain_of_pairs(int64_t k, const bf16* x, int64_t x_step, const bf16* w, float c, bool add) {
  for (int64_t first = 0; first < k; first += kBlockK) {
    float chain = 0;
    for (int64_t p = first; p < std::min(k, first + kBlockK); p += 2) {
      if (p + 1 < k) chain = std::fma(to_float(x[(p + 1) * x_step]), to_float(w[p + 1]), chain);
      chain = std::fma(to_float(x[p * x_step]), to_float(w[p]), chain);
    }
    c = first == 0 && !add ? chain : c + chain;
  }
  return c;
}

TEST_CASE("products of bfloat16 pairs on AVX2 have the bits of their definition") {
  for (const KernelTable* t : tables()) {
    if (std::string_view(t->isa) != "avx2") continue;  // others may round in another way
    for (const int64_t m : {1, 7, 48, 250}) {
      for (const int64_t n : {6, 70}) {
        for (const int64_t k : {3, 397}) {
          CAPTURE(m);
          CAPTURE(n);
          CAPTURE(k);
          const int64_t pairs = (k + 1) / 2;
          const auto x = halves(draw(m * k, 1)), w = halves(draw(n * k, 2));
          std::vector<float> columns = draw(m * n, 3);
          const std::vector<float> before = columns;
          // A's rows one after the other; x [k, m] as its transpose, added to what is there.
          const auto c = multiply_pairs(*t, m, n, k, x, w, m != 48);
          std::vector<uint32_t> a(static_cast<size_t>(m * pairs)),
              b(static_cast<size_t>(n * pairs));
          t->pair_rows(k, m, x.data(), m, a.data());
          t->pair_columns(n, k, w.data(), k, b.data());
          Gemm g{.m = m, .n = n, .k = pairs, .a = as_floats(a), .a_row = 1, .a_col = m};
          g.b = as_floats(b);
          g.b_row = 1;
          g.b_col = pairs;
          g.c = columns.data();
          g.c_row = n;
          g.accumulate = true;
          t->gemm_pairs(g, nullptr);
          bool same = true;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              const auto at = static_cast<size_t>(i * n + j);
              same &= c[at] == chain_of_pairs(k, x.data() + i * k, 1, w.data() + j * k, 0, false);
              same &= columns[at] ==
                      chain_of_pairs(k, x.data() + i, m, w.data() + j * k, before[at], true);
            }
          }
          CHECK(same);
        }
      }
    }
  }
}

TEST_CASE("pairs along rows and columns hold the same elements, rounded from float32 too") {
  const int64_t rows = 5, n = 7;
  const auto x = draw(rows * n, 1);
  const auto h = halves(x);
  const auto bits = [&](int64_t r, int64_t j) -> uint32_t {
    return r < rows && j < n ? h[static_cast<size_t>(r * n + j)].bits : 0;
  };
  for (const KernelTable* t : tables()) {
    std::vector<uint32_t> columns(rows * 4), columns32 = columns, down(3 * n), down32 = down;
    t->pair_columns(rows, n, h.data(), n, columns.data());
    t->pair_columns_f32(rows, n, x.data(), n, columns32.data());
    t->pair_rows(rows, n, h.data(), n, down.data());
    t->pair_rows_f32(rows, n, x.data(), n, down32.data());
    CHECK(columns == columns32);
    CHECK(down == down32);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t p = 0; p < 4; ++p) {
        CHECK(columns[static_cast<size_t>(r * 4 + p)] ==
              (bits(r, 2 * p) | bits(r, 2 * p + 1) << 16));
      }
    }
    for (int64_t p = 0; p < 3; ++p) {
      for (int64_t j = 0; j < n; ++j) {
        CHECK(down[static_cast<size_t>(p * n + j)] == (bits(2 * p, j) | bits(2 * p + 1, j) << 16));
      }
    }
  }
}

TEST_CASE("a bfloat16 weight widened on load has the bits of its float32 copy") {
  for (const KernelTable* t : tables()) {
    for (const int64_t m : {1, 3, 40}) {
      for (const int64_t n : {1, 33, 200}) {
        const int64_t k = 500;
        const auto x = draw(m * k, 1);
        const auto w = halves(draw(n * k, 2));
        const auto wide = widened(w);
        std::vector<uint16_t> packed(static_cast<size_t>(packed_floats(k, n)));
        t->pack_b_half(k, n, reinterpret_cast<const uint16_t*>(w.data()), 1, k, packed.data());
        std::vector<float> c(static_cast<size_t>(m * n)), expected = c;
        Gemm g{.m = m, .n = n, .k = k, .a = x.data(), .a_row = k};
        g.c_row = n;
        g.b_packed = packed.data();
        g.c = c.data();
        t->gemm_widen(g, nullptr);
        g.b_packed = nullptr;
        g.b = wide.data();
        g.b_row = 1;
        g.b_col = k;
        g.c = expected.data();
        t->gemm(g, nullptr);
        CHECK(same_bits(c, expected));
      }
    }
  }
}

}  // namespace bessemer::cpu
