// Films: as many frames as were pushed, of the right size and speed; nothing half-written remains.
#include "envs/render/video.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "core/base/error.h"
#include "tests/envs_render/scratch.h"

using namespace bessemer;

TEST_CASE("a film has the frames that were pushed" * doctest::skip(!video_available())) {
  const Scratch scratch;
  const std::string path = scratch.path("film.mp4");
  int width = 96, height = 64;
  SUBCASE("even size") {}
  SUBCASE("an odd size loses its last row and column") { width = 97, height = 65; }
  VideoWriter writer(path, width, height, 25);
  Canvas canvas(width, height);
  for (int i = 0; i < 73; ++i) {
    canvas.clear({10, 20, 60});
    canvas.fill_circle({i * 1.2, 30}, 12, {250, 200, 60});
    writer.push(canvas);
  }
  CHECK_FALSE(std::ifstream(path).good());  // its name comes last
  writer.finish();
  CHECK(scratch.count() == 1);
  const VideoInfo info = video_info(path);
  CHECK(info.frames == 73);
  CHECK(info.width == 96);
  CHECK(info.height == 64);
  CHECK(info.fps == doctest::Approx(25));
  CHECK((info.codec == "h264" || info.codec == "mpeg4"));
  CHECK_THROWS_AS(writer.push(canvas), ValueError);
  CHECK_THROWS_AS(writer.finish(), ValueError);
}

TEST_CASE("a film that is not finished leaves nothing" * doctest::skip(!video_available())) {
  const Scratch scratch;
  {
    VideoWriter writer(scratch.path("film.mp4"), 64, 64, 50);
    writer.push(Canvas(64, 64));
    CHECK(scratch.count() == 1);
    CHECK_THROWS_AS(writer.push(Canvas(32, 64)), ValueError);
  }
  CHECK(scratch.count() == 0);
}

TEST_CASE("film failures are typed" * doctest::skip(!video_available())) {
  const Scratch scratch;
  CHECK_THROWS_WITH_AS(VideoWriter(scratch.path("no/such/film.mp4"), 64, 64, 50),
                       doctest::Contains("No such file or directory"), IoError);
  CHECK_THROWS_AS(VideoWriter(scratch.path("a.mp4"), 64, 64, 0), ValueError);
  CHECK_THROWS_AS(VideoWriter(scratch.path("a.mp4"), 8, 64, 50), ValueError);
  {
    VideoWriter empty(scratch.path("a.mp4"), 64, 64, 50);
    CHECK_THROWS_AS(empty.finish(), ValueError);
  }
  REQUIRE(mkdir(scratch.path("taken.mp4").c_str(), 0700) == 0);
  {
    VideoWriter writer(scratch.path("taken.mp4"), 64, 64, 50);
    writer.push(Canvas(64, 64));
    CHECK_THROWS_AS(writer.finish(), IoError);
  }
  CHECK(scratch.count() == 1);
  std::ofstream(scratch.path("damaged.mp4")) << "not a film";
  CHECK_THROWS_AS(video_info(scratch.path("damaged.mp4")), IoError);
  CHECK_THROWS_AS(video_info(scratch.path("missing.mp4")), IoError);
}

TEST_CASE("a full disk is reported" * doctest::skip(!video_available())) {
  // /dev/full takes no byte; the film's aside name is chosen by the writer, so a link stands for
  // it.
  const Scratch scratch;
  const std::string path = scratch.path("film.mp4");
  const std::string aside = cat(path, ".", static_cast<int64_t>(getpid()), ".part");
  REQUIRE(symlink("/dev/full", aside.c_str()) == 0);
  const auto film = [&] {
    VideoWriter writer(path, 320, 240, 50);
    Canvas canvas(320, 240);
    for (uint32_t i = 0; i < 60; ++i) {
      for (size_t k = 0; k < canvas.pixels().size(); ++k) {  // noise: the encoder must write a lot
        canvas.writable_pixels()[k] = static_cast<uint8_t>((k * 2654435761u + i * 40503u) >> 13);
      }
      writer.push(canvas);
    }
    writer.finish();
  };
  CHECK_THROWS_WITH_AS(film(), doctest::Contains("No space left on device"), IoError);
  CHECK_FALSE(std::ifstream(path).good());
}
