// Attention in the canonical order of core/cpu/attention.h: rows (a query of one head) are worked
// on in batches, so that a block of keys and values stays in cache while all tiles of a batch read
// it. One row and many run the same chains.
#include "core/cpu/isa/attention_tile.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int64_t kBatch = 32;  // rows in flight
constexpr int64_t kLanes = 16;

BESSEMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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

/// Scores of one row to weights: updates max, sum and the output's scale.
BESSEMER_INLINE void weigh(Batch& batch, int64_t row, float* scores, int64_t keys) {
  for (int64_t j = keys; j < kKeyBlock; ++j) scores[j] = -scalar::kInfinity;
  const Lanes first = lanes_load(scores), second = lanes_load(scores + kLanes);
  float max = batch.max[row];
  Lanes top;
  bool above = false;
  BESSEMER_PARTS {
    top.part[i] = first.part[i] > second.part[i] ? first.part[i] : second.part[i];
    above |= any_above(top.part[i], vec_all(max));
  }
  Lanes sum = lanes_load(batch.lanes[row]);
  if (above) {
    alignas(64) float s[kLanes];
    lanes_store(s, top);
    float next = max;
    for (int i = 0; i < kLanes; ++i) next = s[i] > next ? s[i] : next;
    const float scale = weight_of(max - next);
    const Lanes scales = lanes_all(scale);
    float* o = batch.o + row * batch.padded;
    for (int64_t d = 0; d < batch.padded; d += kLanes) {
      lanes_store(o + d, lanes_load(o + d) * scales);
    }
    sum = sum * scales;
    batch.max[row] = max = next;
  }
  Lanes p, r;
  BESSEMER_PARTS {
    p.part[i] = weight_of(first.part[i] - vec_all(max));
    r.part[i] = weight_of(second.part[i] - vec_all(max));
  }
  lanes_store(scores, p);
  lanes_store(scores + kLanes, r);
  lanes_store(batch.lanes[row], sum + (p + r));
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
      for (int r = 0; r < rows; ++r) {
        const int64_t keys = least(batch.keys[row + r] - first_key, kKeyBlock);
        if (keys > 0) weigh(batch, row + r, batch.weights + r * kKeyBlock, keys);
      }
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
