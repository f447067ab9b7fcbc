// The inner tile of a product: kRows rows by kVectors native vectors of C, all in registers, one
// fused multiply-add chain an element. Indices are unrolled by the language (folds over constants)
// and not by the optimiser, because GCC keeps an array in registers only when it sees constant
// indices early.
#pragma once

#include <utility>

#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/vec.h"

namespace bessemer::cpu::BESSEMER_ISA {

/// Registers left for accumulators, of 32 (AVX-512, NEON) or 16.
#if defined(__AVX512F__) || defined(__ARM_NEON)
inline constexpr int kAccumulators = 24;
#else
inline constexpr int kAccumulators = 12;
#endif
inline constexpr int kTileRows = 12;  // most rows of any tile

/// What a tile multiplies: float32 factors, or (32-bit words) pairs of bfloat16 along k, or float32
/// A and bfloat16 B, widened on load. A step takes one row of B and kParts floats of each row of A.
struct FloatStep {
  using B = float;
  static constexpr int kParts = 1;
  static constexpr int64_t kBlock = kBlockK;
  template <int kPart>
  BESSEMER_INLINE vf load(const float* b) {
    return vec_load(b);
  }
  BESSEMER_INLINE vf step(vf a, vf b, vf c) { return vec_fma(a, b, c); }
};
struct PairStep {
  using B = float;
  static constexpr int64_t kBlock = kBlockK / 2;
#if defined(__AVX512BF16__)
  static constexpr int kParts = 1;
  template <int kPart>
  BESSEMER_INLINE vf load(const float* b) {
    return vec_load(b);
  }
  BESSEMER_INLINE vf step(vf a, vf b, vf c) { return vec_dot_pairs(a, b, c); }
#else
  // Without an instruction for pairs: A's are taken apart before (gemm.h), the odd element first,
  // B's in registers, once for all rows of the tile.
  static constexpr int kParts = 2;
  template <int kPart>
  BESSEMER_INLINE vf load(const float* b) {
    return kPart == 0 ? vec_odd(vec_load(b)) : vec_even(vec_load(b));
  }
  BESSEMER_INLINE vf step(vf a, vf b, vf c) { return vec_fma(a, b, c); }
#endif
};
struct WidenStep {
  using B = uint16_t;
  static constexpr int kParts = 1;
  static constexpr int64_t kBlock = kBlockK;
  template <int kPart>
  BESSEMER_INLINE vf load(const uint16_t* b) {
    return vec_widen(b);
  }
  BESSEMER_INLINE vf step(vf a, vf b, vf c) { return vec_fma(a, b, c); }
};

/// Most rows of a tile of so many vectors. Those of B need registers of their own where they are
/// taken apart: 3 by 4 of AVX2's 16 spill.
template <class Step>
constexpr int tile_rows(int vectors) {
  const bool wide = Step::kParts > 1 && vectors > 2;
  const int rows = (wide ? kAccumulators * 2 / 3 : kAccumulators) / vectors;
  return rows < kTileRows ? rows : kTileRows;
}

struct Tile {
  int64_t k = 0;
  const float* a = nullptr;
  int64_t a_stride = 0;  // between rows when A's columns are adjacent, else between columns
  const void* b = nullptr;
  int64_t b_row = 0;    // between steps of k
  int64_t b_panel = 0;  // between panels of kPanel columns
  // What is asked for while this tile computes, a line a vector and step: `ahead_row` elements
  // further with each step.
  const void* ahead = nullptr;
  int64_t ahead_row = 0;
  int64_t turn = 0;  // after so many steps, at most k, it goes on at `ahead_next`
  const void* ahead_next = nullptr;
  float* c = nullptr;
  int64_t c_row = 0, c_col = 1;
  int64_t columns = 0;  // of C that exist, at most the tile's width
  bool load = false;    // add to what C holds
  const float* bias = nullptr;
  bool bias_by_row = false;
  Activation activation = Activation::none;
};
using TileKernel = void (*)(const Tile&);

template <int... kV>
using Indices = std::integer_sequence<int, kV...>;

template <int... kV>
BESSEMER_INLINE void row_clear(vf* acc, Indices<kV...>) {
  ((acc[kV] = vec_all(0.0f)), ...);
}
template <class Step = FloatStep, int... kV>
BESSEMER_INLINE void row_step(vf* acc, vf a, const vf* b, Indices<kV...>) {
  ((acc[kV] = Step::step(a, b[kV], acc[kV])), ...);
}
template <int... kV>
BESSEMER_INLINE void row_store(const vf* acc, float* out, Indices<kV...>) {
  (vec_store(out + kV * kVec, acc[kV]), ...);
}
/// C's order of additions: what C holds, the block's chain, the bias, the activation.
BESSEMER_INLINE vf finish(vf acc, const Tile& t, const float* c, int column) {
  vf x = t.load ? vec_load(c + column) + acc : acc;
  if (t.bias) x = x + vec_load(t.bias + column);
  const vf zero = vec_all(0.0f);
  return t.activation == Activation::relu ? (zero > x ? zero : x) : x;
}
template <int... kV>
BESSEMER_INLINE void row_finish(const vf* acc, const Tile& t, float* c, Indices<kV...>) {
  (vec_store(c + kV * kVec, finish(acc[kV], t, c, kV * kVec)), ...);
}

/// Ragged or strided columns, or a curved activation: through a block in L1, which holds the
/// chains.
[[maybe_unused, gnu::noinline]] static void finish_block(const Tile& t, int rows, int width,
                                                         float* block) {
  for (int r = 0; r < rows; ++r) {
    float* x = block + r * width;
    const float* c = t.c + r * t.c_row;
    if (t.load) {
      for (int64_t j = 0; j < t.columns; ++j) x[j] = c[j * t.c_col] + x[j];
    }
    if (t.bias && t.bias_by_row) {
      for (int64_t j = 0; j < t.columns; ++j) x[j] = x[j] + t.bias[r];
    } else if (t.bias) {
      for (int64_t j = 0; j < t.columns; ++j) x[j] = x[j] + t.bias[j];
    }
  }
  if (t.activation != Activation::none) {
    activate(t.activation, static_cast<int64_t>(rows) * width, block);
  }
  if (t.c_col == 1) {
    for (int r = 0; r < rows; ++r) {
      float* c = t.c + r * t.c_row;
      const float* x = block + r * width;
      for (int64_t j = 0; j < t.columns; ++j) c[j] = x[j];
    }
    return;
  }
  for (int64_t j = 0; j < t.columns; ++j) {  // strided columns: rows are next to each other
    for (int r = 0; r < rows; ++r) t.c[j * t.c_col + r * t.c_row] = block[r * width + j];
  }
}

/// One part of a step, for all rows.
template <class Step, int kPart, int kVectors, bool kAdjacent, int... kR, int... kV>
BESSEMER_INLINE void tile_step(vf* acc, const float* a, int64_t stride, const typename Step::B* b,
                               int64_t b_panel, Indices<kR...>, Indices<kV...> vectors) {
  const vf bv[kVectors] = {
      Step::template load<kPart>(b + (kV * kVec / kPanel) * b_panel + (kV * kVec % kPanel))...};
  (row_step<Step>(acc + kR * kVectors, vec_all(a[kAdjacent ? kR * stride : kR]), bv, vectors), ...);
}

template <class Step, int kRows, int kVectors, bool kAdjacent, int... kR, int... kV>
BESSEMER_INLINE void tile_body(const Tile& t, Indices<kR...> rows, Indices<kV...> vectors) {
  vf acc[kRows * kVectors];
  (row_clear(acc + kR * kVectors, vectors), ...);
  const float* a = t.a;
  const auto* b = static_cast<const typename Step::B*>(t.b);
  const int64_t stride = t.a_stride, b_row = t.b_row, b_panel = t.b_panel, ahead_row = t.ahead_row;
  const auto* ahead = static_cast<const typename Step::B*>(t.ahead);
  for (int64_t left = t.k, steps = t.turn; left > 0; left -= steps, steps = left) {
    for (int64_t p = 0; p < steps; ++p) {
      (__builtin_prefetch(ahead + (kV * kVec / kPanel) * b_panel + (kV * kVec % kPanel)), ...);
      ahead += ahead_row;
      tile_step<Step, 0, kVectors, kAdjacent>(acc, a, stride, b, b_panel, rows, vectors);
      a += kAdjacent ? 1 : stride;
      if constexpr (Step::kParts == 2) {
        tile_step<Step, 1, kVectors, kAdjacent>(acc, a, stride, b, b_panel, rows, vectors);
        a += kAdjacent ? 1 : stride;
      }
      b += b_row;
    }
    ahead = static_cast<const typename Step::B*>(t.ahead_next);
  }
  constexpr int kWidth = kVectors * kVec;
  const bool curved = t.activation != Activation::none && t.activation != Activation::relu;
  if (t.columns == kWidth && t.c_col == 1 && !t.bias_by_row && !curved) {
    (row_finish(acc + kR * kVectors, t, t.c + kR * t.c_row, vectors), ...);
  } else {
    alignas(64) float block[kRows * kWidth];
    (row_store(acc + kR * kVectors, block + kR * kWidth, vectors), ...);
    finish_block(t, kRows, kWidth, block);
  }
}

template <class Step, int kRows, int kVectors, bool kAdjacent>
static void tile_kernel(const Tile& t) {
  tile_body<Step, kRows, kVectors, kAdjacent>(t, std::make_integer_sequence<int, kRows>(),
                                              std::make_integer_sequence<int, kVectors>());
}

/// The kernels of one width: at[rows - 1].
struct TileRow {
  TileKernel at[kTileRows];
};
template <class Step, int kVectors, bool kAdjacent, int... kR>
constexpr TileRow make_tile_row(Indices<kR...>) {
  return {{tile_kernel<Step, kR + 1, kVectors, kAdjacent>...}};
}
/// [A's columns adjacent][log2 of the width in vectors][rows - 1]
struct TileTable {
  TileRow width[2][4];
};
template <class Step, int kVectors, bool kAdjacent>
constexpr TileRow tile_row() {
  return make_tile_row<Step, kVectors, kAdjacent>(
      std::make_integer_sequence<int, tile_rows<Step>(kVectors)>());
}
template <class Step, bool kAdjacent, int kWidth>
constexpr void fill_width(TileTable& table) {
  table.width[kAdjacent][kWidth] = tile_row<Step, 1 << kWidth, kAdjacent>();
}
template <class Step>
constexpr TileTable make_tile_table() {
  TileTable table{};
  fill_width<Step, false, 0>(table);
  fill_width<Step, false, 1>(table);
  fill_width<Step, false, 2>(table);
  fill_width<Step, false, 3>(table);
  fill_width<Step, true, 0>(table);
  fill_width<Step, true, 1>(table);
  fill_width<Step, true, 2>(table);
  fill_width<Step, true, 3>(table);
  return table;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
