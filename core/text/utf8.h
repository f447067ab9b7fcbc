// UTF-8 in pieces: text that arrives token by token may end in the middle of a character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bessemer {

/// Length of the valid UTF-8 sequence at the start of `bytes` (1 to 4); 0 where it is not valid, -1
/// where it is a valid beginning that needs more bytes. Overlong forms, surrogates and values above
/// U+10FFFF are not valid.
int utf8_sequence(std::string_view bytes);

/// Code point of a valid sequence.
uint32_t utf8_code_point(std::string_view sequence);
void utf8_append(std::string& out, uint32_t code_point);

/// For a terminal: control characters (of C0 and C1, but line breaks and tabs) become a dot, so
/// that no text can steer it; what is not UTF-8 becomes U+FFFD.
std::string utf8_printable(std::string_view text);

/// Turns bytes into whole characters. What cannot become one is replaced by U+FFFD, as a browser
/// does.
class Utf8Decoder {
 public:
  /// The characters completed by `bytes`; an unfinished one is kept for the next call.
  std::string push(std::string_view bytes);
  /// The replacement of what is left unfinished, or "".
  std::string finish();

 private:
  std::string held_;
};

}  // namespace bessemer
