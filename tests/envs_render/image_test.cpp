// PNG: what is written is what is read; failures are typed and leave nothing behind.
#include "envs/render/image.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "core/base/error.h"
#include "tests/envs_render/scratch.h"

using namespace bessemer;

TEST_CASE("png round trip" * doctest::skip(!png_available())) {
  const Scratch scratch;
  Canvas canvas(37, 23);
  canvas.clear({1, 2, 3}, {250, 128, 7});
  canvas.line({2, 3}, {30, 20}, 2, {255, 255, 255});
  const std::string path = scratch.path("picture.png");
  write_png(path, canvas);
  const Canvas back = read_png(path);
  REQUIRE(back.width() == 37);
  REQUIRE(back.height() == 23);
  CHECK(std::equal(canvas.pixels().begin(), canvas.pixels().end(), back.pixels().begin()));
  CHECK(scratch.count() == 1);  // no file aside remains

  canvas.clear({9, 9, 9});
  write_png(path, canvas);  // replaces
  CHECK(read_png(path).pixels()[0] == 9);
}

TEST_CASE("png failures" * doctest::skip(!png_available())) {
  const Scratch scratch;
  const Canvas canvas(300, 200);
  CHECK_THROWS_WITH_AS(write_png(scratch.path("no/such/x.png"), canvas),
                       doctest::Contains("No such file or directory"), IoError);
  CHECK_THROWS_AS(read_png(scratch.path("missing.png")), IoError);

  std::ofstream(scratch.path("damaged.png")) << "\x89PNG\r\n\x1a\nrubbish";
  CHECK_THROWS_AS(read_png(scratch.path("damaged.png")), IoError);

  // A folder in the way makes the rename fail, whoever runs the test.
  REQUIRE(mkdir(scratch.path("taken.png").c_str(), 0700) == 0);
  CHECK_THROWS_AS(write_png(scratch.path("taken.png"), canvas), IoError);
  CHECK(scratch.count() == 2);

  if (geteuid() != 0) {
    REQUIRE(chmod(scratch.path("").c_str(), 0500) == 0);
    CHECK_THROWS_WITH_AS(write_png(scratch.path("y.png"), canvas),
                         doctest::Contains("Permission denied"), IoError);
    REQUIRE(chmod(scratch.path("").c_str(), 0700) == 0);
  }
}
