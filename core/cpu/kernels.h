// The table of CPU kernels: raw pointers in, raw pointers out, one table for each instruction set,
// chosen once at start. Loops are compiled from the same sources for every table (core/cpu/isa).
// Canonical order: every table gives the same bits in fp32, except that the baseline has no FMA of
// its own and is held to tolerances.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/thread_pool.h"
#include "core/ops/op_list.h"

namespace bessemer::cpu {

struct Attend;  // core/cpu/attention.h
struct AttendBackward;
struct TokenRange;

/// n elements; `step_*` is the distance between elements of an operand: 1, 0 (one value for all),
/// or any other stride in elements. `out` has its own stride.
using UnaryLoop = void (*)(int64_t n, void* out, int64_t step_out, const void* x, int64_t step_x);
using BinaryLoop = void (*)(int64_t n, void* out, int64_t step_out, const void* a, int64_t step_a,
                            const void* b, int64_t step_b);
using TernaryLoop = void (*)(int64_t n, void* out, int64_t step_out, const void* a, int64_t step_a,
                             const void* b, int64_t step_b, const void* c, int64_t step_c);

enum class Activation : int32_t { none, relu, tanh, sigmoid, silu, gelu };

/// C[m, n] (+)= act(A[m, k] · B[k, n] + bias[n]); any strides for A and B, C has unit column
/// stride. Each element is one chain of fused multiply-adds over k inside blocks of kBlockK, the
/// blocks added in order, then bias, then the activation: the same bits for any m, n, threads and
/// instruction set.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t a_row = 0, a_col = 1;
  const float* b = nullptr;
  int64_t b_row = 0, b_col = 1;
  /// B as panels of kPanel columns, [ceil(n / kPanel)][k][kPanel], zero-padded: set by pack_b; then
  /// `b` is not read.
  const void* b_packed = nullptr;
  float* c = nullptr;
  int64_t c_row = 0;
  const float* bias = nullptr;
  Activation activation = Activation::none;
  bool accumulate = false;  // C += instead of C =; no bias or activation then
};
inline constexpr int64_t kBlockK = 384;
inline constexpr int64_t kPanel = 32;
inline int64_t packed_floats(int64_t k, int64_t n) {
  return (n + kPanel - 1) / kPanel * kPanel * k;
}

/// One parameter's AdamW step in place. Decoupled weight decay (Loshchilov & Hutter 2019); with
/// weight_decay 0 it is Adam (Kingma & Ba 2015) with PyTorch's placement of eps:
///   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g²;  p -= lr (m / c1) / (sqrt(v / c2) + eps)
/// where c1 = 1 - b1^t, c2 = 1 - b2^t and g is first multiplied by `grad_scale` (gradient
/// clipping).
struct AdamArgs {
  int64_t n;
  float *p, *m, *v;
  const float* g;
  float lr, beta1, beta2, eps, weight_decay, correction1, correction2, grad_scale;
};

/// What a softmax over a row of logits z gives for one of its elements.
struct TokenStats {
  float max, log_sum;  // of z, of exp(z - max)
  float log_prob;      // (z[target] - max) - log_sum
  float entropy;       // -sum(p log p)
  bool hit;            // no z is larger than z[target], none before it as large
};

/// Of a row's softmax, to draw from it.
struct TokenWeights {
  float max, log_sum;  // as in TokenStats
  int64_t block;       // the first block of kWeightBlock elements that has the largest
};
inline constexpr int64_t kWeightBlock = 256;

struct KernelTable {
  const char* isa;  // "baseline", "avx2", "avx512"
  int vector_floats;

  // Elementwise rows, by OpId; null where the dtype has no loop of its own. Half types are widened
  // in blocks by the caller (core/ops/elementwise.cpp) and use the f32 loops.
  UnaryLoop unary_f32[kUnaryOps], unary_f64[kUnaryOps], unary_i32[kUnaryOps], unary_i64[kUnaryOps];
  BinaryLoop binary_f32[kBinaryOps], binary_f64[kBinaryOps], binary_i32[kBinaryOps],
      binary_i64[kBinaryOps], binary_u8[kBinaryOps], binary_i8[kBinaryOps];
  // Conversions between any two dtypes, [from][to].
  UnaryLoop cast[kDtypes][kDtypes];
  // where(condition u8, a, b) by element size 1, 2, 4, 8 (index log2).
  TernaryLoop where[4];

  // Products.
  void (*gemm)(const Gemm&, ThreadPool*);
  void (*gemm_f64)(int64_t m, int64_t n, int64_t k, const double* a, int64_t a_row, int64_t a_col,
                   const double* b, int64_t b_row, int64_t b_col, double* c, int64_t c_row);
  void (*pack_b)(int64_t k, int64_t n, const float* b, int64_t b_row, int64_t b_col, float* packed);
  /// bfloat16 factors with float32 sums. The words of A and B hold pairs along k (element 2p in the
  /// low half; a missing last element is 0), `k` and the strides count words, and pack_b packs
  /// them. A chain adds the odd product of a pair, then the even one, in blocks of kBlockK / 2
  /// pairs that are added in order. Two fused multiply-adds, or the machine's own instruction,
  /// which may round in another way: one machine gives the same bits for one row and a thousand.
  void (*gemm_pairs)(const Gemm&, ThreadPool*);
  /// Words of bfloat16 (`f32`: rounded from float32) rows: pairs of neighbours in a row,
  /// [rows][(n + 1) / 2], or of neighbours in a column, [(rows + 1) / 2][n].
  void (*pair_columns)(int64_t rows, int64_t n, const bf16* x, int64_t row_stride, uint32_t* words);
  void (*pair_columns_f32)(int64_t rows, int64_t n, const float* x, int64_t row_stride,
                           uint32_t* words);
  void (*pair_rows)(int64_t rows, int64_t n, const bf16* x, int64_t row_stride, uint32_t* words);
  void (*pair_rows_f32)(int64_t rows, int64_t n, const float* x, int64_t row_stride,
                        uint32_t* words);
  /// gemm with a bfloat16 B that is widened on load: b_packed is from pack_b_half. The bits of gemm
  /// with B cast to float32.
  void (*gemm_widen)(const Gemm&, ThreadPool*);
  void (*pack_b_half)(int64_t k, int64_t n, const uint16_t* b, int64_t b_row, int64_t b_col,
                      uint16_t* packed);

  // Rows: [rows, n] contiguous in and out. Sums use 16 virtual lanes and a fixed halving tree.
  void (*sum_rows)(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out);
  /// out[j] = sum over rows of x[i, j]: each column one chain over rows in blocks of 256, added in
  /// order.
  void (*sum_columns)(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out);
  void (*max_rows)(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out);
  void (*softmax_rows)(int64_t rows, int64_t n, const float* x, float* out);
  void (*log_softmax_rows)(int64_t rows, int64_t n, const float* x, float* out);
  /// dx = y * (g - sum(g * y)) and dx = g - exp(y) * sum(g).
  void (*softmax_backward_rows)(int64_t rows, int64_t n, const float* y, const float* g, float* dx);
  void (*log_softmax_backward_rows)(int64_t rows, int64_t n, const float* y, const float* g,
                                    float* dx);
  /// (x - mean) / sqrt(var + eps) * weight + bias; saves mean and 1/std when the pointers are set.
  void (*layer_norm_rows)(int64_t rows, int64_t n, const float* x, const float* weight,
                          const float* bias, float eps, float* out, float* mean, float* rstd);
  /// Gradients of layer_norm_rows (no bias: null); see rms_norm_backward_rows.
  void (*layer_norm_backward_rows)(int64_t rows, int64_t n, const float* x, const float* weight,
                                   const float* g, float eps, float* dx, float* dweight,
                                   float* dbias);
  /// x / sqrt(mean(x^2) + eps) * weight (null: 1).
  void (*rms_norm_rows)(int64_t rows, int64_t n, const float* x, const float* weight, float eps,
                        float* out);
  /// Its gradients, each where it is not null; dweight [n] is one chain down the rows given.
  void (*rms_norm_backward_rows)(int64_t rows, int64_t n, const float* x, const float* weight,
                                 const float* g, float eps, float* dx, float* dweight);
  /// Turns the halves of x [tokens, heads, 2 half] by angles whose cosines and sines (times `sign`)
  /// are rows [2, half] of `angles` at `places`.
  void (*rope_rows)(int64_t tokens, int64_t heads, int64_t half, const float* x,
                    const float* angles, const int64_t* places, float sign, float* out);
  /// silu(gate) * up, and its gradients.
  void (*swiglu)(int64_t n, const float* gate, const float* up, float* out);
  void (*swiglu_backward)(int64_t n, const float* gate, const float* up, const float* g,
                          float* dgate, float* dup);
  /// One token a row of z = raw * scale, rows `row_stride` apart: log_prob with the bits of
  /// log_softmax_rows, entropy (where asked) with those of -sum(exp(l) * l) over its result.
  void (*token_stats_rows)(int64_t rows, int64_t n, const float* raw, int64_t row_stride,
                           float scale, const int64_t* targets, bool entropy, TokenStats* stats);
  /// weights[i] = exp(z[i] - max) for z = raw * scale, and their sums over blocks of kWeightBlock;
  /// max and log_sum have the bits of token_stats_rows. Where raw or the
  /// largest z is not finite, neither is max, and nothing is written.
  TokenWeights (*token_weights)(int64_t n, const float* raw, float scale, float* weights,
                                float* block_sums);
  /// raw becomes its own gradient: dz = g_log_prob (onehot - p) - g_entropy p (log p + entropy),
  /// d raw = dz * scale, d_scale[r] = sum(dz * raw). Null: a gradient that is 0, a sum not wanted.
  void (*token_backward_rows)(int64_t rows, int64_t n, float* raw, int64_t row_stride, float scale,
                              const int64_t* targets, const TokenStats* stats,
                              const float* g_log_prob, const float* g_entropy, float* d_scale);
  double (*sum_squares)(int64_t n, const float* x);
  /// dx = g * act'(from the activation's output y), for Activation::relu, tanh, sigmoid.
  void (*activation_backward)(Activation, int64_t n, const float* y, const float* g, float* dx);
  void (*adam)(const AdamArgs&);

  /// Queries [first, end) of a sequence against all keys they see, for the heads that share
  /// `kv_head`. How queries are divided into calls changes no bit.
  void (*attend)(const Attend&, int64_t kv_head, int64_t first, int64_t end);
  /// Fills the scratch of tokens [first, end); all tokens come before attend_backward.
  void (*attend_backward_rows)(const AttendBackward&, int64_t first, int64_t end);
  /// All gradients of a segment (family[0]) and of the segments whose prefix it is, for the heads
  /// that share `kv_head`.
  void (*attend_backward)(const AttendBackward&, const TokenRange* family, int64_t members,
                          int64_t kv_head);
};

/// The chosen table: the widest this machine has, or BESSEMER_ISA=baseline|avx2|avx512 (an
/// instruction set the machine lacks is a ValueError).
const KernelTable& kernels();
/// The table of a named instruction set; ValueError where this machine cannot run it.
const KernelTable& kernels(std::string_view isa);
/// Names of the tables that this machine can run, narrowest first.
std::vector<std::string> available_isas();
/// The pool that large operations use; threads = 1 until set_threads() says otherwise (0: one a
/// core). Not while an operation runs.
ThreadPool& pool();
void set_threads(int threads);

}  // namespace bessemer::cpu
