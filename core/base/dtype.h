// Element types and the flat array view that every room passes across its edge.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/base/error.h"

namespace bessemer {

enum class Dtype : uint8_t { boolean, u8, i8, i32, i64, f16, bf16, f32, f64 };
inline constexpr int kDtypes = 9;

/// IEEE half and bfloat16 as storage; arithmetic is done in float.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};

constexpr size_t dtype_size(Dtype d) {
  constexpr uint8_t sizes[kDtypes] = {1, 1, 1, 4, 8, 2, 2, 4, 8};
  return sizes[static_cast<int>(d)];
}
constexpr std::string_view dtype_name(Dtype d) {
  constexpr std::string_view names[kDtypes] = {"bool",    "uint8",    "int8",    "int32",  "int64",
                                               "float16", "bfloat16", "float32", "float64"};
  return names[static_cast<int>(d)];
}
constexpr bool dtype_is_float(Dtype d) { return d >= Dtype::f16; }
constexpr bool dtype_is_integer(Dtype d) { return d >= Dtype::u8 && d <= Dtype::i64; }
/// Reads "float32", "f32", "int64", "bool", ...; throws ValueError with the nearest right name.
Dtype dtype_parse(std::string_view name);

template <class T>
constexpr Dtype dtype_of() = delete;
template <>
constexpr Dtype dtype_of<bool>() {
  return Dtype::boolean;
}
template <>
constexpr Dtype dtype_of<uint8_t>() {
  return Dtype::u8;
}
template <>
constexpr Dtype dtype_of<int8_t>() {
  return Dtype::i8;
}
template <>
constexpr Dtype dtype_of<int32_t>() {
  return Dtype::i32;
}
template <>
constexpr Dtype dtype_of<int64_t>() {
  return Dtype::i64;
}
template <>
constexpr Dtype dtype_of<f16>() {
  return Dtype::f16;
}
template <>
constexpr Dtype dtype_of<bf16>() {
  return Dtype::bf16;
}
template <>
constexpr Dtype dtype_of<float>() {
  return Dtype::f32;
}
template <>
constexpr Dtype dtype_of<double>() {
  return Dtype::f64;
}

inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
/// Round to nearest even; NaN stays NaN.
inline bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
float to_float(f16 x);
f16 to_f16(float x);

inline constexpr int kMaxDims = 8;

/// A dense, row-major array somebody else owns: pointer, dtype, shape.
struct ArrayView {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  int32_t ndim = 0;
  int64_t shape[kMaxDims] = {};

  std::span<const int64_t> dims() const { return {shape, static_cast<size_t>(ndim)}; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(numel()) * dtype_size(dtype); }
  /// The elements as T; throws TypeError when the dtype is another.
  template <class T>
  std::span<T> as() const {
    using Value = std::remove_const_t<T>;
    BESSEMER_CHECK(dtype == dtype_of<Value>(), TypeError, "array is ", dtype_name(dtype),
                   ", expected ", dtype_name(dtype_of<Value>()));
    return {static_cast<T*>(data), static_cast<size_t>(numel())};
  }
};

}  // namespace bessemer
