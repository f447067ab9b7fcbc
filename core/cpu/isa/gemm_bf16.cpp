// Products of bfloat16 factors with float32 sums, as pairs along k, and of float32 with bfloat16
// weights that are widened on load.
#include "core/cpu/isa/gemm.h"
#include "core/cpu/isa/half.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

void gemm_pairs(const Gemm& asked, ThreadPool* pool) {
  if (asked.m > 0 && asked.n > 0) run_product<PairStep>(plan(asked), pool);
}

void gemm_widen(const Gemm& asked, ThreadPool* pool) {
  if (asked.m > 0 && asked.n > 0) run_product<WidenStep>(Product{asked}, pool);
}

void pack_b_half(int64_t k, int64_t n, const uint16_t* b, int64_t b_row, int64_t b_col,
                 uint16_t* packed) {
  for (int64_t first = 0; first < n; first += kPanel) {
    const int64_t columns = least(kPanel, n - first);
    for (int64_t p = 0; p < k; ++p, packed += kPanel) {
      for (int64_t j = 0; j < kPanel; ++j) {
        packed[j] = j < columns ? b[p * b_row + (first + j) * b_col] : uint16_t{0};
      }
    }
  }
}

BESSEMER_INLINE uint16_t half_bits(float x) { return narrow_bf16(x).bits; }
BESSEMER_INLINE uint16_t half_bits(bf16 x) { return x.bits; }

/// words[r][p] = x[r][2p], x[r][2p + 1] (0 beyond n).
template <class T>
void pair_columns(int64_t rows, int64_t n, const T* x, int64_t row_stride, uint32_t* words) {
  const int64_t pairs = (n + 1) / 2;
  for (int64_t r = 0; r < rows; ++r, x += row_stride, words += pairs) {
    auto* halves = reinterpret_cast<uint16_t*>(words);
    for (int64_t j = 0; j < n; ++j) halves[j] = half_bits(x[j]);
    if (n % 2) halves[n] = 0;
  }
}

/// words[p][j] = x[2p][j], x[2p + 1][j] (0 beyond the last row).
template <class T>
void pair_rows(int64_t rows, int64_t n, const T* x, int64_t row_stride, uint32_t* words) {
  for (int64_t r = 0; r < rows; r += 2, x += 2 * row_stride, words += n) {
    if (r + 1 == rows) {
      for (int64_t j = 0; j < n; ++j) words[j] = half_bits(x[j]);
      return;
    }
    const T* next = x + row_stride;
    for (int64_t j = 0; j < n; ++j) {
      words[j] = half_bits(x[j]) | static_cast<uint32_t>(half_bits(next[j])) << 16;
    }
  }
}

}  // namespace

void fill_half_products(KernelTable& table) {
  table.gemm_pairs = gemm_pairs;
  table.gemm_widen = gemm_widen;
  table.pack_b_half = pack_b_half;
  table.pair_columns = pair_columns<bf16>;
  table.pair_columns_f32 = pair_columns<float>;
  table.pair_rows = pair_rows<bf16>;
  table.pair_rows_f32 = pair_rows<float>;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
