// Shapes and strides: at most kMaxDims sizes, kept inline.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace bessemer {

struct Shape {
  int32_t ndim = 0;
  int64_t dim[kMaxDims] = {};

  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes) {
    BESSEMER_CHECK(sizes.size() <= kMaxDims, ValueError, "a tensor has at most ", kMaxDims,
                   " dimensions, got ", sizes.size());
    ndim = static_cast<int32_t>(sizes.size());
    for (int i = 0; i < ndim; ++i) dim[i] = sizes[i];
  }

  int64_t operator[](int i) const { return dim[i]; }
  int64_t& operator[](int i) { return dim[i]; }
  std::span<const int64_t> dims() const { return {dim, static_cast<size_t>(ndim)}; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= dim[i];
    return n;
  }
  void push(int64_t size) {
    BESSEMER_CHECK(ndim < kMaxDims, ValueError, "a tensor has at most ", kMaxDims, " dimensions");
    dim[ndim++] = size;
  }
  bool operator==(const Shape& other) const {
    if (ndim != other.ndim) return false;
    for (int i = 0; i < ndim; ++i)
      if (dim[i] != other.dim[i]) return false;
    return true;
  }
};

/// "(4, 8)" for messages.
inline std::string shape_text(std::span<const int64_t> dims) { return cat(dims); }
inline std::string shape_text(const Shape& shape) { return cat(shape.dims()); }

/// NumPy's broadcasting; throws ValueError "[op] shapes do not broadcast: (4, 8) and (3,)".
Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b);

/// Row-major strides in elements.
void contiguous_strides(const Shape& shape, int64_t* strides);

/// -1 .. ndim-1 to 0 .. ndim-1; throws IndexError naming the op.
int normalize_dim(std::string_view op, int64_t dim, int ndim);

}  // namespace bessemer
