#include "envs/render/canvas.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "envs/render/font.h"

namespace bessemer {
namespace {

// Far beyond any picture, near enough for products of two to stay exact to a fraction of a pixel.
constexpr double kFar = 1e9;

bool finite(Point p) { return std::isfinite(p.x) && std::isfinite(p.y); }

}  // namespace

Canvas::Canvas(int width, int height) : width_(width), height_(height) {
  BESSEMER_CHECK(width >= 1 && height >= 1 && width <= 16384 && height <= 16384, ValueError,
                 "[canvas] a picture needs 1 to 16384 pixels a side, not ", width, " x ", height);
  pixels_.resize(static_cast<size_t>(width) * height * 3);
  coverage_.resize(static_cast<size_t>(width + 2) * height);
}

void Canvas::set_view(Point origin, double scale) {
  origin_ = origin;
  scale_x_ = scale;
  scale_y_ = -scale;
}

void Canvas::reset_view() {
  origin_ = {};
  scale_x_ = scale_y_ = 1;
}

Point Canvas::to_pixels(Point p) const {
  // NaN passes through clamp and is refused by the callers; infinities become NaN on purpose.
  const Point q{origin_.x + p.x * scale_x_, origin_.y + p.y * scale_y_};
  if (!finite(q)) return {NAN, NAN};
  return {std::clamp(q.x, -kFar, kFar), std::clamp(q.y, -kFar, kFar)};
}

Canvas::Box Canvas::clip(double left, double top, double right, double bottom) const {
  const auto bound = [](double v, int limit) {
    return static_cast<int>(std::clamp(v, 0.0, static_cast<double>(limit)));
  };
  return {bound(std::floor(left), width_), bound(std::floor(top), height_),
          bound(std::ceil(right), width_), bound(std::ceil(bottom), height_)};
}

void Canvas::clear(Color color) {
  for (size_t i = 0; i < pixels_.size(); i += 3) {
    pixels_[i] = color.r;
    pixels_[i + 1] = color.g;
    pixels_[i + 2] = color.b;
  }
}

void Canvas::clear(Color top, Color bottom) {
  // Ordered 4x4 dither: thresholds of Bayer's matrix, in sixteenths of a level.
  static constexpr int kBayer[4][4] = {
      {0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};
  const int span = std::max(1, height_ - 1);
  for (int y = 0; y < height_; ++y) {
    uint8_t pattern[4][3];
    for (int x = 0; x < 4; ++x) {
      const auto mix = [&](int a, int b) {
        const int64_t level = (int64_t{a} * (span - y) + int64_t{b} * y) * 16 / span;
        return static_cast<uint8_t>(std::min<int64_t>(255, (level + kBayer[y & 3][x]) / 16));
      };
      pattern[x][0] = mix(top.r, bottom.r);
      pattern[x][1] = mix(top.g, bottom.g);
      pattern[x][2] = mix(top.b, bottom.b);
    }
    uint8_t* row = pixels_.data() + static_cast<size_t>(y) * width_ * 3;
    const size_t bytes = static_cast<size_t>(width_) * 3;
    size_t filled = std::min<size_t>(sizeof pattern, bytes);
    std::memcpy(row, pattern, filled);
    for (; filled < bytes; filled += std::min(filled, bytes - filled)) {
      std::memcpy(row + filled, row, std::min(filled, bytes - filled));
    }
  }
}

void Canvas::coverage_clear(const Box& box) {
  for (int y = box.top; y < box.bottom; ++y) {
    float* row = coverage_row(y);
    std::fill(row + box.left, row + std::min(box.right + 2, width_ + 2), 0.0f);
  }
}

void Canvas::blend(const Box& box, Color color) {
  const float opacity = color.a;
  for (int y = box.top; y < box.bottom; ++y) {
    const float* coverage = coverage_row(y);
    uint8_t* out = pixels_.data() + (static_cast<size_t>(y) * width_ + box.left) * 3;
    for (int x = box.left; x < box.right; ++x, out += 3) {
      const int a = static_cast<int>(coverage[x] * opacity + 0.5f);
      if (a == 0) continue;
      if (a == 255) {
        out[0] = color.r;
        out[1] = color.g;
        out[2] = color.b;
        continue;
      }
      out[0] = static_cast<uint8_t>((color.r * a + out[0] * (255 - a) + 127) / 255);
      out[1] = static_cast<uint8_t>((color.g * a + out[1] * (255 - a) + 127) / 255);
      out[2] = static_cast<uint8_t>((color.b * a + out[2] * (255 - a) + 127) / 255);
    }
  }
}

// As blend(), of coverage that is still to be summed along the rows. Where no edge passes, which is
// nearly everywhere, 16 pixels are alike and painted at once.
void Canvas::blend_areas(const Box& box, Color color) {
  constexpr int kSpan = 16;
  uint8_t solid[kSpan * 3];
  for (int i = 0; i < kSpan; ++i) {
    solid[3 * i] = color.r;
    solid[3 * i + 1] = color.g;
    solid[3 * i + 2] = color.b;
  }
  for (int y = box.top; y < box.bottom; ++y) {
    float* row = coverage_row(y);
    uint8_t* out = pixels_.data() + static_cast<size_t>(y) * width_ * 3;
    float sum = 0;
    for (int x = box.left; x < box.right; x += kSpan) {
      const int end = std::min(box.right, x + kSpan);
      uint32_t any = 0;
      for (int i = x; i < end; ++i) any |= std::bit_cast<uint32_t>(row[i]);
      const float covered = std::min(1.0f, std::fabs(sum)) * color.a;
      if (any == 0 && covered < 0.5f) continue;
      if (any == 0 && covered >= 254.5f) {
        std::memcpy(out + 3 * x, solid, static_cast<size_t>(end - x) * 3);
        continue;
      }
      for (int i = x; i < end; ++i) {
        sum += row[i];
        row[i] = std::min(1.0f, std::fabs(sum));
      }
      blend({x, y, end, y + 1}, color);
    }
  }
}

// Exact area coverage: every edge adds, in each row it crosses, the signed area to its right; a
// running sum along the row then gives the covered share of each pixel (Levien, "Inside the fastest
// font renderer in the world", 2016).
void Canvas::edge_add_inside(Point a, Point b) {
  float sign = 1;
  if (a.y > b.y) {
    std::swap(a, b);
    sign = -1;
  }
  if (a.y == b.y) return;
  const double slope = (b.x - a.x) / (b.y - a.y);
  const int first = std::max(0, static_cast<int>(a.y));
  const int last = std::min(height_, static_cast<int>(std::ceil(b.y)));
  double x = a.x;
  for (int y = first; y < last; ++y) {
    const double high = std::min<double>(y + 1, b.y);
    const double next =
        std::clamp(a.x + (high - a.y) * slope, std::min(a.x, b.x), std::max(a.x, b.x));
    const double rows = high - std::max<double>(y, a.y);
    const double low_x = std::min(x, next), high_x = std::max(x, next);
    float* row = coverage_row(y);
    const int i = static_cast<int>(low_x);
    const double amount = sign * rows;
    if (high_x <= i + 1) {
      const double middle = 0.5 * (low_x + high_x) - i;
      row[i] += static_cast<float>(amount * (1 - middle));
      row[i + 1] += static_cast<float>(amount * middle);
    } else {
      // Area to the right of the edge within the pixels from i to j, as a quadratic ramp.
      const double per_column = amount / (high_x - low_x);
      const int j = static_cast<int>(std::ceil(high_x)) - 1;
      double before = 0;  // share covered so far, as the running sum will see it
      for (int column = i; column <= j; ++column) {
        const double from = std::max<double>(column, low_x);
        const double to = std::min<double>(column + 1, high_x);
        const double entered = (from - low_x) * per_column;
        const double crossed = (to - from) * per_column;
        const double covered = entered + crossed * (column + 1 - 0.5 * (from + to));
        row[column] += static_cast<float>(covered - before);
        before = covered;
      }
      row[j + 1] += static_cast<float>(amount - before);
    }
    x = next;
  }
}

void Canvas::edge_add(Point a, Point b) {
  const double bottom = height_, right = width_;
  if ((a.y <= 0 && b.y <= 0) || (a.y >= bottom && b.y >= bottom)) return;
  const auto cut_y = [&](Point p, Point q, double y) {
    return Point{p.x + (y - p.y) * ((q.x - p.x) / (q.y - p.y)), y};
  };
  const Point start = a, end = b;
  if (a.y < 0) a = cut_y(start, end, 0);
  if (a.y > bottom) a = cut_y(start, end, bottom);
  if (b.y < 0) b = cut_y(start, end, 0);
  if (b.y > bottom) b = cut_y(start, end, bottom);
  if (a.x >= right && b.x >= right) return;  // covers only columns that do not exist
  if (a.x <= 0 && b.x <= 0) return edge_add_inside({0, a.y}, {0, b.y});
  const auto cut_x = [&](double x) {
    const double y = start.y + (x - start.x) * ((end.y - start.y) / (end.x - start.x));
    return Point{x, std::clamp(y, std::min(a.y, b.y), std::max(a.y, b.y))};
  };
  const auto bring_inside = [&](Point& p, bool is_start) {
    if (p.x >= 0 && p.x <= right) return;
    const double wall = p.x < 0 ? 0 : right;
    const Point crossing = cut_x(wall);
    if (wall == 0) {
      is_start ? edge_add_inside({0, p.y}, crossing) : edge_add_inside(crossing, {0, p.y});
    }
    p = crossing;
  };
  bring_inside(a, true);
  bring_inside(b, false);
  edge_add_inside(a, b);
}

void Canvas::fill_polygon(std::span<const Point> points, Color color) {
  if (points.size() < 3) return;
  double left = kFar, top = kFar, right = -kFar, bottom = -kFar;
  for (const Point& p : points) {
    const Point q = to_pixels(p);
    if (!finite(q)) return;
    left = std::min(left, q.x);
    right = std::max(right, q.x);
    top = std::min(top, q.y);
    bottom = std::max(bottom, q.y);
  }
  const Box box = clip(left, top, right, bottom);
  if (box.left >= box.right || box.top >= box.bottom) return;
  coverage_clear(box);
  for (size_t i = 0; i < points.size(); ++i) {
    edge_add(to_pixels(points[i]), to_pixels(points[i + 1 == points.size() ? 0 : i + 1]));
  }
  blend_areas(box, color);
}

void Canvas::fill_rect(Point low, Point high, Color color) {
  const Point corners[] = {low, {high.x, low.y}, high, {low.x, high.y}};
  fill_polygon(corners, color);
}

// A stroke's coverage is its distance to the pen's edge, one pixel wide; segments are joined by the
// greatest, which is the distance to the whole line, so that joints neither thin nor double.
void Canvas::capsule_add(Point a, Point b, double half_width, float strength) {
  const double reach = half_width + 0.5;
  const Box box = clip(std::min(a.x, b.x) - reach, std::min(a.y, b.y) - reach,
                       std::max(a.x, b.x) + reach, std::max(a.y, b.y) + reach);
  const double length = std::sqrt((b.x - a.x) * (b.x - a.x) + (b.y - a.y) * (b.y - a.y));
  const double ux = length > 0 ? (b.x - a.x) / length : 1,
               uy = length > 0 ? (b.y - a.y) / length : 0;
  for (int y = box.top; y < box.bottom; ++y) {
    const double py = y + 0.5;
    double from = box.left, to = box.right;
    if (std::fabs(uy) > 1e-9) {  // the band around the infinite line, in this row
      const double center = a.x + (py - a.y) * (ux / uy), spread = reach / std::fabs(uy) + 1;
      from = std::max(from, std::floor(center - spread));
      to = std::min(to, std::ceil(center + spread));
    }
    float* row = coverage_row(y);
    for (int x = static_cast<int>(from); x < static_cast<int>(to); ++x) {
      const double dx = x + 0.5 - a.x, dy = py - a.y;
      const double along = dx * ux + dy * uy;
      double distance;
      if (along >= 0 && along <= length) {
        distance = std::fabs(dx * uy - dy * ux);
      } else {
        const double ex = along < 0 ? dx : x + 0.5 - b.x, ey = along < 0 ? dy : py - b.y;
        distance = std::sqrt(ex * ex + ey * ey);
      }
      const float covered = static_cast<float>(std::clamp(reach - distance, 0.0, 1.0)) * strength;
      row[x] = std::max(row[x], covered);
    }
  }
}

void Canvas::polyline(std::span<const Point> points, double width, Color color, bool closed) {
  if (points.empty() || !(width > 0) || !std::isfinite(width)) return;
  double left = kFar, top = kFar, right = -kFar, bottom = -kFar;
  for (const Point& p : points) {
    const Point q = to_pixels(p);
    if (!finite(q)) return;
    left = std::min(left, q.x);
    right = std::max(right, q.x);
    top = std::min(top, q.y);
    bottom = std::max(bottom, q.y);
  }
  // Thinner than a pixel: as wide as a pixel, but fainter.
  const double half_width = std::min(std::max(width, 1.0) / 2, kFar);
  const float strength = static_cast<float>(std::min(width, 1.0));
  const double reach = half_width + 0.5;
  const Box box = clip(left - reach, top - reach, right + reach, bottom + reach);
  if (box.left >= box.right || box.top >= box.bottom) return;
  coverage_clear(box);
  for (size_t i = 0; i + 1 < points.size(); ++i) {
    capsule_add(to_pixels(points[i]), to_pixels(points[i + 1]), half_width, strength);
  }
  if (closed || points.size() == 1) {
    capsule_add(to_pixels(points.back()), to_pixels(points.front()), half_width, strength);
  }
  blend(box, color);
}

void Canvas::line(Point a, Point b, double width, Color color) {
  const Point both[] = {a, b};
  polyline(both, width, color);
}

void Canvas::fill_circle(Point center, double radius, Color color) {
  const Point c = to_pixels(center);
  const double r = std::min(radius * scale_x_, kFar);
  if (!finite(c) || !(r > 0)) return;
  const Box box = clip(c.x - r - 1, c.y - r - 1, c.x + r + 1, c.y + r + 1);
  coverage_clear(box);
  // Below half a pixel of radius the disc's area is all that can be seen of it.
  const double reach = std::max(r, 0.5) + 0.5;
  const double strength = r < 0.5 ? 4 * r * r : 1;
  for (int y = box.top; y < box.bottom; ++y) {
    const double dy = y + 0.5 - c.y;
    const double outer = reach * reach - dy * dy, inner = (reach - 1) * (reach - 1) - dy * dy;
    if (outer <= 0) continue;
    const double half = std::sqrt(outer), solid = inner > 0 ? std::sqrt(inner) : -1;
    const Box span = clip(c.x - half, y, c.x + half, y + 1);
    float* row = coverage_row(y);
    for (int x = span.left; x < span.right; ++x) {
      const double dx = x + 0.5 - c.x;
      const double covered =
          std::fabs(dx) <= solid ? 1 : std::clamp(reach - std::sqrt(dx * dx + dy * dy), 0.0, 1.0);
      row[x] = static_cast<float>(covered * strength);
    }
  }
  blend(box, color);
}

void Canvas::circle(Point center, double radius, double width, Color color) {
  const Point c = to_pixels(center);
  const double r = std::min(radius * scale_x_, kFar);
  if (!finite(c) || !(r > 0) || !(width > 0) || !std::isfinite(width)) return;
  const double reach = std::max(width, 1.0) / 2 + 0.5, strength = std::min(width, 1.0);
  const Box box = clip(c.x - r - reach, c.y - r - reach, c.x + r + reach, c.y + r + reach);
  coverage_clear(box);
  for (int y = box.top; y < box.bottom; ++y) {
    const double dy = y + 0.5 - c.y;
    float* row = coverage_row(y);
    for (int x = box.left; x < box.right; ++x) {
      const double dx = x + 0.5 - c.x;
      const double distance = std::fabs(std::sqrt(dx * dx + dy * dy) - r);
      row[x] = static_cast<float>(std::clamp(reach - distance, 0.0, 1.0) * strength);
    }
  }
  blend(box, color);
}

void Canvas::text(Point at, std::string_view utf8, double size, Color color) {
  const Point base = to_pixels(at);
  if (!finite(base) || !(size > 0) || !std::isfinite(size)) return;
  const double unit = size / 10, half_width = std::max(kGlyphPen * unit, 1.0) / 2;
  double pen = base.x;
  while (!utf8.empty()) {
    const Glyph& glyph = find_glyph(next_codepoint(utf8));
    // Every glyph is its own shape: strokes of one glyph join, neighbours never touch.
    const double margin = half_width + 1;
    const Box box = clip(pen - margin, base.y - 11 * unit - margin,
                         pen + glyph.width * unit + margin, base.y + 3.5 * unit + margin);
    if (box.left < box.right && box.top < box.bottom) {
      coverage_clear(box);
      for (const auto& stroke : glyph.strokes) {
        for (size_t i = 0; i + 1 < stroke.size(); ++i) {
          capsule_add({pen + stroke[i].x * unit, base.y - stroke[i].y * unit},
                      {pen + stroke[i + 1].x * unit, base.y - stroke[i + 1].y * unit}, half_width,
                      1);
        }
      }
      blend(box, color);
    }
    pen += (glyph.width + kGlyphGap) * unit;
  }
}

double Canvas::text_width(std::string_view utf8, double size) const {
  double units = 0;
  while (!utf8.empty()) units += find_glyph(next_codepoint(utf8)).width + kGlyphGap;
  return units > 0 ? (units - kGlyphGap) * size / 10 : 0;
}

void Canvas::blit(const Canvas& source, int left, int top) {
  const int first_x = std::max(0, left),
            last_x = std::min<int64_t>(width_, int64_t{left} + source.width_);
  const int first_y = std::max(0, top),
            last_y = std::min<int64_t>(height_, int64_t{top} + source.height_);
  if (first_x >= last_x) return;
  for (int y = first_y; y < last_y; ++y) {
    const size_t from = (static_cast<size_t>(y - top) * source.width_ + (first_x - left)) * 3;
    std::copy_n(source.pixels_.data() + from, static_cast<size_t>(last_x - first_x) * 3,
                pixels_.data() + (static_cast<size_t>(y) * width_ + first_x) * 3);
  }
}

}  // namespace bessemer
