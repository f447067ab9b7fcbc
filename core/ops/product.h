// Products of a linear layer on memory that the caller owns: the layer itself, and rows that work
// in blocks of it.
#pragma once

#include "core/ops/ops.h"

namespace bessemer {

/// What a product multiplies: cpu::KernelTable's gemm, gemm_pairs or gemm_widen.
enum class Factors { f32, pairs, widen };

/// Words that a product reads while it runs.
struct Operands {
  Tensor a, b;
};

/// Sets A and B of x [m, k] @ weight [n, k].T: g.m, g.n and g.k hold the sizes of x and weight. x
/// has the strides given, in elements. `keep` keeps a packed weight.
Factors forward_operands(const Tensor& x, int64_t row, int64_t col, const Tensor& weight, bool keep,
                         cpu::Gemm& g, Operands& held);
/// Runs it, on all threads where that is worth it.
void run_product(const cpu::Gemm& g, Factors factors);

/// out[i, j] = x[i] . weight[j] for x [rows, in] and weight [out, in]: the bits of linear(x,
/// weight, widen), rows of `out` out_row apart. A packed weight is used where it is current; `keep`
/// makes and keeps it.
void product_forward(const Tensor& x, const Tensor& weight, bool keep, float* out, int64_t out_row);

/// A matrix [count, width] of float32 or bfloat16 with rows `stride` elements apart.
struct ProductRows {
  const void* data;
  Dtype dtype;
  int64_t count, width, stride;
};
/// dx [rows, in] = g [rows, out] @ weight [out, in]. `half`: factors are rounded to bfloat16, else
/// all of them are float32.
void product_input(const ProductRows& g, const Tensor& weight, bool half, float* dx);
/// dweight [out, in] (+)= g.T @ x.
void product_weight(const ProductRows& g, const ProductRows& x, bool half, float* dweight,
                    bool accumulate);

}  // namespace bessemer
