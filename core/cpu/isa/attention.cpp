// Attention in the canonical order of core/cpu/attention.h: rows (a query of one head) are worked
// on in batches, so that a block of keys and values stays in cache while all tiles of a batch read
// it. One row and many run the same chains.
#include "core/cpu/isa/attention_tile.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int64_t kBatch = 32;  // rows in flight
constexpr int64_t kLanes = 16;

BESSEMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

alignas(64) constexpr int32_t kNumbers[kKeyBlock] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                     11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                     22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
BESSEMER_INLINE vi vi_load(const int32_t* p) {
  vi v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

/// What a batch of rows carries from block to block.
struct Batch {
  int64_t rows, dim, padded;  // padded: dim rounded up to 16
  float* q;                   // [rows][dim], scaled
  float* o;                   // [rows][padded]
  float* weights;             // [tile][32]
  float *k, *v;               // a block widened or padded: [dim][32], [32][padded]
  float lanes[kBatch][kLanes];
  float max[kBatch];
  int64_t keys[kBatch];  // how many keys the row sees
};

/// A block's scores, 16 from `first` on, without keys that the row does not see.
BESSEMER_INLINE Lanes seen(const float* scores, int first, int64_t keys) {
  Lanes x = lanes_load(scores + first);
  if (keys >= first + kLanes) return x;
  BESSEMER_PARTS {
    const vi number = vi_load(kNumbers + first + i * kVec);
    x.part[i] = number < static_cast<int32_t>(keys) ? x.part[i] : vec_all(-scalar::kInfinity);
  }
  return x;
}

/// Scores of a tile's rows to weights: updates maxima, sums and the outputs' scales. Rows are
/// worked on side by side, because each waits for its largest score, then for exponentials.
BESSEMER_INLINE void weigh(Batch& batch, int64_t row, int rows, int64_t first_key) {
  alignas(64) float change[kLanes] = {};  // of the rows' maxima
  int64_t keys[kTileQueries];
  bool above = false;
  for (int r = 0; r < rows; ++r) {
    const float* scores = batch.weights + r * kKeyBlock;
    keys[r] = least(batch.keys[row + r] - first_key, kKeyBlock);
    if (keys[r] <= 0) continue;
    const Lanes first = seen(scores, 0, keys[r]), second = seen(scores, kLanes, keys[r]);
    Lanes top;
    BESSEMER_PARTS top.part[i] = first.part[i] > second.part[i] ? first.part[i] : second.part[i];
    const float next = largest(top), max = batch.max[row + r];
    if (next > max) {
      change[r] = max - next;
      batch.max[row + r] = next;
      above = true;
    }
  }
  if (above) {
    Lanes scales = lanes_load(change);
    BESSEMER_PARTS scales.part[i] = weight_of(scales.part[i]);
    lanes_store(change, scales);
    for (int r = 0; r < rows; ++r) {  // where a maximum stayed, by 1
      const Lanes scale = lanes_all(change[r]);
      float *o = batch.o + (row + r) * batch.padded, *sum = batch.lanes[row + r];
      for (int64_t d = 0; d < batch.padded; d += kLanes) {
        lanes_store(o + d, lanes_load(o + d) * scale);
      }
      lanes_store(sum, lanes_load(sum) * scale);
    }
  }
  for (int r = 0; r < rows; ++r) {
    if (keys[r] <= 0) continue;
    float *scores = batch.weights + r * kKeyBlock, *sum = batch.lanes[row + r];
    const vf max = vec_all(batch.max[row + r]);
    Lanes first = seen(scores, 0, keys[r]), second = seen(scores, kLanes, keys[r]);
    BESSEMER_PARTS {
      first.part[i] = weight_of(first.part[i] - max);
      second.part[i] = weight_of(second.part[i] - max);
    }
    lanes_store(scores, first);
    lanes_store(scores + kLanes, second);
    lanes_store(sum, lanes_load(sum) + (first + second));
  }
}

/// Memory to ask for while a tile of rows computes: the scores' chains take one of a block's size,
/// the outputs' chains the other.
struct Ahead {
  const char *scores, *outputs;
  int64_t step;  // bytes a vector that is read
};

/// One block of keys for all rows of a batch; `first_key` is the block's first position.
template <bool kAhead>
void attend_block(Batch& batch, const float* k, const float* v, int64_t v_row, int64_t first_key,
                  const Ahead& ahead) {
  const int64_t tiles = (batch.rows + kTileQueries - 1) / kTileQueries;
  int64_t row = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const auto rows = static_cast<int>((batch.rows - row + tiles - tile - 1) / (tiles - tile));
    int64_t fewest = kKeyBlock, most = 0;
    for (int r = 0; r < rows; ++r) {
      const int64_t keys = batch.keys[row + r] - first_key;
      fewest = keys < fewest ? keys : fewest;
      most = keys > most ? keys : most;
    }
    fewest = fewest < 0 ? 0 : fewest;
    if (most > 0) {
      const float* q = batch.q + row * batch.dim;
      float* o = batch.o + row * batch.padded;
      run_chains<true, false, kAhead>({batch.dim, q, batch.dim, 1, k, kKeyBlock, batch.weights,
                                       kKeyBlock, ahead.scores, ahead.step},
                                      rows, kKeyBlock);
      weigh(batch, row, rows, first_key);
      run_chains<true, true, kAhead>({fewest, batch.weights, kKeyBlock, 1, v, v_row, o,
                                      batch.padded, ahead.outputs, ahead.step},
                                     rows, batch.padded);
      // Keys that some rows see and others do not: a skipped key is not one of weight 0.
      for (int r = 0; r < rows && fewest < kKeyBlock; ++r) {
        const int64_t keys = least(batch.keys[row + r] - first_key, kKeyBlock);
        if (keys <= fewest) continue;
        run_chains<true, true>({keys - fewest, batch.weights + r * kKeyBlock + fewest, kKeyBlock, 1,
                                v + fewest * v_row, v_row, o + r * batch.padded, batch.padded},
                               1, batch.padded);
      }
    }
    row += rows;
  }
}

void attend(const Attend& a, int64_t kv_head, int64_t first, int64_t end) {
  const int64_t group = a.heads / a.kv_heads, queries = end - first, rows = queries * group;
  const int64_t dim = a.dim, padded = (dim + kLanes - 1) / kLanes * kLanes;
  const int64_t block_floats = kKeyBlock * padded;
  Batch batch;
  batch.dim = dim;
  batch.padded = padded;
  batch.q = thread_scratch(
      0, static_cast<size_t>(2 * kBatch * padded + 2 * block_floats + kTileQueries * kKeyBlock));
  batch.o = batch.q + kBatch * padded;
  batch.k = batch.o + kBatch * padded;
  batch.v = batch.k + block_floats;
  batch.weights = batch.v + block_floats;
  // Many queries: a head at a time, so that tiles of rows end together; few: all heads of a query.
  const bool by_head = queries >= kTileQueries;
  for (int64_t start = 0; start < rows; start += kBatch) {
    batch.rows = least(kBatch, rows - start);
    int64_t most = 0;
    int64_t at[kBatch], statistics[kBatch];
    for (int64_t r = 0; r < batch.rows; ++r) {
      const int64_t row = start + r;
      const int64_t query = first + (by_head ? row % queries : row / group);
      const int64_t head = kv_head * group + (by_head ? row / queries : row % group);
      at[r] = (query * a.heads + head) * dim;
      statistics[r] = head * a.statistics_head + query;
      batch.keys[r] = a.position + query + 1;
      most = batch.keys[r] > most ? batch.keys[r] : most;
      for (int64_t d = 0; d < dim; ++d) batch.q[r * dim + d] = a.q[at[r] + d] * a.scale;
      for (int64_t d = 0; d < padded; ++d) batch.o[r * padded + d] = 0.0f;
      lanes_store(batch.lanes[r], lanes_all(0.0f));
      batch.max[r] = -scalar::kInfinity;
    }
    for (int64_t block = 0; block * kKeyBlock < most; ++block) {
      const int64_t offset = (a.table[block] * a.kv_heads + kv_head) * kKeyBlock * dim;
      const float *k, *v;
      int64_t v_row = dim;
      if (a.bf16) {
        const auto* wide_v = static_cast<const uint16_t*>(a.v_pages) + offset;
        widen(kKeyBlock * dim, static_cast<const uint16_t*>(a.k_pages) + offset, batch.k);
        for (int64_t j = 0; j < kKeyBlock; ++j) {
          widen(dim, wide_v + j * dim, batch.v + j * padded);
          for (int64_t d = dim; d < padded; ++d) batch.v[j * padded + d] = 0.0f;
        }
        k = batch.k;
        v = batch.v;
        v_row = padded;
      } else {
        k = static_cast<const float*>(a.k_pages) + offset;
        v = static_cast<const float*>(a.v_pages) + offset;
        if (dim != padded) {
          for (int64_t j = 0; j < kKeyBlock; ++j) {
            for (int64_t d = 0; d < padded; ++d) {
              batch.v[j * padded + d] = d < dim ? v[j * dim + d] : 0.0f;
            }
          }
          v = batch.v;
          v_row = padded;
        }
      }
      if (batch.rows > kTileQueries) {
        attend_block<false>(batch, k, v, v_row, block * kKeyBlock, {});
        continue;
      }
      // One tile reads each block once, from wherever pages lie in memory: the next ones are asked
      // for meanwhile, of this head or of the one after it.
      const bool ends = (block + 1) * kKeyBlock >= most;
      const int64_t head = ends && kv_head + 1 < a.kv_heads ? kv_head + 1 : kv_head;
      const int64_t next = (a.table[ends ? 0 : block + 1] * a.kv_heads + head) * kKeyBlock * dim;
      const int64_t size = a.bf16 ? 2 : 4;
      const auto* next_k = static_cast<const char*>(a.k_pages) + next * size;
      const auto* next_v = static_cast<const char*>(a.v_pages) + next * size;
      const auto* this_v = static_cast<const char*>(a.v_pages) + offset * size;
      const Ahead ahead = {a.bf16 ? next_k : this_v, a.bf16 ? next_v : next_k, size * kVec};
      attend_block<true>(batch, k, v, v_row, block * kKeyBlock, ahead);
    }
    for (int64_t r = 0; r < batch.rows; ++r) {
      const float inverse = 1.0f / lanes_sum(lanes_load(batch.lanes[r]));
      for (int64_t d = 0; d < dim; ++d) a.out[at[r] + d] = batch.o[r * padded + d] * inverse;
      if (a.max) {
        a.max[statistics[r]] = batch.max[r];
        a.inverse[statistics[r]] = inverse;
      }
    }
  }
}

}  // namespace

void fill_attention(KernelTable& table) { table.attend = attend; }

}  // namespace bessemer::cpu::BESSEMER_ISA
