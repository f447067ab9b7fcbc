// Products against the canonical definition: one chain of fused multiply-adds over k in each block
// of kBlockK, the blocks added in order.
#include <doctest/doctest.h>

#include <cmath>

#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

/// The definition, one element at a time.
std::vector<float> reference(const Gemm& g, const std::vector<float>& start) {
  std::vector<float> c = start;
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n; ++j) {
      float& out = c[static_cast<size_t>(i * g.c_row + j)];
      float total = g.accumulate ? out : 0.0f;
      for (int64_t p0 = 0; p0 == 0 || p0 < g.k; p0 += kBlockK) {
        float chain = 0.0f;
        for (int64_t p = p0; p < std::min(g.k, p0 + kBlockK); ++p) {
          chain = std::fma(g.a[i * g.a_row + p * g.a_col], g.b[p * g.b_row + j * g.b_col], chain);
        }
        total = p0 == 0 && !g.accumulate ? chain : total + chain;
      }
      if (g.bias && !g.accumulate) total += g.bias[j];
      if (g.activation == Activation::relu && !g.accumulate) total = total < 0 ? 0.0f : total;
      out = total;
    }
  }
  return c;
}

enum class Layout { rows, columns, spread };

struct Case {
  int64_t m, n, k;
  Layout a, b;
  bool packed, bias, relu, accumulate;
};

void check(const KernelTable& table, const Case& x, bool exact) {
  CAPTURE(table.isa);
  CAPTURE(x.m);
  CAPTURE(x.n);
  CAPTURE(x.k);
  const auto a = draw(x.m * x.k * 2 + 1, 1), b = draw(x.k * x.n * 2 + 1, 2), bias = draw(x.n, 3);
  Gemm g{.m = x.m, .n = x.n, .k = x.k};
  const auto stride = [](Layout layout, int64_t rows, int64_t columns, int64_t& row,
                         int64_t& column) {
    row = layout == Layout::columns ? 1 : layout == Layout::rows ? columns : columns * 2;
    column = layout == Layout::columns ? rows : layout == Layout::rows ? 1 : 2;
  };
  g.a = a.data();
  g.b = b.data();
  stride(x.a, x.m, x.k, g.a_row, g.a_col);
  stride(x.b, x.k, x.n, g.b_row, g.b_col);
  g.c_row = x.n + 3;
  g.bias = x.bias ? bias.data() : nullptr;
  g.activation = x.relu ? Activation::relu : Activation::none;
  g.accumulate = x.accumulate;
  const auto start = draw(x.m * g.c_row, 4);
  const auto expected = reference(g, start);
  std::vector<float> packed(static_cast<size_t>(packed_floats(x.k, x.n)));
  if (x.packed) {
    table.pack_b(x.k, x.n, g.b, g.b_row, g.b_col, packed.data());
    g.b_packed = packed.data();
    g.b = nullptr;
  }
  auto c = start;
  g.c = c.data();
  table.gemm(g, nullptr);
  if (exact) {
    CHECK(same_bits(c, expected));
    return;
  }
  double worst = 0;
  for (size_t i = 0; i < c.size(); ++i)
    worst = std::max(worst, std::fabs(double{c[i]} - expected[i]));
  CHECK(worst <= 1e-6 * static_cast<double>(x.k + 1));
}

}  // namespace

TEST_CASE("gemm equals its definition for every layout") {
  const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 31, 32, 33, 48, 64, 65, 96, 130};
  const int64_t depths[] = {0, 1, 2, 4, 15, 64, 383, 384, 385, 800};
  for (const KernelTable* table : tables()) {
    const bool exact = std::string(table->isa) != "baseline";
    uint64_t i = 0;
    for (const int64_t m : sizes) {
      for (const int64_t n : sizes) {
        const PhiloxBlock r = Rng{7}.at(i++);  // each size with some of the variants
        for (int variant = 0; variant < 2; ++variant) {
          const uint32_t bits = r.word[variant];
          const bool accumulate = bits >> 8 & 1;
          check(*table,
                {m, n, depths[bits % 10], static_cast<Layout>((bits >> 9) % 3),
                 static_cast<Layout>((bits >> 12) % 3), (bits >> 15 & 1) != 0,
                 (bits >> 16 & 1) != 0, (bits >> 17 & 1) != 0, accumulate},
                exact);
        }
      }
    }
    for (const Layout a : {Layout::rows, Layout::columns, Layout::spread}) {
      for (const Layout b : {Layout::rows, Layout::columns, Layout::spread}) {
        for (const bool packed : {false, true}) {
          check(*table, {250, 70, 400, a, b, packed, true, false, false}, exact);
          check(*table, {6, 600, 20, a, b, packed, false, true, false}, exact);
          check(*table, {2, 64, 1024, a, b, packed, false, false, true}, exact);
          check(*table, {12, 150, 1024, a, b, packed, true, false, false}, exact);
          check(*table, {31, 200, 512, a, b, packed, true, true, false}, exact);
          check(*table, {64, 4, 256, a, b, packed, false, false, false}, exact);
          check(*table, {64, 3, 256, a, b, packed, false, false, true}, exact);
          check(*table, {140, 520, 512, a, b, packed, true, false, false}, exact);
        }
      }
    }
  }
}

TEST_CASE("a row has the same bits in any batch, from any thread count") {
  const int64_t k = 500, n = 200;
  const auto a = draw(513 * k, 1), b = draw(k * n, 2), bias = draw(n, 3);
  for (const KernelTable* table : tables()) {
    std::vector<float> first;
    for (const int64_t m : {1, 2, 8, 64, 513}) {
      for (const int threads : {1, 2, 3}) {
        ThreadPool pool(threads);
        std::vector<float> c(static_cast<size_t>(m * n));
        table->gemm({.m = m,
                     .n = n,
                     .k = k,
                     .a = a.data(),
                     .a_row = k,
                     .b = b.data(),
                     .b_row = n,
                     .c = c.data(),
                     .c_row = n,
                     .bias = bias.data(),
                     .activation = Activation::gelu},
                    &pool);
        const std::vector<float> row(c.begin(), c.begin() + n);
        if (first.empty()) first = row;
        CHECK(same_bits(row, first));
      }
    }
  }
}

TEST_CASE("activations of a product equal the elementwise rows") {
  const int64_t m = 37, n = 45, k = 20;
  const auto a = draw(m * k, 1, -3, 3), b = draw(k * n, 2, -1, 1), bias = draw(n, 3);
  for (const KernelTable* table : tables()) {
    const std::pair<Activation, OpId> pairs[] = {{Activation::relu, OpId::relu},
                                                 {Activation::tanh, OpId::tanh},
                                                 {Activation::sigmoid, OpId::sigmoid},
                                                 {Activation::silu, OpId::silu},
                                                 {Activation::gelu, OpId::gelu}};
    for (const auto& [activation, op] : pairs) {
      std::vector<float> plain(static_cast<size_t>(m * n)), fused = plain, after = plain;
      Gemm g{.m = m,
             .n = n,
             .k = k,
             .a = a.data(),
             .a_row = k,
             .b = b.data(),
             .b_row = n,
             .c = plain.data(),
             .c_row = n,
             .bias = bias.data()};
      table->gemm(g, nullptr);
      table->unary_f32[static_cast<int>(op)](m * n, after.data(), 1, plain.data(), 1);
      g.c = fused.data();
      g.activation = activation;
      table->gemm(g, nullptr);
      CHECK(same_bits(fused, after));
    }
  }
}

TEST_CASE("gemm_f64 equals a double reference") {
  for (const KernelTable* table : tables()) {
    for (const int64_t m : {1, 3, 17}) {
      for (const int64_t n : {1, 5, 33, 70}) {
        const int64_t k = 2 * n + m;
        const auto af = draw(m * k, 1), bf = draw(k * n, 2);
        const std::vector<double> a(af.begin(), af.end()), b(bf.begin(), bf.end());
        std::vector<double> c(static_cast<size_t>(m * n));
        // A as given, B transposed.
        table->gemm_f64(m, n, k, a.data(), k, 1, b.data(), 1, k, c.data(), n);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t p = 0; p < k; ++p) {
              sum += a[static_cast<size_t>(i * k + p)] * b[static_cast<size_t>(j * k + p)];
            }
            CHECK(c[static_cast<size_t>(i * n + j)] == doctest::Approx(sum).epsilon(1e-12));
          }
        }
      }
    }
  }
}

}  // namespace bessemer::cpu
