// The built-in typeface: letters as strokes of one pen, so that any size is sharp and smooth.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "envs/render/canvas.h"

namespace bessemer {

/// Strokes in units of a tenth of the height of a capital, y upward from the baseline.
struct Glyph {
  double width = 0;
  std::vector<std::vector<Point>> strokes;
};

inline constexpr double kGlyphGap = 2.7;    // between two glyphs, in glyph units
inline constexpr double kGlyphSpace = 3.2;  // the width of a blank
inline constexpr double kGlyphPen = 1.25;   // stroke width

/// A hollow box for a character that the typeface lacks.
const Glyph& find_glyph(uint32_t codepoint);

/// Takes the next code point off the front of `utf8`; malformed bytes give U+FFFD, one at a time.
uint32_t next_codepoint(std::string_view& utf8);

}  // namespace bessemer
