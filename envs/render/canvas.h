// A picture that simulators draw on: anti-aliased polygons, lines, circles and text on RGB pixels, in
// software, so that a window, a PNG and a video show identical pixels with or without a display.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace bessemer {

struct Color {
  uint8_t r = 0, g = 0, b = 0, a = 255;
};
struct Point {
  double x = 0, y = 0;
};

class Canvas {
 public:
  Canvas(int width, int height);

  int width() const { return width_; }
  int height() const { return height_; }
  /// [height, width, 3] bytes, top row first.
  std::span<const uint8_t> pixels() const { return pixels_; }

  /// World coordinates of what follows: `origin` is the pixel of world (0, 0), `scale` pixels a unit,
  /// y upward. The default is pixels with y downward, as reset_view() restores.
  void set_view(Point origin, double scale);
  void reset_view();

  void clear(Color color);
  /// Vertical gradient over the whole picture.
  void clear(Color top, Color bottom);
  /// Any simple polygon, convex or not.
  void fill_polygon(std::span<const Point> points, Color color);
  /// `width` in pixels, round joins and caps.
  void line(Point a, Point b, double width, Color color);
  void polyline(std::span<const Point> points, double width, Color color, bool closed = false);
  void fill_circle(Point center, double radius, Color color);  // radius in world units
  void circle(Point center, double radius, double width, Color color);
  void fill_rect(Point low, Point high, Color color);
  /// Text with a built-in font; `size` is the pixel height of a capital, `at` the left baseline.
  void text(Point at, std::string_view utf8, double size, Color color);
  double text_width(std::string_view utf8, double size) const;

 private:
  int width_, height_;
  Point origin_;
  double scale_x_ = 1, scale_y_ = 1;
  std::vector<uint8_t> pixels_;
  std::vector<float> coverage_;
};

}  // namespace bessemer
