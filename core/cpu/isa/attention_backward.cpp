// The gradient of attention in the canonical order of core/cpu/attention.h, in one pass: blocks of
// keys outside, batches of queries inside (Dao 2023, "FlashAttention-2", has the same products
// with the loops the other way round). Scores are computed again from q and k.
#include "core/cpu/isa/attention_tile.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int64_t kBatch = 64;  // queries at a time
constexpr int64_t kLanes = 16;

BESSEMER_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
BESSEMER_INLINE int64_t padded_dim(int64_t dim) { return (dim + kLanes - 1) / kLanes * kLanes; }

void backward_rows(const AttendBackward& a, int64_t first, int64_t end) {
  const int64_t padded = padded_dim(a.dim);
  for (int64_t token = first; token < end; ++token) {
    for (int64_t head = 0; head < a.heads; ++head) {
      const int64_t from = (token * a.heads + head) * a.dim;
      const int64_t row = head * a.tokens + token;
      float *q = a.rows_q + row * padded, *g = a.rows_g + row * padded;
      float* dq = a.rows_dq + row * padded;
      for (int64_t d = 0; d < a.dim; ++d) q[d] = a.q[from + d] * a.scale;
      for (int64_t d = 0; d < a.dim; ++d) g[d] = a.g[from + d];
      for (int64_t d = a.dim; d < padded; ++d) q[d] = g[d] = 0.0f;
      for (int64_t d = 0; d < padded; ++d) dq[d] = 0.0f;
      Lanes sum = lanes_all(0.0f);
      int64_t d = 0;
      for (; d + kLanes <= a.dim; d += kLanes) {
        sum = lanes_fma(lanes_load(g + d), lanes_load(a.out + from + d), sum);
      }
      if (d < a.dim) {
        sum = lanes_fma(lanes_load(g + d), lanes_load_part(a.out + from + d, a.dim - d, 0.0f), sum);
      }
      a.delta[row] = lanes_sum(sum);
    }
  }
}

/// A block of keys, and what one (segment, head) adds to its gradients.
struct Block {
  int64_t tokens[kKeyBlock];
  int64_t count;             // keys that exist
  int64_t first;             // position of the first
  float *k_panel, *v_panel;  // [dim][32]
  float* k;                  // [32][padded]
  float *dk, *dv;            // [32][padded]
  float *p, *ds;             // [batch][32]
};

void load_block(const AttendBackward& a, int64_t kv_head, Block& b) {
  const int64_t padded = padded_dim(a.dim);
  float* v = b.dv;  // gathered here, then transposed
  for (int64_t j = 0; j < b.count; ++j) {
    const int64_t from = (b.tokens[j] * a.kv_heads + kv_head) * a.dim;
    for (int64_t d = 0; d < a.dim; ++d) b.k[j * padded + d] = a.k[from + d];
    for (int64_t d = 0; d < a.dim; ++d) v[j * padded + d] = a.v[from + d];
  }
  for (int64_t j = 0; j < kKeyBlock; ++j) {
    for (int64_t d = j < b.count ? a.dim : 0; d < padded; ++d) b.k[j * padded + d] = 0.0f;
  }
  table().pack_b(a.dim, b.count, b.k, 1, padded, b.k_panel);
  table().pack_b(a.dim, b.count, v, 1, padded, b.v_panel);
}

/// Weights and score gradients of one query from its scores and dp; 0 for keys it does not see.
BESSEMER_INLINE void weigh(float* p, float* ds, int64_t keys, float max, float inverse,
                           float delta) {
  for (int64_t j = 0; j < kKeyBlock; j += kVec) {
    const vf weight = weight_of(vec_load(p + j) - vec_all(max)) * vec_all(inverse);
    vec_store(p + j, weight);
    vec_store(ds + j, weight * (vec_load(ds + j) - vec_all(delta)));
  }
  for (int64_t j = keys; j < kKeyBlock; ++j) p[j] = ds[j] = 0.0f;
}

/// Queries [query, query + rows) of one head, the first of which is at `position`.
void backward_batch(const AttendBackward& a, Block& b, int64_t head, int64_t query, int64_t rows,
                    int64_t position) {
  const int64_t padded = padded_dim(a.dim), row0 = head * a.tokens + query;
  const float *q = a.rows_q + row0 * padded, *g = a.rows_g + row0 * padded;
  float* dq = a.rows_dq + row0 * padded;
  const auto keys_of = [&](int64_t row) { return least(position + row + 1 - b.first, b.count); };
  for (int64_t row = 0, tiles = (rows + kTileQueries - 1) / kTileQueries; tiles > 0; --tiles) {
    const auto count = static_cast<int>((rows - row + tiles - 1) / tiles);
    float *p = b.p + row * kKeyBlock, *ds = b.ds + row * kKeyBlock;
    run_chains<true, false>(
        {a.dim, q + row * padded, padded, 1, b.k_panel, kKeyBlock, p, kKeyBlock}, count, kKeyBlock);
    run_chains<true, false>(
        {a.dim, g + row * padded, padded, 1, b.v_panel, kKeyBlock, ds, kKeyBlock}, count,
        kKeyBlock);
    const int64_t fewest = keys_of(row);
    for (int r = 0; r < count; ++r) {
      const int64_t at = row0 + row + r;
      weigh(p + r * kKeyBlock, ds + r * kKeyBlock, keys_of(row + r), a.max[at], a.inverse[at],
            a.delta[at]);
    }
    run_chains<true, true>({fewest, ds, kKeyBlock, 1, b.k, padded, dq + row * padded, padded},
                           count, padded);
    for (int r = 0; r < count; ++r) {  // a skipped key is not one of weight 0
      const int64_t rest = keys_of(row + r) - fewest;
      if (rest == 0) continue;
      run_chains<true, true>({rest, ds + r * kKeyBlock + fewest, kKeyBlock, 1,
                              b.k + fewest * padded, padded, dq + (row + r) * padded, padded},
                             1, padded);
    }
    row += count;
  }
  const int64_t tiles = (b.count + kTileQueries - 1) / kTileQueries;
  int64_t key = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const auto count = static_cast<int>((b.count - key + tiles - tile - 1) / (tiles - tile));
    // The first query that sees one of these keys.
    int64_t from = b.first + key - position;
    from = from < 0 ? 0 : from;
    if (from < rows) {
      run_chains<false, true>({rows - from, b.p + from * kKeyBlock + key, 1, kKeyBlock,
                               g + from * padded, padded, b.dv + key * padded, padded},
                              count, padded);
      run_chains<false, true>({rows - from, b.ds + from * kKeyBlock + key, 1, kKeyBlock,
                               q + from * padded, padded, b.dk + key * padded, padded},
                              count, padded);
    }
    key += count;
  }
}

/// One block against a segment's queries: `queries` from token `first` on, at `position` on.
void backward_segment(const AttendBackward& a, Block& b, int64_t kv_head, int64_t first,
                      int64_t queries, int64_t position) {
  const int64_t padded = padded_dim(a.dim), group = a.heads / a.kv_heads;
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t i = 0; i < kKeyBlock * padded; ++i) b.dk[i] = b.dv[i] = 0.0f;
    for (int64_t row = 0; row < queries; row += kBatch) {
      backward_batch(a, b, head, first + row, least(kBatch, queries - row), position + row);
    }
    for (int64_t j = 0; j < b.count; ++j) {
      const int64_t to = (b.tokens[j] * a.kv_heads + kv_head) * a.dim;
      for (int64_t d = 0; d < a.dim; ++d) a.dk[to + d] += b.dk[j * padded + d];
      for (int64_t d = 0; d < a.dim; ++d) a.dv[to + d] += b.dv[j * padded + d];
    }
  }
}

void backward(const AttendBackward& a, const TokenRange* family, int64_t members, int64_t kv_head) {
  const int64_t padded = padded_dim(a.dim), area = kKeyBlock * padded;
  float* scratch = thread_scratch(0, static_cast<size_t>(5 * area + 2 * kBatch * kKeyBlock));
  Block b;
  b.k_panel = scratch;
  b.v_panel = scratch + area;
  b.k = scratch + 2 * area;
  b.dk = scratch + 3 * area;
  b.dv = scratch + 4 * area;
  b.p = scratch + 5 * area;
  b.ds = b.p + kBatch * kKeyBlock;
  const TokenRange root = family[0];
  const int64_t whole = root.count / kKeyBlock;
  // The root's blocks: whole ones are seen by all members, its last part by itself here and by each
  // continuation together with that one's first tokens.
  for (b.first = 0; b.first < root.count; b.first += kKeyBlock) {
    b.count = least(kKeyBlock, root.count - b.first);
    for (int64_t j = 0; j < b.count; ++j) b.tokens[j] = root.first + b.first + j;
    load_block(a, kv_head, b);
    backward_segment(a, b, kv_head, root.first + b.first, root.count - b.first, b.first);
    for (int64_t m = 1; m < members && b.count == kKeyBlock; ++m) {
      backward_segment(a, b, kv_head, family[m].first, family[m].count, root.count);
    }
  }
  for (int64_t m = 1; m < members; ++m) {
    const TokenRange own = family[m];
    const int64_t end = root.count + own.count;
    for (b.first = whole * kKeyBlock; b.first < end; b.first += kKeyBlock) {
      b.count = least(kKeyBlock, end - b.first);
      for (int64_t j = 0; j < b.count; ++j) {
        const int64_t position = b.first + j;
        b.tokens[j] =
            position < root.count ? root.first + position : own.first + position - root.count;
      }
      load_block(a, kv_head, b);
      const int64_t skipped = b.first > root.count ? b.first - root.count : 0;
      backward_segment(a, b, kv_head, own.first + skipped, own.count - skipped,
                       root.count + skipped);
    }
  }
  const int64_t group = a.heads / a.kv_heads;
  for (int64_t m = 0; m < members; ++m) {
    for (int64_t token = family[m].first; token < family[m].first + family[m].count; ++token) {
      for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        const float* from = a.rows_dq + (head * a.tokens + token) * padded;
        float* to = a.dq + (token * a.heads + head) * a.dim;
        for (int64_t d = 0; d < a.dim; ++d) to[d] = from[d] * a.scale;
      }
    }
  }
}

}  // namespace

void fill_attention_backward(KernelTable& table) {
  table.attend_backward_rows = backward_rows;
  table.attend_backward = backward;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
