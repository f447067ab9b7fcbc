// Causal attention over pages of 32 keys: what core/ops/attention*.cpp hands to the kernels of
// core/cpu/isa/attention.cpp.
//
// Canonical order. Keys are taken in blocks of 32 counted from the sequence's first token, in
// ascending order, keys after the query skipped. For each block:
//   s[j] = one chain of fused multiply-adds over the D elements of (q * scale) and k[j]
//   m'   = max(m, max_j s[j]);  a = e(m - m')        (m starts at -infinity)
//   p[j] = e(s[j] - m')
//   l[i] = l[i] * a + (p[i] + p[i + 16])             (16 lanes, start at 0)
//   o[d] = o[d] * a, then one chain of fused multiply-adds over the block's keys of p[j] and
//   v[j][d]
// and at the end l by the halving tree and o[d] * (1 / l). e is exp, and 0 below -87.3. (Online
// softmax: Milakov & Gimelshein 2018; the score matrix is never held: Dao et al. 2022.)
#pragma once

#include <cstdint>

namespace bessemer::cpu {

inline constexpr int64_t kKeyBlock = 32;

/// One sequence: `queries` rows of q that are its last tokens so far; query i sees the keys
/// 0 .. position + i. Block b of its keys is page table[b]: keys as a panel [D][32], values as
/// [32][D], for each of kv_heads, in float32 or bfloat16 (widened on load).
struct Attend {
  int64_t heads, kv_heads, dim;
  float scale;
  const float* q;  // [queries][heads][dim]
  float* out;      // the same
  int64_t position;
  const int64_t* table;
  const void *k_pages, *v_pages;
  bool bf16;
  /// For the backward pass, or null: m and 1 / l of head h and query i at [h * statistics_head +
  /// i].
  float *max, *inverse;
  int64_t statistics_head;
};

/// Tokens [first, first + count) of a packed batch.
struct TokenRange {
  int64_t first, count;
};

/// The gradient, with the m and 1 / l that the forward pass kept. For a query i and a key j it sees
///   s = as above;  p = e(s - m) * (1 / l);  dp = one chain over the D elements of g[i] and v[j]
///   ds = p * (dp - delta[i]),  delta = g[i] · out[i] over 16 lanes and the halving tree
/// dq[i] is one chain over its keys, ascending, of ds and k[j], then times scale. dk[j] and dv[j]
/// are sums over the segments that see the key and their heads, in this order, of one chain each
/// over the segment's queries of ds and q[i] * scale, and of p and g[i].
struct AttendBackward {
  int64_t tokens, heads, kv_heads, dim;
  float scale;
  const float *q, *g, *out;        // [tokens][heads][dim]
  const float *k, *v;              // [tokens][kv_heads][dim]
  const float *max, *inverse;      // [heads][tokens]
  float *rows_q, *rows_g, *delta;  // scratch: twice [heads][tokens][dim up to 16], [heads][tokens]
  float* rows_dq;                  // scratch, as rows_q
  float *dq, *dk, *dv;             // results as q and k; dk and dv begin as 0
};

}  // namespace bessemer::cpu
