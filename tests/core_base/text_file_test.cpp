#include "core/base/text_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "core/base/error.h"
#include "tests/forge/scratch.h"

using namespace bessemer;

TEST_CASE("text files come back as they were written") {
  const Scratch scratch;
  const std::string path = scratch / "a";
  for (const size_t size : {size_t{0}, size_t{1}, size_t{70'000}}) {
    const std::string text(size, '\xff');
    write_text_file(path, text);
    CHECK(read_text_file(path) == text);
  }
  CHECK(std::distance(std::filesystem::directory_iterator(scratch.path), {}) == 1);
}

TEST_CASE("text files: errors name the path and the reason") {
  const Scratch scratch;
  CHECK_THROWS_WITH_AS(read_text_file(scratch / "none"), doctest::Contains("none: No such file"),
                       IoError);
  CHECK_THROWS_WITH_AS(read_text_file(scratch.path.string()), doctest::Contains("folder"), IoError);
  CHECK_THROWS_WITH_AS(write_text_file(scratch / "no/a", "x"), doctest::Contains("no/a: No such"),
                       IoError);
  CHECK_THROWS_WITH_AS(write_text_file(scratch.path.string(), "x"), doctest::Contains("directory"),
                       IoError);
}

TEST_CASE("text files: a pipe stays a pipe") {
  const Scratch scratch;
  const std::string path = scratch / "pipe";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  const int file = ::open(path.c_str(), O_RDWR);  // both ends, so that nobody waits
  REQUIRE(file >= 0);
  write_text_file(path, "text");
  char got[8] = "";
  CHECK(::read(file, got, sizeof got) == 4);
  ::close(file);
  CHECK(std::filesystem::is_fifo(path));
}

TEST_CASE("how deep JSON nests") {
  CHECK(json_depth("") == 0);
  CHECK(json_depth("1") == 0);
  CHECK(json_depth("[]") == 1);
  CHECK(json_depth(R"({"a": [1, {"b": []}], "c": {}})") == 4);
  CHECK(json_depth(R"(["[[[", "\"[[", "\\", [0]])") == 2);
  CHECK(json_depth(std::string(100'000, '{')) == 100'000);
  CHECK(json_depth("\"\\") == 0);
}
