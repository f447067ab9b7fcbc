// The picture of LunarLander: night sky, moon, flags, and the lander with the flames of its
// engines.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/rng.h"
#include "envs/render/canvas.h"
#include "envs/sim/lunar_world.h"

namespace bessemer {
namespace {

constexpr double kUnit = 1 / LunarWorld::kScale;  // one pixel of Gymnasium's picture

// Same stars in every picture; philox keeps them apart from every other draw.
void draw_sky(Canvas& canvas, double zoom) {
  canvas.clear({5, 7, 22}, {46, 42, 84});
  for (uint32_t i = 0; i < 90; ++i) {
    const PhiloxBlock word = philox(0x57A125, i, 0);
    const Point at{uniform_float(word.word[0]) * LunarWorld::kWidth,
                   LunarWorld::kHeight * (0.2 + 0.8 * uniform_float(word.word[1]))};
    const double bright = uniform_float(word.word[2]);
    const double radius = (0.45 + 0.75 * bright * bright) * kUnit;
    const auto alpha = static_cast<uint8_t>(70 + 170 * bright);
    canvas.fill_circle(at, radius,
                       i % 5 ? Color{226, 232, 255, alpha} : Color{255, 232, 196, alpha});
  }
  // The Earth, lit from the left.
  const Point earth{16.7, 11.3};
  for (int halo = 4; halo > 0; --halo) {
    canvas.fill_circle(earth, (19 + 2.5 * halo) * kUnit, {110, 160, 255, 12});
  }
  canvas.fill_circle(earth, 19 * kUnit, {58, 112, 190});
  const std::array<Point, 6> land{{{-9, 9}, {-2, 12}, {3, 5}, {-2, 1}, {-4, -6}, {-11, 0}}};
  std::array<Point, 6> corners;
  for (size_t i = 0; i < land.size(); ++i) {
    corners[i] = {earth.x + land[i].x * kUnit, earth.y + land[i].y * kUnit};
  }
  canvas.fill_polygon(corners, {92, 160, 122});
  canvas.polyline(corners, 3 * zoom, {92, 160, 122}, true);
  canvas.fill_circle({earth.x - 5 * kUnit, earth.y - 13 * kUnit}, 3 * kUnit, {220, 235, 250, 170});
  canvas.circle({earth.x, earth.y}, 18.4 * kUnit, 1.2 * zoom, {190, 220, 255, 120});
}

void draw_ground(const LunarWorld& world, Canvas& canvas, double zoom) {
  constexpr int n = LunarWorld::kChunks;
  std::array<Point, n + 2> outline;
  const auto layer = [&](double drop, double squash, Color color) {
    for (int i = 0; i < n; ++i) {
      outline[i] = {LunarWorld::ground_x(i), world.ground_y[i] * squash - drop};
    }
    outline[n] = {LunarWorld::kWidth, -1};
    outline[n + 1] = {0, -1};
    canvas.fill_polygon(outline, color);
  };
  // Far hills: a fixed skyline behind every terrain.
  constexpr std::array<double, n> hills{3.9, 4.6, 4.2, 4.9, 4.1, 3.7, 4.3, 5.1, 4.5, 4.8, 4.0};
  for (int i = 0; i < n; ++i) outline[i] = {LunarWorld::ground_x(i), hills[i]};
  outline[n] = {LunarWorld::kWidth, -1};
  outline[n + 1] = {0, -1};
  canvas.fill_polygon(outline, {52, 50, 88});
  layer(0, 1, {132, 134, 150});
  layer(10 * kUnit, 1, {112, 114, 131});
  layer(26 * kUnit, 0.97, {94, 95, 113});
  layer(50 * kUnit, 0.92, {78, 79, 97});
  for (int i = 0; i < n; ++i) outline[i] = {LunarWorld::ground_x(i), world.ground_y[i]};
  canvas.polyline(std::span(outline).first(n), 1.6 * zoom, {214, 216, 226});
}

void draw_pad(Canvas& canvas, double zoom) {
  constexpr int middle = LunarWorld::kChunks / 2;
  const double left = LunarWorld::ground_x(middle - 1), right = LunarWorld::ground_x(middle + 1);
  // The pad lies where the smoothed ground does: 0.33 of three equal heights is a little lower.
  const double y = 0.33 * 3 * LunarWorld::kPadY;
  canvas.line({left, y}, {right, y}, 4 * zoom, {236, 201, 92});
  for (double x : {left, right}) {
    const double top = y + 50 * kUnit;
    canvas.line({x, y}, {x, top}, 1.8 * zoom, {236, 238, 245});
    const std::array<Point, 3> flag{
        {{x, top}, {x, top - 12 * kUnit}, {x + 25 * kUnit, top - 6 * kUnit}}};
    canvas.fill_polygon(flag, {244, 200, 60});
    canvas.fill_circle({x, top}, 1.8 * kUnit, {255, 240, 190});
  }
}

// Body coordinates in Gymnasium's pixels to the world.
struct Frame {
  b2Transform transform;
  Point operator()(double x, double y) const {
    const b2Vec2 p =
        b2Mul(transform, b2Vec2(static_cast<float>(x * kUnit), static_cast<float>(y * kUnit)));
    return {p.x, p.y};
  }
};

/// A flame from `root`, `length` along (dx, dy), in body pixels: glow, then three nested tongues.
void draw_flame(const Frame& frame, Point root, double dx, double dy, double length, double width,
                Canvas& canvas) {
  constexpr std::array<Color, 3> colors{
      {{255, 110, 30, 170}, {255, 180, 50, 220}, {255, 244, 200, 245}}};
  for (int ring = 3; ring > 0; --ring) {
    canvas.fill_circle(frame(root.x + dx * length * 0.3, root.y + dy * length * 0.3),
                       width * (0.7 + 0.55 * ring) * kUnit, {255, 150, 60, 16});
  }
  for (int i = 0; i < 3; ++i) {
    const double reach = length * (1 - 0.28 * i), half = width * (0.5 - 0.13 * i);
    const auto at = [&](double along, double across) {
      return frame(root.x + dx * along - dy * across, root.y + dy * along + dx * across);
    };
    const std::array<Point, 7> tongue{
        {at(0, -half), at(reach * 0.25, -half * 1.15), at(reach * 0.65, -half * 0.6), at(reach, 0),
         at(reach * 0.65, half * 0.6), at(reach * 0.25, half * 1.15), at(0, half)}};
    canvas.fill_polygon(tongue, colors[i]);
  }
}

void draw_craft(const LunarWorld& world, Canvas& canvas, double zoom) {
  for (const b2Body* leg : world.legs) {
    const Frame frame{leg->GetTransform()};
    const std::array<Point, 4> box{{frame(-2, -8), frame(2, -8), frame(2, 8), frame(-2, 8)}};
    canvas.fill_polygon(box, {150, 128, 238});
    canvas.polyline(box, 1.1 * zoom, {66, 60, 120}, true);
    canvas.line(frame(-4.5, -8), frame(4.5, -8), 2.6 * zoom, {206, 202, 240});
  }
  const Frame frame{world.hull->GetTransform()};
  const std::array<Point, 4> nozzle{
      {frame(-4, -10), frame(4, -10), frame(6.5, -15), frame(-6.5, -15)}};
  canvas.fill_polygon(nozzle, {72, 74, 96});
  for (int side : {-1, 1}) {
    const std::array<Point, 4> thruster{{frame(side * 14.5, 14), frame(side * 18.5, 12.5),
                                         frame(side * 18.5, 8.5), frame(side * 15.5, 8)}};
    canvas.fill_polygon(thruster, {72, 74, 96});
  }
  std::array<Point, LunarWorld::kHull.size()> hull;
  for (size_t i = 0; i < hull.size(); ++i) {
    hull[i] = frame(LunarWorld::kHull[i][0], LunarWorld::kHull[i][1]);
  }
  canvas.fill_polygon(hull, {128, 102, 230});
  const std::array<Point, 4> shade{{frame(5, 17), frame(14, 17), frame(17, 0), frame(9, 0)}};
  canvas.fill_polygon(shade, {106, 84, 200});
  const std::array<Point, 4> skirt{{frame(-17, 0), frame(17, 0), frame(17, -10), frame(-17, -10)}};
  canvas.fill_polygon(skirt, {98, 80, 184});
  canvas.line(frame(-17, 0), frame(17, 0), 1.1 * zoom, {70, 60, 134});
  canvas.polyline(hull, 1.6 * zoom, {66, 60, 120}, true);
  canvas.fill_circle(frame(0, 8.5), 5.4 * kUnit, {58, 52, 104});
  canvas.fill_circle(frame(0, 8.5), 4.2 * kUnit, {146, 214, 246});
  canvas.fill_circle(frame(-1.4, 10), 1.5 * kUnit, {236, 250, 255});
}

}  // namespace

void draw_lander(const LunarWorld& world, const LunarThrust& thrust, uint64_t step,
                 Canvas& canvas) {
  const double zoom =
      std::min(canvas.width() / LunarWorld::kViewWidth, canvas.height() / LunarWorld::kViewHeight);
  canvas.set_view(
      {(canvas.width() - LunarWorld::kViewWidth * zoom) / 2, static_cast<double>(canvas.height())},
      LunarWorld::kScale * zoom);
  draw_sky(canvas, zoom);
  draw_ground(world, canvas, zoom);
  draw_pad(canvas, zoom);
  const Frame frame{world.hull->GetTransform()};
  const double flicker = uniform_float(philox(0xF1A3E, step, 0).word[0]);
  if (thrust.main > 0) {
    draw_flame(frame, {0, -14}, 0, -1, 34 * thrust.main * (0.8 + 0.35 * flicker), 13, canvas);
  }
  if (thrust.side > 0) {
    const double side = -thrust.direction;  // where the exhaust leaves, in the lander's own frame
    draw_flame(frame, {side * 18, 10.5}, side, 0, 15 * thrust.side * (0.8 + 0.4 * flicker), 6,
               canvas);
  }
  draw_craft(world, canvas, zoom);
  canvas.reset_view();
}

}  // namespace bessemer
