#include "core/wire/message.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace bessemer::wire {

void Message::add(std::string name, Dtype dtype, std::span<const int64_t> shape, const void* data) {
  BESSEMER_CHECK(shape.size() <= kMaxDims, ValueError, "[wire] array '", name, "' has ",
                 shape.size(), " dimensions, at most ", kMaxDims);
  NamedArray array{std::move(name), {}};
  array.view.data = const_cast<void*>(data);
  array.view.dtype = dtype;
  array.view.ndim = static_cast<int32_t>(shape.size());
  std::ranges::copy(shape, array.view.shape);
  arrays.push_back(std::move(array));
}

const ArrayView* Message::find(std::string_view name) const {
  for (const NamedArray& array : arrays) {
    if (array.name == name) return &array.view;
  }
  return nullptr;
}

const ArrayView& Message::array(std::string_view name) const {
  const ArrayView* view = find(name);
  if (!view) refuse(Code::malformed, "[wire] ", type, ": array '", name, "' is missing");
  return *view;
}

const ArrayView& Message::array(std::string_view name, Dtype dtype,
                                std::span<const int64_t> shape) const {
  const ArrayView& view = array(name);
  if (view.dtype != dtype || !std::ranges::equal(view.dims(), shape)) {
    refuse(Code::bad_type, "[wire] ", type, ": array '", name, "' is ", dtype_name(view.dtype), " ",
           view.dims(), ", expected ", dtype_name(dtype), " ", shape);
  }
  return view;
}

size_t Message::array_bytes() const {
  size_t total = 0;
  for (const NamedArray& array : arrays) total += array.view.bytes();
  return total;
}

namespace {

// Headers are read and written here byte by byte: a step's header is most of what a small step
// costs, and building values for it would treble that. Fields other than these go through value.h.

/// Writes msgpack's shortest forms.
struct Writer {
  std::string& out;

  void raw(uint8_t tag, uint64_t value, int bytes) {
    out += static_cast<char>(tag);
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
      out += static_cast<char>(value >> shift);
    }
  }
  void count(uint64_t x) {
    if (x < 0x80) {
      out += static_cast<char>(x);
    } else if (x <= 0xff) {
      raw(0xcc, x, 1);
    } else if (x <= 0xffff) {
      raw(0xcd, x, 2);
    } else if (x <= 0xffffffff) {
      raw(0xce, x, 4);
    } else {
      raw(0xcf, x, 8);
    }
  }
  void text(std::string_view x) {
    if (x.size() < 32) {
      out += static_cast<char>(0xa0 | x.size());
    } else if (x.size() <= 0xff) {
      raw(0xd9, x.size(), 1);
    } else if (x.size() <= 0xffff) {
      raw(0xda, x.size(), 2);
    } else {
      raw(0xdb, x.size(), 4);
    }
    out += x;
  }
  void list(size_t n) {
    if (n < 16) {
      out += static_cast<char>(0x90 | n);
    } else {
      raw(0xdc, n, 2);
    }
  }
};

/// Reads forward; throws WireError where the bytes are something else or end.
class Reader {
 public:
  explicit Reader(std::string_view bytes)
      : at_(reinterpret_cast<const uint8_t*>(bytes.data())), end_(at_ + bytes.size()) {}

  bool done() const { return at_ == end_; }
  const char* here() const { return reinterpret_cast<const char*>(at_); }

  uint64_t map(std::string_view what) {
    const uint8_t tag = next();
    if ((tag & 0xf0) == 0x80) return tag & 0x0f;
    if (tag == 0xde) return number(2);
    if (tag == 0xdf) return number(4);
    wrong(what, "a map");
  }
  uint64_t list(std::string_view what) {
    const uint8_t tag = next();
    if ((tag & 0xf0) == 0x90) return tag & 0x0f;
    if (tag == 0xdc) return number(2);
    if (tag == 0xdd) return number(4);
    wrong(what, "a list");
  }
  std::string_view text(std::string_view what) {
    const uint8_t tag = next();
    uint64_t size = 0;
    if ((tag & 0xe0) == 0xa0) {
      size = tag & 0x1f;
    } else if (tag == 0xd9 || tag == 0xc4) {
      size = number(1);
    } else if (tag == 0xda || tag == 0xc5) {
      size = number(2);
    } else if (tag == 0xdb || tag == 0xc6) {
      size = number(4);
    } else {
      wrong(what, "text");
    }
    need(size);
    const char* data = here();
    at_ += size;
    return {data, size};
  }
  uint64_t count(std::string_view what) {
    const uint8_t tag = next();
    if (tag < 0x80) return tag;
    if (tag >= 0xcc && tag <= 0xcf) return number(1 << (tag - 0xcc));
    if (tag >= 0xd0 && tag <= 0xd3) {  // signed forms of what is not negative are as good
      const int bytes = 1 << (tag - 0xd0);
      const uint64_t value = number(bytes);
      if (!(value >> (8 * bytes - 1))) return value;
      negative(what);
    }
    if (tag >= 0xe0) negative(what);
    wrong(what, "an integer");
  }
  /// Passes over one value of any kind.
  void skip() {
    for (uint64_t left = 1; left > 0; --left) {
      const uint8_t tag = next();
      uint64_t bytes = 0, items = 0;
      if (tag < 0x80 || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3) {
        continue;
      } else if (tag < 0x90) {
        items = 2 * (tag & 0x0f);
      } else if (tag < 0xa0) {
        items = tag & 0x0f;
      } else if (tag < 0xc0) {
        bytes = tag & 0x1f;
      } else if (tag >= 0xc4 && tag <= 0xc6) {
        bytes = number(1 << (tag - 0xc4));
      } else if (tag == 0xca) {
        bytes = 4;
      } else if (tag == 0xcb) {
        bytes = 8;
      } else if (tag >= 0xcc && tag <= 0xd3) {
        bytes = uint64_t{1} << ((tag - 0xcc) & 3);
      } else if (tag >= 0xd9 && tag <= 0xdb) {
        bytes = number(1 << (tag - 0xd9));
      } else if (tag == 0xdc || tag == 0xdd) {
        items = number(tag == 0xdc ? 2 : 4);
      } else if (tag == 0xde || tag == 0xdf) {
        items = 2 * number(tag == 0xde ? 2 : 4);
      } else {
        refuse(Code::malformed, "[wire] header is not readable: an ext value");
      }
      need(bytes);
      at_ += bytes;
      left += items;
    }
  }

 private:
  void need(uint64_t bytes) const {
    if (bytes > static_cast<uint64_t>(end_ - at_)) {
      refuse(Code::malformed, "[wire] header is not readable: truncated msgpack");
    }
  }
  uint8_t next() {
    need(1);
    return *at_++;
  }
  uint64_t number(int bytes) {
    need(static_cast<uint64_t>(bytes));
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | *at_++;
    return value;
  }
  [[noreturn, gnu::cold]] static void wrong(std::string_view what, std::string_view wanted) {
    refuse(Code::malformed, "[wire] '", what, "' must be ", wanted);
  }
  [[noreturn, gnu::cold]] static void negative(std::string_view what) {
    refuse(Code::malformed, "[wire] '", what, "' must not be negative");
  }

  const uint8_t* at_;
  const uint8_t* end_;
};

Dtype read_dtype(Reader& reader, std::string_view array) {
  const std::string_view name = reader.text("array dtype");
  for (int d = 0; d < kDtypes; ++d) {
    if (dtype_name(static_cast<Dtype>(d)) == name) return static_cast<Dtype>(d);
  }
  refuse(Code::bad_type, "[wire] array '", array, "' has unknown dtype '", name, "'");
}

void read_arrays(Reader& reader, Message& message, size_t header, const Limits& limits) {
  const uint64_t count = reader.list("arrays");
  if (count > limits.arrays) {
    refuse(Code::too_large, "[wire] ", count, " arrays, at most ", limits.arrays);
  }
  message.arrays.reserve(count);
  size_t total = header;
  for (uint64_t i = 0; i < count; ++i) {
    if (reader.list("arrays[]") != 3) {
      refuse(Code::malformed, "[wire] an array is [name, dtype, shape]");
    }
    NamedArray& array = message.arrays.emplace_back();
    array.name = reader.text("array name");
    ArrayView& view = array.view;
    view.dtype = read_dtype(reader, array.name);
    const uint64_t dims = reader.list("array shape");
    if (dims > kMaxDims) {
      refuse(Code::bad_type, "[wire] array '", array.name, "' has ", dims, " dimensions");
    }
    size_t size = dtype_size(view.dtype);
    for (uint64_t d = 0; d < dims; ++d) {
      const uint64_t n = reader.count("array shape");
      // Any dimension above the limit is refused even beside a zero, so products cannot overflow.
      if (n > limits.bytes || (n != 0 && size > limits.bytes / n)) {
        refuse(Code::too_large, "[wire] array '", array.name, "' is larger than ", limits.bytes,
               " bytes");
      }
      size *= n;
      view.shape[view.ndim++] = static_cast<int64_t>(n);
    }
    total += size;
    if (total > limits.bytes) {
      refuse(Code::too_large, "[wire] message is larger than ", limits.bytes, " bytes");
    }
  }
}

}  // namespace

void encode_header(const Message& message, std::string& out) {
  const bool session = !message.session.empty();
  out.reserve(out.size() + 128 + 40 * message.arrays.size());
  pack_size(out, message.fields.items.size() + 2 + (session ? 2 : 0) + !message.arrays.empty());
  Writer writer{out};
  writer.text("type");
  writer.text(message.type);
  writer.text("id");
  writer.count(message.id);
  if (session) {
    writer.text("session");
    writer.text(message.session);
    writer.text("ack");
    writer.count(message.ack);
  }
  if (!message.arrays.empty()) {
    writer.text("arrays");
    writer.list(message.arrays.size());
    for (const NamedArray& array : message.arrays) {
      writer.list(3);
      writer.text(array.name);
      writer.text(dtype_name(array.view.dtype));
      writer.list(static_cast<size_t>(array.view.ndim));
      for (const int64_t d : array.view.dims()) writer.count(static_cast<uint64_t>(d));
    }
  }
  for (const auto& [key, value] : message.fields.items) pack_item(out, key, value);
}

Message decode_header(std::string_view bytes, const Limits& limits) {
  if (bytes.size() > limits.header_bytes) {
    refuse(Code::too_large, "[wire] header of ", bytes.size(), " bytes, at most ",
           limits.header_bytes);
  }
  Reader reader(bytes);
  Message message;
  constexpr std::string_view known[] = {"type", "id", "session", "ack", "arrays"};
  bool seen[std::size(known)] = {};
  std::string rest;  // the other fields, as they came
  uint64_t others = 0;
  const uint64_t keys = reader.map("header");
  for (uint64_t i = 0; i < keys; ++i) {
    const char* begin = reader.here();
    const std::string_view key = reader.text("key");
    const auto at = static_cast<size_t>(std::ranges::find(known, key) - std::begin(known));
    if (at < std::size(known) && std::exchange(seen[at], true)) {
      refuse(Code::malformed, "[wire] header is not readable: a key given twice");
    }
    switch (at) {
      case 0:
        message.type = reader.text(key);
        break;
      case 1:
        message.id = reader.count(key);
        break;
      case 2:
        message.session = reader.text(key);
        break;
      case 3:
        message.ack = reader.count(key);
        break;
      case 4:
        read_arrays(reader, message, bytes.size(), limits);
        break;
      default:
        reader.skip();
        rest.append(begin, reader.here());
        ++others;
    }
  }
  if (!reader.done()) refuse(Code::malformed, "[wire] header has bytes after its end");
  if (!seen[0]) refuse(Code::malformed, "[wire] 'type' is missing");
  if (others) {
    std::string map;
    pack_size(map, others);
    message.fields = unpack(map + rest);
  }
  return message;
}

void attach_frames(Message& message, std::span<const std::string_view> frames) {
  if (frames.size() != message.arrays.size()) {
    refuse(Code::malformed, "[wire] ", message.type, ": header names ", message.arrays.size(),
           " arrays, ", frames.size(), " frames came");
  }
  for (size_t i = 0; i < frames.size(); ++i) {
    ArrayView& view = message.arrays[i].view;
    if (frames[i].size() != view.bytes()) {
      refuse(Code::malformed, "[wire] ", message.type, ": array '", message.arrays[i].name,
             "' has ", frames[i].size(), " bytes, ", dtype_name(view.dtype), " ", view.dims(),
             " has ", view.bytes());
    }
    view.data = const_cast<char*>(frames[i].data());
  }
}

}  // namespace bessemer::wire
