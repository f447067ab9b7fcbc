// One message: a msgpack header and raw array frames that it describes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/dtype.h"
#include "core/wire/value.h"

namespace bessemer::wire {

inline constexpr int kProtocol = 1;

/// A named dense array, row-major, little-endian. Somebody else owns the bytes.
struct NamedArray {
  std::string name;
  ArrayView view;
};

struct Limits {
  size_t header_bytes = size_t{1} << 20;
  size_t bytes = size_t{1} << 28;  // header and arrays together
  size_t arrays = 256;
};

/// A message to send borrows its arrays until `send` returns; a received one owns them (`storage`).
struct Message {
  std::string type;
  uint64_t id = 0;
  std::string session;  // empty: none
  uint64_t ack = 0;
  Map fields;
  std::vector<NamedArray> arrays;
  std::shared_ptr<const void> storage;

  Message() = default;
  explicit Message(std::string type_) : type(std::move(type_)) {}

  void add(std::string name, Dtype dtype, std::span<const int64_t> shape, const void* data);
  void add(std::string name, Dtype dtype, std::initializer_list<int64_t> shape, const void* data) {
    add(std::move(name), dtype, std::span<const int64_t>(shape.begin(), shape.size()), data);
  }
  const ArrayView* find(std::string_view name) const;
  /// Throws WireError (malformed) when there is none of this name.
  const ArrayView& array(std::string_view name) const;
  /// Also checks dtype and shape (WireError, bad_type).
  const ArrayView& array(std::string_view name, Dtype dtype, std::span<const int64_t> shape) const;
  size_t array_bytes() const;
};

/// The header's bytes (the arrays' names, dtypes and shapes inside).
void encode_header(const Message& message, std::string& out);
/// Reads a header; the arrays' data are null until their frames are attached. Throws WireError.
Message decode_header(std::string_view bytes, const Limits& limits = {});
/// Points the arrays at their frames; the sizes must be exact. Throws WireError.
void attach_frames(Message& message, std::span<const std::string_view> frames);

}  // namespace bessemer::wire
