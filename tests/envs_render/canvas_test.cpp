// Canvas: areas, clipping, hostile coordinates, and golden hashes of whole drawings.
#include "envs/render/canvas.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/base/error.h"
#include "envs/render/font.h"

using namespace bessemer;

namespace {

constexpr Color kWhite{255, 255, 255};
constexpr double kInf = std::numeric_limits<double>::infinity();

uint64_t hash(const Canvas& canvas) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325ull;
  for (uint8_t byte : canvas.pixels()) h = (h ^ byte) * 0x100000001b3ull;
  return h;
}

// White on black: the sum of a channel is the covered area.
double area(const Canvas& canvas) {
  double sum = 0;
  for (size_t i = 0; i < canvas.pixels().size(); i += 3) sum += canvas.pixels()[i] / 255.0;
  return sum;
}

uint8_t red(const Canvas& canvas, int x, int y) {
  return canvas.pixels()[(static_cast<size_t>(y) * canvas.width() + x) * 3];
}

}  // namespace

TEST_CASE("polygons cover exactly their area") {
  Canvas canvas(64, 48);
  const Point triangle[] = {{3.25, 4.5}, {50.75, 10.125}, {20.5, 40.875}};
  canvas.fill_polygon(triangle, kWhite);
  const double wanted =
      0.5 * std::fabs((50.75 - 3.25) * (40.875 - 4.5) - (20.5 - 3.25) * (10.125 - 4.5));
  CHECK(area(canvas) == doctest::Approx(wanted).epsilon(0.002));

  SUBCASE("whichever way its corners run") {
    Canvas other(64, 48);
    const Point reversed[] = {triangle[2], triangle[1], triangle[0]};
    other.fill_polygon(reversed, kWhite);
    CHECK(hash(other) == hash(canvas));
  }
  SUBCASE("a pixel cut in quarters is a quarter bright") {
    Canvas small(2, 2);
    small.fill_rect({0.5, 0.5}, {1, 1}, kWhite);
    CHECK(red(small, 0, 0) == 64);
    CHECK(red(small, 1, 0) == 0);
    CHECK(red(small, 0, 1) == 0);
  }
}

TEST_CASE("concave polygons leave their notch open") {
  Canvas canvas(40, 40);
  const Point notch[] = {{0, 0}, {40, 0}, {40, 40}, {20, 10}, {0, 40}};
  canvas.fill_polygon(notch, kWhite);
  CHECK(red(canvas, 20, 30) == 0);
  CHECK(red(canvas, 20, 4) == 255);
  CHECK(red(canvas, 2, 20) == 255);
  CHECK(area(canvas) == doctest::Approx(1600 - 600).epsilon(0.002));
}

TEST_CASE("two halves of a cut shape add up to the whole") {
  // Each half on its own picture: coverage of the shared edge must sum to one.
  Canvas left(32, 32), right(32, 32);
  const Point a[] = {{2, 2}, {17.3, 2}, {11.1, 30}, {2, 30}};
  const Point b[] = {{17.3, 2}, {30, 2}, {30, 30}, {11.1, 30}};
  left.fill_polygon(a, kWhite);
  right.fill_polygon(b, kWhite);
  for (int y = 2; y < 30; ++y) {
    for (int x = 2; x < 30; ++x) {
      const int sum = red(left, x, y) + red(right, x, y);
      CHECK(sum >= 254);
      CHECK(sum <= 256);
    }
  }
}

TEST_CASE("discs, rings and strokes cover their area") {
  for (double radius : {1.5, 4.0, 13.7}) {
    Canvas canvas(40, 40);
    canvas.fill_circle({20.3, 19.6}, radius, kWhite);
    CHECK(area(canvas) == doctest::Approx(M_PI * radius * radius).epsilon(0.03));
  }
  Canvas ring(64, 64);
  ring.circle({32, 32}, 20, 4, kWhite);
  CHECK(area(ring) == doctest::Approx(2 * M_PI * 20 * 4).epsilon(0.01));
  Canvas stroke(64, 64);
  stroke.line({10.2, 12.9}, {50.7, 41.3}, 5, kWhite);
  const double length = std::hypot(40.5, 28.4);
  CHECK(area(stroke) == doctest::Approx(length * 5 + M_PI * 2.5 * 2.5).epsilon(0.01));
  Canvas hair(64, 64);
  hair.line({10, 12.5}, {50, 12.5}, 0.25, kWhite);
  CHECK(area(hair) == doctest::Approx(40 * 0.25).epsilon(0.05));
}

TEST_CASE("a translucent polyline blends once, also where it crosses itself") {
  Canvas canvas(40, 40);
  const Point cross[] = {{5, 5}, {35, 35}, {35, 5}, {5, 35}};
  canvas.polyline(cross, 6, {255, 255, 255, 128});
  CHECK(red(canvas, 20, 20) == 128);
  CHECK(red(canvas, 10, 10) == 128);
}

TEST_CASE("what lies outside is clipped and what lies partly inside is right") {
  Canvas canvas(30, 20);
  canvas.fill_rect({-1000, -1000}, {-10, 500}, kWhite);
  canvas.fill_rect({31, 5}, {90, 9}, kWhite);
  canvas.line({-50, -5}, {80, -9}, 3, kWhite);
  canvas.fill_circle({-20, 10}, 15, kWhite);
  canvas.text({40, 10}, "outside", 8, kWhite);
  canvas.text({2, -30}, "above", 8, kWhite);
  CHECK(area(canvas) == 0);

  canvas.fill_rect({-1000, -1000}, {10, 10}, kWhite);
  CHECK(area(canvas) == doctest::Approx(100));
  canvas.clear({});
  const Point diagonal[] = {{-30, -30}, {60, 60}, {-30, 60}};  // below y = x
  canvas.fill_polygon(diagonal, kWhite);
  CHECK(area(canvas) == doctest::Approx(20 * 20 / 2.0).epsilon(0.001));
  CHECK(red(canvas, 25, 3) == 0);
}

TEST_CASE("hostile coordinates neither crash nor spoil the picture") {
  Canvas canvas(20, 20);
  const double nan = std::nan("");
  for (const Point bad : {Point{nan, 3}, Point{3, nan}, Point{kInf, 3}, Point{3, -kInf}}) {
    const Point shape[] = {{1, 1}, bad, {10, 10}};
    canvas.fill_polygon(shape, kWhite);
    canvas.polyline(shape, 2, kWhite, true);
    canvas.line({1, 1}, bad, 2, kWhite);
    canvas.fill_circle(bad, 5, kWhite);
    canvas.circle(bad, 5, 1, kWhite);
    canvas.text(bad, "abc", 8, kWhite);
    canvas.fill_rect({0, 0}, bad, kWhite);
  }
  canvas.fill_circle({5, 5}, nan, kWhite);
  canvas.line({1, 1}, {5, 5}, nan, kWhite);
  canvas.line({1, 1}, {5, 5}, -2, kWhite);
  canvas.text({1, 1}, "abc", nan, kWhite);
  canvas.set_view({0, 0}, kInf);
  canvas.fill_rect({0, 0}, {1, 1}, kWhite);
  canvas.reset_view();
  CHECK(area(canvas) == 0);

  // A half plane with its far corners at the end of double's range covers exactly the left half.
  const Point far[] = {{10, -1e300}, {10, 1e300}, {-1e300, 1e300}, {-1e300, -1e300}};
  canvas.fill_polygon(far, kWhite);
  CHECK(area(canvas) == doctest::Approx(200));
  canvas.clear({});
  canvas.line({-1e300, 10}, {1e300, 10}, 4, kWhite);
  CHECK(area(canvas) == doctest::Approx(80));
  canvas.fill_circle({10, 10}, 1e308, kWhite);
  CHECK(area(canvas) == doctest::Approx(400));
}

TEST_CASE("a view turns world coordinates into pixels, y upward") {
  Canvas world(40, 30), pixels(40, 30);
  world.set_view({20, 25}, 10);
  world.fill_rect({-1, 0}, {1, 2}, kWhite);
  world.fill_circle({0, 1}, 0.5, {255, 0, 0});
  pixels.fill_rect({10, 5}, {30, 25}, kWhite);
  pixels.fill_circle({20, 15}, 5, {255, 0, 0});
  CHECK(hash(world) == hash(pixels));
}

TEST_CASE("a gradient runs from top to bottom with no wider step than one level") {
  Canvas canvas(16, 100);
  canvas.clear({10, 20, 30}, {60, 20, 0});
  for (int x = 0; x < 16; ++x) {
    CHECK(red(canvas, x, 0) == 10);
    CHECK(std::abs(red(canvas, x, 99) - 60) <= 1);
    for (int y = 1; y < 100; ++y) CHECK(std::abs(red(canvas, x, y) - red(canvas, x, y - 1)) <= 2);
  }
}

TEST_CASE("text") {
  Canvas canvas(200, 40);
  CHECK(canvas.text_width("", 10) == 0);
  CHECK(canvas.text_width("mmm", 10) > canvas.text_width("iii", 10));
  CHECK(canvas.text_width("0123", 20) == doctest::Approx(2 * canvas.text_width("5678", 10)));
  canvas.text({10, 30}, "Hg", 20, kWhite);
  const double end = 10 + canvas.text_width("Hg", 20);
  for (int y = 0; y < 40; ++y) {
    for (int x = static_cast<int>(end) + 3; x < 200; ++x) CHECK(red(canvas, x, y) == 0);
  }
  CHECK(area(canvas) > 80);
  CHECK(red(canvas, 10, 20) == 255);  // the stem of H

  // Unknown and malformed characters take the box, valid ones their glyph.
  CHECK(&find_glyph(0x4E2D) == &find_glyph(0xFFFD));
  std::string_view text = "a\xC2\xB0\xE2\x86\x92\xFF\xE2\x86";
  std::vector<uint32_t> codes;
  while (!text.empty()) codes.push_back(next_codepoint(text));
  CHECK(codes == std::vector<uint32_t>{'a', 0xB0, 0x2192, 0xFFFD, 0xFFFD, 0xFFFD});
  for (uint32_t code = 33; code < 127; ++code) {
    CHECK(&find_glyph(code) != &find_glyph(0xFFFD));
    for (const auto& stroke : find_glyph(code).strokes) {
      CHECK(stroke.size() >= 2);
      for (const Point& p : stroke) {
        CHECK(p.x >= -0.5);
        CHECK(p.x <= find_glyph(code).width + 0.5);
        CHECK(p.y >= -3.6);
        CHECK(p.y <= 10.9);
      }
    }
  }
}

TEST_CASE("blit clips") {
  Canvas source(4, 4), target(6, 6);
  source.clear(kWhite);
  target.blit(source, -2, 4);
  CHECK(area(target) == 4);
  target.blit(source, 100, 100);
  target.blit(source, std::numeric_limits<int>::max(), std::numeric_limits<int>::min());
  CHECK(area(target) == 4);
}

TEST_CASE("a picture's size is checked") {
  CHECK_THROWS_AS(Canvas(0, 10), ValueError);
  CHECK_THROWS_AS(Canvas(10, -1), ValueError);
  CHECK_THROWS_AS(Canvas(10, 1 << 20), ValueError);
}

TEST_CASE("golden drawings: the same bytes on every machine") {
  Canvas canvas(160, 100);
  canvas.clear({8, 10, 30}, {70, 60, 110});
  SUBCASE("shapes") {
    canvas.set_view({80, 50}, 20);
    const Point star[] = {{0, 2},    {0.5, 0.6},   {2, 0.6},     {0.8, -0.3}, {1.2, -1.8},
                          {0, -0.9}, {-1.2, -1.8}, {-0.8, -0.3}, {-2, 0.6},   {-0.5, 0.6}};
    canvas.fill_polygon(star, {255, 220, 90});
    canvas.polyline(star, 2.5, {200, 80, 60, 200}, true);
    canvas.fill_circle({-3, 1.1}, 0.7, {90, 180, 240, 180});
    canvas.circle({3.1, -1}, 0.8, 1.5, kWhite);
    CHECK(hash(canvas) == 12160311577537027810ull);
  }
  SUBCASE("text") {
    canvas.text({4, 20}, "Sphinx of black quartz", 9, kWhite);
    canvas.text({4, 45}, "JUDGE my VOW 0123", 11.5, {255, 200, 80});
    canvas.text({4, 70}, "456789 {[(<=>)]} \u03c0\u00b1\u2192", 8, {255, 200, 80, 128});
    CHECK(hash(canvas) == 4106286184816202025ull);
  }
}
