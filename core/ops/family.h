// What the families of fused rows share: choosing a loop by dtype, half types by widening, shapes
// as attributes, outer/axis/inner views of a dimension.
#pragma once

#include "core/ops/ops.h"

namespace bessemer {

inline bool is_half(Dtype dtype) { return dtype == Dtype::f16 || dtype == Dtype::bf16; }

/// Calls body.template operator()<T>() for float or double; other dtypes are a TypeError.
template <class Body>
void visit_float(const char* op, Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::f32:
      return body.template operator()<float>();
    case Dtype::f64:
      return body.template operator()<double>();
    default:
      fail<TypeError>("[", op, "] needs a floating tensor, got ", dtype_name(dtype));
  }
}

/// The same for every dtype that has arithmetic of its own; bool counts as uint8.
template <class Body>
void visit_number(const char* op, Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::boolean:
    case Dtype::u8:
      return body.template operator()<uint8_t>();
    case Dtype::i8:
      return body.template operator()<int8_t>();
    case Dtype::i32:
      return body.template operator()<int32_t>();
    case Dtype::i64:
      return body.template operator()<int64_t>();
    default:
      return visit_float(op, dtype, body);
  }
}

/// Calls body.template operator()<U>() with the unsigned integer as wide as an element (for moves).
template <class Body>
void visit_width(Dtype dtype, Body&& body) {
  switch (dtype_size(dtype)) {
    case 1:
      return body.template operator()<uint8_t>();
    case 2:
      return body.template operator()<uint16_t>();
    case 4:
      return body.template operator()<uint32_t>();
    default:
      return body.template operator()<uint64_t>();
  }
}

/// Where the first input is float16 or bfloat16: runs the row in float32 and rounds its floating
/// results back once. False: nothing done.
inline bool widen_half(OpId id, const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (!is_half(in[0]->dtype())) return false;
  NoGrad guard;
  const OpInfo& info = op_info(id);
  Tensor wide[kMaxInputs];
  const Tensor* inputs[kMaxInputs];
  for (int i = 0; i < info.inputs; ++i) {
    wide[i] = in[i]->defined() && is_half(in[i]->dtype()) ? cast(*in[i], Dtype::f32) : *in[i];
    inputs[i] = &wide[i];
  }
  info.cpu(inputs, attrs, out);
  for (int i = 0; i < info.outputs; ++i)
    if (out[i].dtype() == Dtype::f32) out[i] = cast(out[i], in[0]->dtype());
  return true;
}

/// The elements in row-major order without recording: x itself or a copy.
inline Tensor dense(const Tensor& x) {
  if (x.contiguous()) return x;
  NoGrad guard;
  return contiguous(x);
}

/// An index argument as int64; TypeError for anything but integers.
inline Tensor as_index(const char* op, const char* what, const Tensor& index) {
  if (index.dtype() == Dtype::i64) return index;
  BESSEMER_CHECK(dtype_is_integer(index.dtype()), TypeError, "[", op, "] ", what, " is ",
                 dtype_name(index.dtype()), ", expected int64");
  return cast(index, Dtype::i64);
}
/// IndexError for the first token id outside a vocabulary of `size`.
inline void check_tokens(const char* op, const Tensor& ids, int64_t size) {
  const Tensor flat = dense(ids);
  const int64_t* id = flat.data<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i)
    BESSEMER_CHECK(static_cast<uint64_t>(id[i]) < static_cast<uint64_t>(size), IndexError, "[", op,
                   "] token id ", id[i], " at position ", i, " is outside the vocabulary of ",
                   size);
}

/// ValueError where `target` must not be written in place.
void check_writable(const char* op, const Tensor& target);

inline const char* bytes_of(const Tensor& x) { return static_cast<const char*>(x.raw()); }
inline char* bytes_of_output(const Tensor& x) { return static_cast<char*>(x.raw()); }

/// A contiguous tensor around one dimension: [outer, size, inner].
struct Axis {
  int64_t outer = 1, size = 1, inner = 1;
  Axis(std::span<const int64_t> shape, int dim) : size(shape[dim]) {
    for (int i = 0; i < dim; ++i) outer *= shape[i];
    for (size_t i = dim + 1; i < shape.size(); ++i) inner *= shape[i];
  }
};

/// A shape in 49 bytes: sizes up to 2^48.
struct PackedShape {
  uint32_t low[kMaxDims] = {};
  uint16_t high[kMaxDims] = {};
  uint8_t ndim = 0;

  PackedShape() = default;
  explicit PackedShape(const Shape& shape) : ndim(static_cast<uint8_t>(shape.ndim)) {
    for (int i = 0; i < shape.ndim; ++i) {
      low[i] = static_cast<uint32_t>(shape.dim[i]);
      high[i] = static_cast<uint16_t>(shape.dim[i] >> 32);
    }
  }
  Shape unpack() const {
    Shape shape;
    shape.ndim = ndim;
    for (int i = 0; i < ndim; ++i) shape.dim[i] = int64_t{high[i]} << 32 | low[i];
    return shape;
  }
};

/// Attributes of rows that work along one dimension.
struct DimAttrs {
  int32_t dim = 0;
  int32_t flag = 0;  // keepdim, reverse or descending
};

}  // namespace bessemer
