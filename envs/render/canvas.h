// A picture that simulators draw on: anti-aliased polygons, lines, circles and text on RGB pixels,
// in software, so that a window, a PNG and a video show identical pixels with or without a display.
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

/// Coordinates that are not finite draw nothing; anything outside the picture is clipped. Only
/// correctly rounded operations are used, so a drawing has the same bytes on every machine.
class Canvas {
 public:
  /// Black. Throws ValueError unless 1 <= width, height <= 16384.
  Canvas(int width, int height);

  int width() const { return width_; }
  int height() const { return height_; }
  /// [height, width, 3] bytes, top row first.
  std::span<const uint8_t> pixels() const { return pixels_; }
  std::span<uint8_t> writable_pixels() { return pixels_; }

  /// World coordinates of what follows: `origin` is the pixel of world (0, 0), `scale` pixels a
  /// unit, y upward. The default is pixels with y downward, as reset_view() restores.
  void set_view(Point origin, double scale);
  void reset_view();

  void clear(Color color);
  /// Vertical gradient over the whole picture, dithered so that dark skies show no bands.
  void clear(Color top, Color bottom);
  /// Any simple polygon, convex or not.
  void fill_polygon(std::span<const Point> points, Color color);
  /// `width` in pixels, round joins and caps.
  void line(Point a, Point b, double width, Color color);
  void polyline(std::span<const Point> points, double width, Color color, bool closed = false);
  void fill_circle(Point center, double radius, Color color);  // radius in world units
  void circle(Point center, double radius, double width, Color color);
  void fill_rect(Point low, Point high, Color color);
  /// Text with a built-in font; `size` is the pixel height of a capital, `at` the left baseline. A
  /// character without a glyph shows as a box.
  void text(Point at, std::string_view utf8, double size, Color color);
  double text_width(std::string_view utf8, double size) const;  // in pixels
  /// Copies another picture's pixels to (left, top), in pixels; parts outside are clipped.
  void blit(const Canvas& source, int left, int top);

 private:
  struct Box {
    int left, top, right, bottom;  // right and bottom exclusive
  };
  Point to_pixels(Point p) const;
  Box clip(double left, double top, double right, double bottom) const;
  float* coverage_row(int y) { return coverage_.data() + static_cast<size_t>(y) * (width_ + 2); }
  void coverage_clear(const Box& box);
  void edge_add(Point a, Point b);
  void edge_add_inside(Point a, Point b);
  void capsule_add(Point a, Point b, double half_width, float strength);
  void blend(const Box& box, Color color);
  void blend_areas(const Box& box, Color color);

  int width_, height_;
  Point origin_;
  double scale_x_ = 1, scale_y_ = 1;
  std::vector<uint8_t> pixels_;
  std::vector<float> coverage_;  // [height, width + 2], scratch of the shape being drawn
};

}  // namespace bessemer
