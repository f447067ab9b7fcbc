// Walks several strided operands of one shape in row-major order, merged into as few and as long
// inner loops as their strides allow.
#pragma once

#include <cstdint>

#include "core/tensor/tensor.h"

namespace bessemer {

/// Strides of `x` in elements when its shape is stretched to `shape`: 0 along broadcast dimensions.
inline void broadcast_strides(const Tensor& x, const Shape& shape, int64_t* strides) {
  const TensorImpl* impl = x.impl();
  const int lead = shape.ndim - impl->ndim;
  for (int i = 0; i < shape.ndim; ++i) {
    const int from = i - lead;
    strides[i] =
        from < 0 || (impl->shape[from] == 1 && shape.dim[i] != 1) ? 0 : impl->strides[from];
  }
}

template <int Operands>
struct StridedLoop {
  int ndim = 0;  // after merging; at least 1
  int64_t shape[kMaxDims];
  int64_t strides[Operands][kMaxDims];  // elements

  StridedLoop(const Shape& full, const int64_t (&steps)[Operands][kMaxDims]) {
    for (int i = 0; i < full.ndim; ++i) {
      if (full.dim[i] == 1) continue;
      bool merges = ndim > 0;
      for (int o = 0; o < Operands && merges; ++o)
        merges = strides[o][ndim - 1] == steps[o][i] * full.dim[i];
      if (merges) {
        shape[ndim - 1] *= full.dim[i];
      } else {
        shape[ndim++] = full.dim[i];
      }
      for (int o = 0; o < Operands; ++o) strides[o][ndim - 1] = steps[o][i];
    }
    if (ndim == 0) {
      ndim = 1;
      shape[0] = 1;
      for (int o = 0; o < Operands; ++o) strides[o][0] = 1;
    }
  }

  /// body(n, offsets): one inner loop of n elements; offsets in elements from each operand's start.
  template <class Body>
  void run(Body&& body) const {
    int64_t index[kMaxDims] = {}, offset[Operands] = {};
    for (int i = 0; i < ndim; ++i)
      if (shape[i] == 0) return;
    for (;;) {
      body(shape[ndim - 1], offset);
      int d = ndim - 2;
      for (; d >= 0; --d) {
        for (int o = 0; o < Operands; ++o) offset[o] += strides[o][d];
        if (++index[d] < shape[d]) break;
        for (int o = 0; o < Operands; ++o) offset[o] -= strides[o][d] * shape[d];
        index[d] = 0;
      }
      if (d < 0) return;
    }
  }
  int64_t inner_step(int operand) const { return strides[operand][ndim - 1]; }
};

}  // namespace bessemer
