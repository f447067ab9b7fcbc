// What a msgpack header can hold: null, booleans, integers, doubles, text, lists and maps.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/wire/error.h"

namespace bessemer::wire {

class Value;
using List = std::vector<Value>;

/// Text keys in the order given; few, so found by looking.
class Map {
 public:
  Map() = default;
  Map(std::initializer_list<std::pair<std::string, Value>> items);

  const Value* find(std::string_view key) const;
  /// Adds or replaces.
  void set(std::string key, Value value);
  /// The readers throw WireError (malformed) naming the key when it is missing or of another kind.
  /// With a fallback, missing and null give the fallback.
  const Value& at(std::string_view key) const;
  int64_t integer(std::string_view key) const;
  int64_t integer(std::string_view key, int64_t fallback) const;
  uint64_t count(std::string_view key) const;  // an integer that is not negative
  uint64_t count(std::string_view key, uint64_t fallback) const;
  double number(std::string_view key) const;
  double number(std::string_view key, double fallback) const;
  bool flag(std::string_view key, bool fallback) const;
  const std::string& text(std::string_view key) const;
  std::string text(std::string_view key, std::string_view fallback) const;
  const List& list(std::string_view key) const;
  const Map& map(std::string_view key) const;

  std::vector<std::pair<std::string, Value>> items;
};

class Value {
 public:
  Value() = default;
  Value(bool value) : data_(value) {}
  Value(int value) : data_(int64_t{value}) {}
  Value(int64_t value) : data_(value) {}
  Value(uint64_t value) {  // kept unsigned only where it has to be
    if (value >> 63) {
      data_ = value;
    } else {
      data_ = static_cast<int64_t>(value);
    }
  }
  Value(double value) : data_(value) {}
  Value(const char* value) : data_(std::string(value)) {}
  Value(std::string_view value) : data_(std::string(value)) {}
  Value(std::string value) : data_(std::move(value)) {}
  Value(List value) : data_(std::move(value)) {}
  Value(Map value) : data_(std::move(value)) {}

  using Data =
      std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, List, Map>;
  const Data& data() const { return data_; }
  Data& data() { return data_; }
  bool null() const { return data_.index() == 0; }
  /// "null", "boolean", "integer", "number", "text", "list", "map".
  std::string_view kind() const;

  /// Conversions; `what` names the value in the error (WireError, malformed).
  int64_t integer(std::string_view what) const;
  uint64_t count(std::string_view what) const;
  double number(std::string_view what) const;
  bool flag(std::string_view what) const;
  const std::string& text(std::string_view what) const;
  const List& list(std::string_view what) const;
  const Map& map(std::string_view what) const;

 private:
  Data data_;
};

/// msgpack bytes of a map.
std::string pack(const Map& map);
/// The same piece by piece: the number of items, then each item.
void pack_size(std::string& out, size_t items);
void pack_item(std::string& out, std::string_view key, const Value& value);

struct UnpackLimits {
  size_t depth = 16;
  size_t values = 65536;
};
/// One map, the whole of `bytes`; msgpack's bin is read as text, ext is refused, keys are text and
/// differ. Throws WireError (malformed, too_large).
Map unpack(std::string_view bytes, const UnpackLimits& limits = {});

}  // namespace bessemer::wire
