#include "core/wire/value.h"

#define MSGPACK_NO_BOOST
#include <algorithm>
#include <cmath>
#include <msgpack.hpp>

namespace bessemer::wire {
namespace {

constexpr std::string_view kCodes[] = {"malformed",    "too_large",   "version",   "unknown_type",
                                       "unknown_name", "mismatch",    "bad_value", "bad_type",
                                       "no_session",   "capacity",    "no_credit", "draining",
                                       "denied",       "unsupported", "deadline",  "internal"};

[[noreturn]] void wrong(std::string_view what, std::string_view wanted, const Value& value) {
  refuse(Code::malformed, "[wire] '", what, "' must be ", wanted, ", is ", value.kind());
}

struct Sink {
  std::string& out;
  void write(const char* data, size_t size) { out.append(data, size); }
};
using Packer = msgpack::packer<Sink>;

void pack_value(Packer& packer, const Value& value);

void pack_map(Packer& packer, const Map& map) {
  packer.pack_map(static_cast<uint32_t>(map.items.size()));
  for (const auto& [key, value] : map.items) {
    packer.pack_str(static_cast<uint32_t>(key.size()));
    packer.pack_str_body(key.data(), static_cast<uint32_t>(key.size()));
    pack_value(packer, value);
  }
}

void pack_value(Packer& packer, const Value& value) {
  struct Visit {
    Packer& packer;
    void operator()(std::monostate) { packer.pack_nil(); }
    void operator()(bool x) { x ? packer.pack_true() : packer.pack_false(); }
    void operator()(int64_t x) { packer.pack_int64(x); }
    void operator()(uint64_t x) { packer.pack_uint64(x); }
    void operator()(double x) { packer.pack_double(x); }
    void operator()(const std::string& x) {
      packer.pack_str(static_cast<uint32_t>(x.size()));
      packer.pack_str_body(x.data(), static_cast<uint32_t>(x.size()));
    }
    void operator()(const List& x) {
      packer.pack_array(static_cast<uint32_t>(x.size()));
      for (const Value& item : x) pack_value(packer, item);
    }
    void operator()(const Map& x) { pack_map(packer, x); }
  };
  std::visit(Visit{packer}, value.data());
}

/// Builds a Value from the parser's events; stops the parser by returning false. No container is
/// allocated ahead of the items that are really there.
class Builder : public msgpack::null_visitor {
 public:
  explicit Builder(const UnpackLimits& limits) : limits_(limits) {}
  Value root;
  const char* problem = nullptr;
  bool too_large = false;

  bool visit_nil() { return put(Value()); }
  bool visit_boolean(bool x) { return put(Value(x)); }
  bool visit_positive_integer(uint64_t x) { return put(Value(x)); }
  bool visit_negative_integer(int64_t x) { return put(Value(x)); }
  bool visit_float32(float x) { return put(Value(static_cast<double>(x))); }
  bool visit_float64(double x) { return put(Value(x)); }
  bool visit_str(const char* data, uint32_t size) {
    return put(Value(std::string_view(data, size)));
  }
  bool visit_bin(const char* data, uint32_t size) { return visit_str(data, size); }
  bool visit_ext(const char*, uint32_t) { return stop("an ext value"); }
  bool start_array(uint32_t) { return open(Value(List())); }
  bool end_array() { return shut(); }
  bool start_map(uint32_t) { return open(Value(Map())); }
  bool start_map_key() {
    stack_.back().key_next = true;
    return true;
  }
  bool end_map() { return shut(); }
  void parse_error(size_t, size_t) { stop("bad msgpack"); }
  void insufficient_bytes(size_t, size_t) { stop("truncated msgpack"); }

 private:
  struct Open {
    Value* value;
    std::string key;
    bool key_next = false;
  };
  bool stop(const char* reason, bool large = false) {
    if (!problem) {
      problem = reason;
      too_large = large;
    }
    return false;
  }
  Value* place(Value value) {
    if (++values_ > limits_.values) {
      stop("too many values", true);
      return nullptr;
    }
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    Open& top = stack_.back();
    if (List* list = std::get_if<List>(&top.value->data())) {
      list->push_back(std::move(value));
      return &list->back();
    }
    Map& map = std::get<Map>(top.value->data());
    if (top.key_next) {
      std::string* key = std::get_if<std::string>(&value.data());
      if (!key) {
        stop("a key that is not text");
        return nullptr;
      }
      if (map.find(*key)) {
        stop("a key given twice");
        return nullptr;
      }
      if (map.items.size() >= kMapItems) {
        stop("too many keys", true);
        return nullptr;
      }
      top.key = std::move(*key);
      top.key_next = false;
      return top.value;
    }
    map.items.emplace_back(std::move(top.key), std::move(value));
    return &map.items.back().second;
  }
  bool put(Value value) { return place(std::move(value)) != nullptr; }
  bool open(Value value) {
    if (stack_.size() >= limits_.depth) return stop("nested too deeply", true);
    if (!stack_.empty() && stack_.back().key_next) return stop("a key that is not text");
    Value* placed = place(std::move(value));
    if (placed) stack_.push_back({placed, {}, false});
    return placed != nullptr;
  }
  bool shut() {
    stack_.pop_back();
    return true;
  }

  static constexpr size_t kMapItems = 1024;  // keys are compared pairwise
  UnpackLimits limits_;
  std::vector<Open> stack_;
  size_t values_ = 0;
};

}  // namespace

std::string_view code_name(Code code) { return kCodes[static_cast<size_t>(code)]; }
Code code_parse(std::string_view name) {
  const auto found = std::ranges::find(kCodes, name);
  return found == std::end(kCodes) ? Code::internal : static_cast<Code>(found - std::begin(kCodes));
}

WireError current_error() {
  try {
    throw;
  } catch (const WireError& error) {
    return error;
  } catch (const ValueError& error) {
    return {Code::bad_value, error.what()};
  } catch (const IndexError& error) {
    return {Code::bad_value, error.what()};
  } catch (const TypeError& error) {
    return {Code::bad_type, error.what()};
  } catch (const std::exception& error) {
    return {Code::internal, error.what()};
  } catch (...) {
    return {Code::internal, "an exception that is no std::exception"};
  }
}

std::string_view Value::kind() const {
  constexpr std::string_view names[] = {"null",   "boolean", "integer", "integer",
                                        "number", "text",    "list",    "map"};
  return names[data_.index()];
}

int64_t Value::integer(std::string_view what) const {
  if (const int64_t* x = std::get_if<int64_t>(&data_)) return *x;
  wrong(what, "an integer", *this);
}
uint64_t Value::count(std::string_view what) const {
  if (const uint64_t* x = std::get_if<uint64_t>(&data_)) return *x;
  const int64_t* x = std::get_if<int64_t>(&data_);
  if (!x) wrong(what, "an integer", *this);
  if (*x < 0) refuse(Code::malformed, "[wire] '", what, "' must not be negative, is ", *x);
  return static_cast<uint64_t>(*x);
}
double Value::number(std::string_view what) const {
  if (const double* x = std::get_if<double>(&data_)) return *x;
  if (const int64_t* x = std::get_if<int64_t>(&data_)) return static_cast<double>(*x);
  wrong(what, "a number", *this);
}
bool Value::flag(std::string_view what) const {
  if (const bool* x = std::get_if<bool>(&data_)) return *x;
  wrong(what, "true or false", *this);
}
const std::string& Value::text(std::string_view what) const {
  if (const std::string* x = std::get_if<std::string>(&data_)) return *x;
  wrong(what, "text", *this);
}
const List& Value::list(std::string_view what) const {
  if (const List* x = std::get_if<List>(&data_)) return *x;
  wrong(what, "a list", *this);
}
const Map& Value::map(std::string_view what) const {
  if (const Map* x = std::get_if<Map>(&data_)) return *x;
  wrong(what, "a map", *this);
}

Map::Map(std::initializer_list<std::pair<std::string, Value>> init) : items(init) {}

const Value* Map::find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}
void Map::set(std::string key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::move(key), std::move(value));
}
const Value& Map::at(std::string_view key) const {
  const Value* value = find(key);
  if (!value) refuse(Code::malformed, "[wire] '", key, "' is missing");
  return *value;
}

namespace {
const Value* given(const Map& map, std::string_view key) {
  const Value* value = map.find(key);
  return value && !value->null() ? value : nullptr;
}
}  // namespace

int64_t Map::integer(std::string_view key) const { return at(key).integer(key); }
int64_t Map::integer(std::string_view key, int64_t fallback) const {
  const Value* value = given(*this, key);
  return value ? value->integer(key) : fallback;
}
uint64_t Map::count(std::string_view key) const { return at(key).count(key); }
uint64_t Map::count(std::string_view key, uint64_t fallback) const {
  const Value* value = given(*this, key);
  return value ? value->count(key) : fallback;
}
double Map::number(std::string_view key) const { return at(key).number(key); }
double Map::number(std::string_view key, double fallback) const {
  const Value* value = given(*this, key);
  return value ? value->number(key) : fallback;
}
bool Map::flag(std::string_view key, bool fallback) const {
  const Value* value = given(*this, key);
  return value ? value->flag(key) : fallback;
}
const std::string& Map::text(std::string_view key) const { return at(key).text(key); }
std::string Map::text(std::string_view key, std::string_view fallback) const {
  const Value* value = given(*this, key);
  return value ? value->text(key) : std::string(fallback);
}
const List& Map::list(std::string_view key) const { return at(key).list(key); }
const Map& Map::map(std::string_view key) const { return at(key).map(key); }

void pack_size(std::string& out, size_t items) {
  Sink sink{out};
  Packer(sink).pack_map(static_cast<uint32_t>(items));
}
void pack_item(std::string& out, std::string_view key, const Value& value) {
  Sink sink{out};
  Packer packer(sink);
  packer.pack_str(static_cast<uint32_t>(key.size()));
  packer.pack_str_body(key.data(), static_cast<uint32_t>(key.size()));
  pack_value(packer, value);
}
std::string pack(const Map& map) {
  std::string out;
  Sink sink{out};
  Packer packer(sink);
  pack_map(packer, map);
  return out;
}

Map unpack(std::string_view bytes, const UnpackLimits& limits) {
  Builder builder(limits);
  size_t used = 0;
  const bool whole = !bytes.empty() && msgpack::parse(bytes.data(), bytes.size(), used, builder);
  if (builder.problem || !whole) {
    refuse(builder.too_large ? Code::too_large : Code::malformed, "[wire] header is not readable: ",
           builder.problem ? builder.problem : "truncated msgpack");
  }
  if (used != bytes.size()) {
    refuse(Code::malformed, "[wire] header has ", bytes.size() - used, " bytes after its end");
  }
  Map* map = std::get_if<Map>(&builder.root.data());
  if (!map) refuse(Code::malformed, "[wire] header is not a map");
  return std::move(*map);
}

}  // namespace bessemer::wire
