// The film of a window: every frame reads back exactly, in any order, within its memory.
#include "envs/render/frame_store.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "core/base/error.h"

using namespace bessemer;

namespace {

Canvas picture(int64_t i) {
  Canvas canvas(120, 80);
  canvas.clear({8, 10, 30}, {70, 60, 110});
  canvas.fill_circle({static_cast<double>((i * 37) % 120), static_cast<double>((i * 17) % 80)}, 6,
                     {250, static_cast<uint8_t>(i), 60});
  return canvas;
}

bool same(const Canvas& a, const Canvas& b) {
  return std::equal(a.pixels().begin(), a.pixels().end(), b.pixels().begin(), b.pixels().end());
}

}  // namespace

TEST_CASE("frames read back exactly in any order") {
  FrameStore store(120, 80);
  for (int64_t i = 0; i < 200; ++i) store.push(picture(i), cat("frame ", i));
  CHECK(store.size() == 200);
  CHECK(store.first() == 0);
  Canvas out(120, 80);
  for (int64_t k = 0; k < 200; ++k) {
    const int64_t i = (k * 73) % 200;
    store.read(i, out);
    CHECK(same(out, picture(i)));
    CHECK(store.caption(i) == cat("frame ", i));
  }
  CHECK(store.bytes() < 200 * out.pixels().size() / 5);
  CHECK_THROWS_AS(store.read(200, out), IndexError);
  CHECK_THROWS_AS(store.read(-1, out), IndexError);
  Canvas other(10, 10);
  CHECK_THROWS_AS(store.push(other, ""), ValueError);
  CHECK_THROWS_AS(store.read(0, other), ValueError);
}

TEST_CASE("the oldest frames go when memory runs out") {
  FrameStore store(120, 80, 200'000);
  for (int64_t i = 0; i < 1000; ++i) store.push(picture(i), "");
  CHECK(store.bytes() <= 200'000 + picture(0).pixels().size() * 3);
  CHECK(store.size() == 1000);
  CHECK(store.first() > 0);
  Canvas out(120, 80);
  for (int64_t i = store.first(); i < 1000; ++i) {
    store.read(i, out);
    CHECK(same(out, picture(i)));
  }
  CHECK_THROWS_AS(store.read(store.first() - 1, out), IndexError);
}
