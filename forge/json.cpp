#include "forge/json.h"

#include <cmath>

#include "core/base/error.h"

namespace bessemer {

std::string json_text(std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += cat('\\', c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20) {
      out += cat("\\u00", digits[byte >> 4], digits[byte & 15]);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string json_number(double value) { return std::isfinite(value) ? cat(value) : "null"; }

JsonObject& JsonObject::add_raw(std::string_view key, std::string_view json) {
  body_ += cat(body_.empty() ? "" : ", ", json_text(key), ": ", json);
  return *this;
}

JsonObject& JsonObject::add(std::string_view key, std::string_view text) {
  return add_raw(key, json_text(text));
}
JsonObject& JsonObject::add(std::string_view key, double value) {
  return add_raw(key, json_number(value));
}
JsonObject& JsonObject::add(std::string_view key, int64_t value) {
  return add_raw(key, cat(value));
}
JsonObject& JsonObject::add(std::string_view key, bool value) { return add_raw(key, cat(value)); }

JsonObject& JsonObject::add(std::string_view key, std::span<const double> values) {
  std::string list;
  for (double value : values) list += cat(list.empty() ? "" : ", ", json_number(value));
  return add_raw(key, cat("[", list, "]"));
}
JsonObject& JsonObject::add(std::string_view key, std::span<const int64_t> values) {
  std::string list;
  for (int64_t value : values) list += cat(list.empty() ? "" : ", ", value);
  return add_raw(key, cat("[", list, "]"));
}

}  // namespace bessemer
