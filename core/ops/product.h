// Products of a linear layer into memory that the caller owns, for rows that work in blocks.
#pragma once

#include "core/ops/ops.h"

namespace bessemer {

/// out[i, j] = x[i] . weight[j] for x [rows, in], weight [out, in]: the bits of linear(x, weight,
/// widen), rows of `out` out_row apart. The weight's packed form is used where it is current;
/// `keep` makes and keeps it.
void product_forward(const Tensor& x, const Tensor& weight, bool keep, float* out, int64_t out_row);
/// dx[rows, in] = g @ weight for g [rows, out], rows g_row apart.
void product_input(int64_t rows, const float* g, int64_t g_row, const Tensor& weight, float* dx);
/// dweight[out, in] (+)= g.T @ x, one chain over x's rows (at most cpu::kBlockK of them).
void product_weight(const float* g, int64_t g_row, const Tensor& x, int64_t out, float* dweight,
                    bool accumulate);

}  // namespace bessemer
