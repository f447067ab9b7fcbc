// JSON text, written member by member. Numbers are in the shortest form that reads back; what is
// not finite becomes null, as JSON has no word for it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bessemer {

std::string json_text(std::string_view text);
std::string json_number(double value);

/// One object; members keep the order in which they were added.
class JsonObject {
 public:
  JsonObject& add(std::string_view key, std::string_view text);
  JsonObject& add(std::string_view key, const char* text) {
    return add(key, std::string_view(text));
  }
  JsonObject& add(std::string_view key, double value);
  JsonObject& add(std::string_view key, int64_t value);
  JsonObject& add(std::string_view key, int value) { return add(key, static_cast<int64_t>(value)); }
  JsonObject& add(std::string_view key, bool value);
  JsonObject& add(std::string_view key, std::span<const double> values);
  JsonObject& add(std::string_view key, std::span<const int64_t> values);
  /// A value that is JSON already.
  JsonObject& add_raw(std::string_view key, std::string_view json);
  std::string text() const { return "{" + body_ + "}"; }

 private:
  std::string body_;
};

}  // namespace bessemer
