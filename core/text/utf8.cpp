#include "core/text/utf8.h"

namespace bessemer {

namespace {
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
uint8_t at(std::string_view s, size_t i) { return static_cast<uint8_t>(s[i]); }
}  // namespace

int utf8_sequence(std::string_view bytes) {
  if (bytes.empty()) return -1;
  const uint8_t first = at(bytes, 0);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const int length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= bytes.size()) return -1;
    const uint8_t next = at(bytes, static_cast<size_t>(i));
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {  // the second byte rules out overlong forms, surrogates and too large values
      if (first == 0xE0) low = 0xA0;
      if (first == 0xED) high = 0x9F;
      if (first == 0xF0) low = 0x90;
      if (first == 0xF4) high = 0x8F;
    }
    if (next < low || next > high) return 0;
  }
  return length;
}

uint32_t utf8_code_point(std::string_view s) {
  const uint32_t first = at(s, 0);
  if (first < 0x80) return first;
  uint32_t value = first & (s.size() == 2 ? 0x1Fu : s.size() == 3 ? 0x0Fu : 0x07u);
  for (size_t i = 1; i < s.size(); ++i) value = value << 6 | (at(s, i) & 0x3Fu);
  return value;
}

void utf8_append(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::string utf8_printable(std::string_view text) {
  Utf8Decoder decoder;
  std::string whole = decoder.push(text);
  whole += decoder.finish();
  std::string out;
  for (size_t i = 0; i < whole.size();) {
    const auto length = static_cast<size_t>(utf8_sequence(std::string_view(whole).substr(i)));
    const std::string_view character = std::string_view(whole).substr(i, length);
    const uint32_t c = utf8_code_point(character);
    if ((c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0)) {
      out += "\u00b7";
    } else {
      out += character;
    }
    i += length;
  }
  return out;
}

std::string Utf8Decoder::push(std::string_view bytes) {
  held_ += bytes;
  std::string out;
  size_t i = 0;
  while (i < held_.size()) {
    const std::string_view rest = std::string_view(held_).substr(i);
    const int length = utf8_sequence(rest);
    if (length < 0) break;
    if (length > 0) {
      out += rest.substr(0, static_cast<size_t>(length));
      i += static_cast<size_t>(length);
      continue;
    }
    // One replacement for the longest prefix that could have begun a character (Unicode's "maximal
    // subpart"), at least one byte.
    size_t bad = 1;
    while (bad < rest.size() && bad < 4 && utf8_sequence(rest.substr(0, bad)) < 0 &&
           utf8_sequence(rest.substr(0, bad + 1)) != 0)
      ++bad;
    out += kReplacement;
    i += bad;
  }
  held_.erase(0, i);
  return out;
}

std::string Utf8Decoder::finish() {
  const bool unfinished = !held_.empty();
  held_.clear();
  return unfinished ? std::string(kReplacement) : std::string();
}

}  // namespace bessemer
