// Products in the canonical order; the loops are in gemm.h.
#include "core/cpu/isa/gemm.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

/// A handful of elements (one row through a head): scalar chains side by side, nothing is packed.
void gemm_tiny(const Gemm& g) {
  constexpr int kChains = 4;
  const int64_t elements = g.m * g.n;
  for (int64_t first = 0; first < elements; first += kChains) {
    const float *a[kChains], *b[kChains];
    float total[kChains];
    for (int e = 0; e < kChains; ++e) {  // beyond the last element: the last one again
      const int64_t element = least(first + e, elements - 1), i = element / g.n, j = element % g.n;
      a[e] = g.a + i * g.a_row;
      b[e] = g.b + j * g.b_col;
      total[e] = g.accumulate ? g.c[i * g.c_row + j] : 0.0f;
    }
    for (int64_t p0 = 0; p0 == 0 || p0 < g.k; p0 += kBlockK) {
      float chain[kChains] = {};
      for (int64_t p = p0; p < least(g.k, p0 + kBlockK); ++p) {
        for (int e = 0; e < kChains; ++e) {
          chain[e] = scalar::fma(a[e][p * g.a_col], b[e][p * g.b_row], chain[e]);
        }
      }
      for (int e = 0; e < kChains; ++e) {
        total[e] = p0 == 0 && !g.accumulate ? chain[e] : total[e] + chain[e];
      }
    }
    for (int e = 0; e < kChains && first + e < elements; ++e) {
      const int64_t i = (first + e) / g.n, j = (first + e) % g.n;
      if (g.bias && !g.accumulate) total[e] = total[e] + g.bias[j];
      g.c[i * g.c_row + j] = total[e];
    }
  }
}

void gemm(const Gemm& asked, ThreadPool* pool) {
  if (asked.m <= 0 || asked.n <= 0) return;
  if (asked.m * asked.n <= kTiny && !asked.b_packed && asked.activation == Activation::none) {
    return gemm_tiny(asked);
  }
  run_product<FloatStep>(plan(asked), pool);
}

/// Each element is one chain over k, vectorised along n.
void gemm_f64(int64_t m, int64_t n, int64_t k, const double* a, int64_t a_row, int64_t a_col,
              const double* b, int64_t b_row, int64_t b_col, double* c, int64_t c_row) {
  constexpr int64_t kColumns = 32;
  double block[kColumns], row[kColumns];
  for (int64_t j0 = 0; j0 < n; j0 += kColumns) {
    const int64_t columns = least(kColumns, n - j0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < kColumns; ++j) block[j] = row[j] = 0.0;
      for (int64_t p = 0; p < k; ++p) {
        const double x = a[i * a_row + p * a_col];
        const double* from = b + p * b_row + j0 * b_col;
        for (int64_t j = 0; j < columns; ++j) row[j] = from[j * b_col];
        for (int64_t j = 0; j < kColumns; ++j) block[j] = scalar::fma(x, row[j], block[j]);
      }
      for (int64_t j = 0; j < columns; ++j) c[i * c_row + j0 + j] = block[j];
    }
  }
}

void pack_b(int64_t k, int64_t n, const float* b, int64_t b_row, int64_t b_col, float* packed) {
  for (int64_t j = 0; j < n; j += kPanel) {
    pack_panel(k, least(kPanel, n - j), b + j * b_col, b_row, b_col, packed + j * k);
  }
}

}  // namespace

void fill_products(KernelTable& table) {
  table.gemm = gemm;
  table.gemm_f64 = gemm_f64;
  table.pack_b = pack_b;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
