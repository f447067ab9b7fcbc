#include "envs/sim/mountain.h"

namespace bessemer::mountain {

Spec spec(std::string id, std::string doc) {
  Spec s;
  s.id = std::move(id);
  s.doc = std::move(doc);
  s.observation = {
      {.name = "obs", .shape = {2}, .low = {kLeft, -kSpeed}, .high = {kRight, kSpeed}}};
  s.render_fps = 30;
  s.options = {{.name = "goal_velocity", .fallback = "0", .doc = "speed to reach the flag with"}};
  s.reset_options = {{.name = "low", .fallback = "-0.6", .doc = "lower bound of the start"},
                     {.name = "high", .fallback = "-0.4", .doc = "upper bound of the start"}};
  return s;
}

namespace {
double height(double x) { return std::sin(3 * x) * 0.45 + 0.55; }
}  // namespace

void draw(double position, double goal, Canvas& canvas) {
  constexpr double kScale = 600 / (kRight - kLeft), kPixel = 1 / kScale;
  constexpr int kPoints = 121;
  canvas.clear({222, 236, 250}, {250, 252, 255});
  canvas.set_view({-kLeft * kScale, 400}, kScale);
  Point ground[kPoints + 2];
  for (int i = 0; i < kPoints; ++i) {
    const double x = kLeft + (kRight - kLeft) * i / (kPoints - 1);
    ground[i] = {x, height(x)};
  }
  ground[kPoints] = {kRight, 0};
  ground[kPoints + 1] = {kLeft, 0};
  canvas.fill_polygon(ground, {150, 178, 128});
  canvas.polyline(std::span(ground, kPoints), 2, {66, 92, 60});

  const Point pole{goal, height(goal)}, top{goal, height(goal) + 50 * kPixel};
  canvas.line(pole, top, 2, {60, 60, 60});
  const Point flag[3] = {
      top, {top.x, top.y - 12 * kPixel}, {top.x + 26 * kPixel, top.y - 6 * kPixel}};
  canvas.fill_polygon(flag, {226, 180, 30});

  // The car stands on the slope: d height / d x = 1.35 cos 3x.
  const double slope = std::atan(1.35 * std::cos(3 * position));
  const double c = std::cos(slope), s = std::sin(slope);
  const auto at = [&](double right, double up) {  // pixels along and above the ground
    return Point{position + (c * right - s * up) * kPixel,
                 height(position) + (s * right + c * up) * kPixel};
  };
  const Point body[6] = {at(-20, 8), at(20, 8), at(20, 17), at(11, 20), at(4, 28), at(-14, 28)};
  canvas.fill_polygon(body, {52, 62, 86});
  for (const double wheel : {-11.0, 11.0}) {
    canvas.fill_circle(at(wheel, 8), 8 * kPixel, {40, 40, 44});
    canvas.fill_circle(at(wheel, 8), 3.5 * kPixel, {170, 172, 178});
  }
}

}  // namespace bessemer::mountain
