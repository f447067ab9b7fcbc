// The loops of a product around its tiles, for every kind of step (tile.h). From outside in: blocks
// of k, groups of panels of B, blocks of rows of A, tiles. B is read from its packed form, in place
// where its rows are contiguous, or packed here; A is read in place. A product with few columns is
// computed as its transpose: a step does not care which factor comes first, so the bits are the
// same.
#pragma once

#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/tile.h"

namespace bessemer::cpu::BESSEMER_ISA {

template <class Step>
inline constexpr TileTable kTiles = make_tile_table<Step>();
inline constexpr int64_t kGroup = 512;    // columns of B that are packed at a time: 768 KiB,
inline constexpr int64_t kFewGroup = 64;  // or this many when few rows use them: 96 KiB
inline constexpr int64_t kFarRows = 512, kPayForPacking = 128;
inline constexpr int64_t kTiny = 4;         // elements of C that are not worth packing for
inline constexpr int64_t kFewColumns = 8;   // at most this many columns: the transpose
inline constexpr int64_t kStreamRows = 48;  // few enough that a packed B comes from memory
inline constexpr int64_t kApart = 16;       // floats, between rows that would collide in L1
inline constexpr int64_t kRowBlock = 240;   // rows of A that stay in L2: 360 KiB

template <class Step>
struct BlockOfB {
  const typename Step::B* data;  // column 0, step 0 of the block
  int64_t row, panel;
  bool packed = false;  // all of B is in panels, one after the other
};

BESSEMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// One panel: columns [0, columns) of B as [k][kPanel], the rest 0.
[[maybe_unused]] static void pack_panel(int64_t k, int64_t columns, const float* b, int64_t b_row,
                                        int64_t b_col, float* out) {
  if (columns < kPanel) {
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t j = columns; j < kPanel; ++j) out[p * kPanel + j] = 0.0f;
    }
  }
  if (b_col == 1 && columns == kPanel) {
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t j = 0; j < kPanel; ++j) out[p * kPanel + j] = b[p * b_row + j];
    }
    return;
  }
  int64_t j = 0;
  if (b_row == 1) {
    const int64_t whole = k / kVec * kVec;
    for (; j + kVec <= columns; j += kVec) {
      for (int64_t p = 0; p < whole; p += kVec) {
        vf from[kVec], to[kVec];
#pragma GCC unroll 16
        for (int i = 0; i < kVec; ++i) from[i] = vec_load(b + p + (j + i) * b_col);
        vec_transpose(from, to);
#pragma GCC unroll 16
        for (int i = 0; i < kVec; ++i) vec_store(out + (p + i) * kPanel + j, to[i]);
      }
      for (int64_t p = whole; p < k; ++p) {
        for (int i = 0; i < kVec; ++i) out[p * kPanel + j + i] = b[p + (j + i) * b_col];
      }
    }
  }
  for (; j < columns; ++j) {
    for (int64_t p = 0; p < k; ++p) out[p * kPanel + j] = b[p * b_row + j * b_col];
  }
}

/// Rows of A, or of a block of it.
struct RowsOfA {
  const float* data;
  int64_t row, col;
};

/// Pairs of bfloat16 as floats, the odd element first, both as one word.
BESSEMER_INLINE void take_apart(int64_t n, const float* pairs, int64_t step, float* out) {
  for (int64_t p = 0; p < n; ++p) {
    const uint64_t pair = scalar::bits_of(pairs[p * step]);
    const uint64_t apart = (pair & 0xffff0000u) | pair << 48;
    __builtin_memcpy(out + 2 * p, &apart, sizeof apart);
  }
}

/// A copy as [rows][depth * kParts], rows `gap` floats further apart; pairs are taken apart. Those
/// of adjacent rows stay side by side: [depth * kParts][rows].
template <class Step>
static RowsOfA copy_rows(int64_t rows, int64_t depth, const RowsOfA& a, int64_t gap) {
  const int64_t length = depth * Step::kParts + gap;
  float* out = thread_scratch(1, static_cast<size_t>(rows * length));
  if constexpr (Step::kParts == 2) {
    if (a.row == 1 && a.col != 1) {
      for (int64_t p = 0; p < depth; ++p) {
        const float* pairs = a.data + p * a.col;
        float *odd = out + 2 * p * rows, *even = odd + rows;
        for (int64_t i = 0; i < rows; ++i) {
          const uint32_t pair = scalar::bits_of(pairs[i]);
          odd[i] = scalar::float_of(pair & 0xffff0000u);
          even[i] = scalar::float_of(pair << 16);
        }
      }
      return {out, 1, rows};
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    const float* from = a.data + i * a.row;
    float* to = out + i * length;
    if constexpr (Step::kParts == 2) {
      if (a.col == 1) {
        take_apart(depth, from, 1, to);
      } else {
        take_apart(depth, from, a.col, to);
      }
    } else if (a.col == 1) {
      __builtin_memcpy(to, from, static_cast<size_t>(depth) * sizeof(float));
    } else {
      for (int64_t p = 0; p < depth; ++p) to[p] = from[p * a.col];
    }
  }
  return {out, length, 1};
}

/// Tiles over rows [0, m) and columns [0, n) of one block of k.
template <class Step>
static void run_tiles(Tile t, int64_t m, int64_t n, const RowsOfA& a, const BlockOfB<Step>& b,
                      float* c, const float* bias) {
  const bool adjacent = a.col == 1;
  t.a_stride = adjacent ? a.row : a.col;
  t.turn = t.k;
  t.b_row = b.row;
  t.b_panel = b.panel;
  // Few rows: wider tiles, so that enough chains are in flight.
  int widest = 1;
  while (widest < 3 && m <= tile_rows<Step>(2 << widest)) ++widest;
  for (int64_t j = 0; j < n;) {
    const int64_t left = n - j, padded = (left + kPanel - 1) / kPanel * kPanel;
    int width = widest;
    while (width > 0 && ((kVec << width) > padded || left <= (kVec << (width - 1)))) --width;
    t.columns = least(left, kVec << width);
    t.b = b.data + j / kPanel * b.panel + j % kPanel;
    const int most = tile_rows<Step>(1 << width);
    const int64_t tiles = (m + most - 1) / most;
    const auto* at = static_cast<const typename Step::B*>(t.b);
    int64_t i = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t rows = (m - i + tiles - tile - 1) / (tiles - tile);  // near-equal heights
      t.a = a.data + i * a.row;
      t.c = c + i * t.c_row + j * t.c_col;
      t.bias = bias ? bias + (t.bias_by_row ? i : j) : nullptr;
      // Tiles that share a panel ask for the next one meanwhile, each for its part.
      t.ahead = at;
      t.ahead_row = b.row;
      if (b.packed && kVec << width == kPanel) {
        t.ahead = at + b.panel + tile * t.k * kPanel / tiles;
        t.ahead_row = kPanel / tiles;
      }
      kTiles<Step>.width[adjacent][width].at[rows - 1](t);
      i += rows;
    }
    j += t.columns;
  }
}

/// A product as it is computed: perhaps the transpose of what was asked.
struct Product : Gemm {
  int64_t c_col = 1;
  bool bias_by_row = false;
};
/// Where B's words are as wide as A's.
[[maybe_unused]] static Product plan(const Gemm& g) {
  Product product{g};
  if (g.n > kFewColumns || g.m < kVec || g.m <= g.n) return product;
  Product t;
  t.m = g.n;
  t.n = g.m;
  t.k = g.k;
  // One panel holds all columns, so a packed B is simply a matrix with rows of kPanel.
  t.a = g.b_packed ? static_cast<const float*>(g.b_packed) : g.b;
  t.a_row = g.b_packed ? 1 : g.b_col;
  t.a_col = g.b_packed ? kPanel : g.b_row;
  t.b = g.a;
  t.b_row = g.a_col;
  t.b_col = g.a_row;
  t.c = g.c;
  t.c_row = 1;
  t.c_col = g.c_row;
  t.bias = g.bias;
  t.bias_by_row = true;
  t.activation = g.activation;
  t.accumulate = g.accumulate;
  return t;
}

/// Few rows by a packed B, which is read once, and from memory where a model's weights are many
/// times the cache: panel by panel, all blocks of k of each, which is the order of addresses. What
/// is asked for early lies at a fixed distance, across blocks and panels, and into the weight that
/// was packed next. So reading and multiplying overlap (8 rows: 40 of 44 GB/s; the hardware's
/// prefetcher alone, which stops at every page, 13).
template <class Step>
static void gemm_stream(const Product& g, int64_t n0, int64_t n1) {
  using B = typename Step::B;
  const int64_t m = g.m;
  RowsOfA a{g.a, g.a_row, g.a_col};
  // Rows a multiple of 2 KiB apart share few sets of L1.
  const bool collide = a.col == 1 && m > 1 && a.row % kFarRows == 0 && n1 - n0 >= kPayForPacking;
  if (collide || Step::kParts > 1) a = copy_rows<Step>(m, g.k, a, kApart);
  const bool adjacent = a.col == 1;
  int widest = 1;  // log2 of a tile's vectors: for few rows, so that enough chains are in flight
  while (widest < 3 && m <= tile_rows<Step>(2 << widest)) ++widest;
  Tile t;
  t.a_stride = adjacent ? a.row : a.col;
  t.b_row = kPanel;
  t.b_panel = g.k * kPanel;
  t.c_row = g.c_row;
  t.c_col = g.c_col;
  t.bias_by_row = g.bias_by_row;
  int64_t group;
  for (int64_t first = n0; first < n1; first += group) {
    int width = widest;
    while ((kVec << width) > kPanel &&
           (kVec << width) > (n1 - first + kPanel - 1) / kPanel * kPanel)
      --width;
    const int64_t columns = kVec << width, most = tile_rows<Step>(1 << width);
    group = columns > kPanel ? columns : kPanel;
    const int64_t wide = group / kPanel, tiles = (m + most - 1) / most;
    const int64_t visits = tiles * (group / columns);
    // How early, in steps: as long as memory takes. A step is longer with more rows, and where a
    // panel is visited several times, each visit asks for its part of the next block.
    const int64_t early = visits > 1 ? Step::kBlock : wide > 1 ? 48 / wide : 8 * (m + 1);
    t.ahead_row = (kPanel + visits - 1) / visits;
    const B* panel = static_cast<const B*>(g.b_packed) + first * g.k;
    for (int64_t p0 = 0; p0 == 0 || p0 < g.k; p0 += Step::kBlock) {
      t.k = least(g.k - p0, Step::kBlock);
      // The end of these panels is followed by the beginning of the next ones.
      const int64_t turn = g.k - p0 - early;
      t.turn = visits > 1 || turn > t.k ? t.k : turn < 0 ? 0 : turn;
      t.ahead_next = panel + (wide * g.k + p0 + t.turn + early - g.k) * kPanel;
      const bool last = p0 + t.k == g.k && !g.accumulate;
      t.load = g.accumulate || p0 > 0;
      t.activation = last ? g.activation : Activation::none;
      int64_t visit = 0;
      for (int64_t j = first; j < least(first + group, n1); j += columns) {
        t.b = panel + p0 * kPanel + (j - first);
        t.columns = least(n1 - j, columns);
        int64_t i = 0;
        for (int64_t tile = 0; tile < tiles; ++tile, ++visit) {
          const int64_t rows = (m - i + tiles - tile - 1) / (tiles - tile);  // near-equal heights
          t.a = a.data + i * a.row + p0 * Step::kParts * a.col;
          t.c = g.c + i * g.c_row + j * g.c_col;
          t.bias = last && g.bias ? g.bias + (g.bias_by_row ? i : j) : nullptr;
          t.ahead = panel + (p0 + early) * kPanel + visit * t.k * kPanel / visits;
          kTiles<Step>.width[adjacent][width].at[rows - 1](t);
          i += rows;
        }
      }
    }
  }
}

/// Rows [m0, m1), columns [n0, n1) on this thread; n0 is a multiple of kPanel.
template <class Step>
static void gemm_part(const Product& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  if (g.b_packed && g.m <= kStreamRows && (g.a_col == 1 || g.a_row == 1))
    return gemm_stream<Step>(g, n0, n1);
  // Far rows of B cost address translations and collide in L1: many rows of A pay for packing them.
  const bool far = g.b_row >= kFarRows && m1 - m0 >= kPayForPacking;
  const bool in_place = !g.b_packed && g.b_col == 1 && !far;
  const int64_t blocks = g.k > 0 ? (g.k + Step::kBlock - 1) / Step::kBlock : 1;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t p0 = block * Step::kBlock, depth = least(g.k - p0, Step::kBlock);
    const bool last = block == blocks - 1;
    Tile t;
    t.k = depth;
    t.c_row = g.c_row;
    t.c_col = g.c_col;
    t.bias_by_row = g.bias_by_row;
    t.load = g.accumulate || block > 0;
    t.activation = last && !g.accumulate ? g.activation : Activation::none;
    const float* bias = last && !g.accumulate ? g.bias : nullptr;
    for (int64_t j0 = n0; j0 < n1;) {
      int64_t columns = least(m1 - m0 <= kTileRows ? kFewGroup : kGroup, n1 - j0);
      BlockOfB<Step> b;
      if (g.b_packed) {
        const auto* packed = static_cast<const typename Step::B*>(g.b_packed);
        b = {packed + j0 / kPanel * g.k * kPanel + p0 * kPanel, kPanel, g.k * kPanel, true};
      } else if constexpr (sizeof(typename Step::B) == sizeof(float)) {
        if (in_place && columns >= kPanel) {
          columns = columns / kPanel * kPanel;
          b = {g.b + p0 * g.b_row + j0, g.b_row, kPanel};
        } else {
          float* scratch = thread_scratch(
              0, static_cast<size_t>((columns + kPanel - 1) / kPanel * kPanel * depth));
          for (int64_t j = 0; j < columns; j += kPanel) {
            pack_panel(depth, least(kPanel, columns - j), g.b + p0 * g.b_row + (j0 + j) * g.b_col,
                       g.b_row, g.b_col, scratch + j * depth);
          }
          b = {scratch, kPanel, kPanel * depth};
        }
      }
      for (int64_t i0 = m0; i0 < m1; i0 += kRowBlock) {
        const int64_t rows = least(kRowBlock, m1 - i0);
        RowsOfA a{g.a + i0 * g.a_row + p0 * g.a_col, g.a_row, g.a_col};
        // Rows a multiple of 2 KiB apart share the few sets of L1 that a tile's rows then fight
        // for.
        const bool collide = a.col == 1 && a.row % kFarRows == 0 && columns >= kPayForPacking;
        if (Step::kParts > 1 || (a.row != 1 && a.col != 1) || (collide && rows > 1))
          a = copy_rows<Step>(rows, depth, a, 0);
        run_tiles<Step>(t, rows, columns, a, b, g.c + i0 * g.c_row + j0 * g.c_col,
                        bias ? bias + (g.bias_by_row ? i0 : j0) : nullptr);
      }
      j0 += columns;
    }
  }
}

/// How a product is cut for threads; the cut never changes a bit.
struct Cut {
  const Product* product;
  int64_t parts;
  bool by_rows;
};
template <class Step>
static void run_part(void* context, int64_t part) {
  const Cut& cut = *static_cast<const Cut*>(context);
  const Product& g = *cut.product;
  if (cut.by_rows) {
    const int64_t unit = (g.m + cut.parts - 1) / cut.parts;
    const int64_t first = least(part * unit, g.m), end = least(first + unit, g.m);
    if (first < end) gemm_part<Step>(g, first, end, 0, g.n);
  } else {
    const int64_t panels = (g.n + kPanel - 1) / kPanel, unit = (panels + cut.parts - 1) / cut.parts;
    const int64_t first = least(part * unit * kPanel, g.n);
    const int64_t end = least(first + unit * kPanel, g.n);
    if (first < end) gemm_part<Step>(g, 0, g.m, first, end);
  }
}

/// On all threads of `pool` (may be null) where that is worth it.
template <class Step>
static void run_product(const Product& g, ThreadPool* pool) {
  constexpr double kWorthAThread = 4e6;  // multiply-adds: some 30 µs
  const double work =
      static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  if (pool && work >= kWorthAThread && pool_threads(pool) > 1) {
    Cut cut{&g, pool_threads(pool), g.m >= 4 * kTileRows * pool_threads(pool)};
    pool_run(pool, cut.parts, run_part<Step>, &cut);
    return;
  }
  gemm_part<Step>(g, 0, g.m, 0, g.n);
}

}  // namespace bessemer::cpu::BESSEMER_ISA
