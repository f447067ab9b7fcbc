#include "core/wire/message.h"

#include <algorithm>

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

void encode_header(const Message& message, std::string& out) {
  const bool session = !message.session.empty();
  pack_size(out, message.fields.items.size() + 2 + (session ? 2 : 0) + !message.arrays.empty());
  pack_item(out, "type", message.type);
  pack_item(out, "id", message.id);
  if (session) {
    pack_item(out, "session", message.session);
    pack_item(out, "ack", message.ack);
  }
  if (!message.arrays.empty()) {
    List list;
    list.reserve(message.arrays.size());
    for (const NamedArray& array : message.arrays) {
      List shape;
      for (int64_t d : array.view.dims()) shape.emplace_back(d);
      list.emplace_back(
          List{Value(array.name), Value(dtype_name(array.view.dtype)), Value(std::move(shape))});
    }
    pack_item(out, "arrays", Value(std::move(list)));
  }
  for (const auto& [key, value] : message.fields.items) pack_item(out, key, value);
}

Message decode_header(std::string_view bytes, const Limits& limits) {
  if (bytes.size() > limits.header_bytes) {
    refuse(Code::too_large, "[wire] header of ", bytes.size(), " bytes, at most ",
           limits.header_bytes);
  }
  Map head = unpack(bytes);
  Message message;
  message.type = head.text("type");
  message.id = head.count("id", 0);
  message.session = head.text("session", "");
  message.ack = head.count("ack", 0);
  size_t total = bytes.size();
  if (const Value* arrays = head.find("arrays")) {
    const List& list = arrays->list("arrays");
    if (list.size() > limits.arrays) {
      refuse(Code::too_large, "[wire] ", list.size(), " arrays, at most ", limits.arrays);
    }
    for (const Value& value : list) {
      const List& row = value.list("arrays[]");
      if (row.size() != 3) refuse(Code::malformed, "[wire] an array is [name, dtype, shape]");
      NamedArray array{row[0].text("array name"), {}};
      try {
        array.view.dtype = dtype_parse(row[1].text("array dtype"));
      } catch (const ValueError& error) {
        refuse(Code::bad_type, "[wire] array '", array.name, "': ", error.what());
      }
      const List& shape = row[2].list("array shape");
      if (shape.size() > kMaxDims) {
        refuse(Code::bad_type, "[wire] array '", array.name, "' has ", shape.size(), " dimensions");
      }
      size_t size = dtype_size(array.view.dtype);
      for (const Value& d : shape) {
        const uint64_t n = d.count("array shape");
        // Any dimension above the limit is refused even beside a zero, so products cannot overflow.
        if (n > limits.bytes || (n != 0 && size > limits.bytes / n)) {
          refuse(Code::too_large, "[wire] array '", array.name, "' is larger than ", limits.bytes,
                 " bytes");
        }
        size *= n;
        array.view.shape[array.view.ndim++] = static_cast<int64_t>(n);
      }
      total += size;
      if (total > limits.bytes) {
        refuse(Code::too_large, "[wire] message is larger than ", limits.bytes, " bytes");
      }
      message.arrays.push_back(std::move(array));
    }
  }
  std::erase_if(head.items, [](const auto& item) {
    const std::string& key = item.first;
    return key == "type" || key == "id" || key == "session" || key == "ack" || key == "arrays";
  });
  message.fields = std::move(head);
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
