#include "trainer/checkpoint.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/forge/scratch.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.flush();
  BESSEMER_CHECK(file, IoError, "cannot write ", path.string());
}

auto content(const std::string& text) {
  return [text](const fs::path& folder) {
    write_file(folder / "model.safetensors", text);
    write_file(folder / "state.json", "{}");
  };
}

std::string problem(const fs::path& folder) {
  try {
    verify_checkpoint(folder);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("checkpoint: the newest ones are kept and `latest` names the last") {
  const Scratch scratch;
  CHECK(latest_checkpoint(scratch.path).empty());
  for (int64_t step : {100, 200, 300, 1000}) write_checkpoint(scratch.path, step, 2, content("w"));
  const auto all = list_checkpoints(scratch.path);
  REQUIRE(all.size() == 2);
  CHECK(all[0].filename() == "step-000000000300");
  CHECK(latest_checkpoint(scratch.path) == all[1]);
  CHECK(problem(all[0]) == "");
  CHECK(problem(all[1]) == "");
}

TEST_CASE("checkpoint: the same step again replaces it") {
  const Scratch scratch;
  write_checkpoint(scratch.path, 5, 3, content("old"));
  const fs::path folder = write_checkpoint(scratch.path, 5, 3, content("newer"));
  CHECK(fs::file_size(folder / "model.safetensors") == 5);
  CHECK(problem(folder) == "");
  CHECK(list_checkpoints(scratch.path).size() == 1);
}

TEST_CASE("checkpoint: damage is named") {
  const Scratch scratch;
  const fs::path folder = write_checkpoint(scratch.path, 1, 3, content("weights"));
  const std::string model = (folder / "model.safetensors").string();
  write_file(model, "weighty");
  CHECK(problem(folder) ==
        "damaged checkpoint: the bytes of " + model + " are not those that were written");
  write_file(model, "weight");
  CHECK(problem(folder) == "damaged checkpoint: " + model + " has 6 bytes instead of 7");
  fs::remove(model);
  CHECK(problem(folder) == "damaged checkpoint: " + model + " is missing");
}

TEST_CASE("checkpoint: what is foreign, newer or cut short is refused") {
  const Scratch scratch;
  CHECK(problem(scratch.path / "none").find("there is no checkpoint") == 0);
  CHECK(problem(scratch.path).find("is no Bessemer checkpoint: it has no manifest") !=
        std::string::npos);
  const fs::path folder = write_checkpoint(scratch.path, 1, 3, content("weights"));
  write_file(folder / "manifest", "bessemer-checkpoint 2 0\n");
  CHECK(problem(folder) == folder.string() + " has format 2, newer than this version reads (1)");
  write_file(folder / "manifest", "something else\n");
  CHECK(problem(folder).find("manifest is damaged") != std::string::npos);
  write_file(folder / "manifest", "bessemer-checkpoint 1 2\n");
  CHECK(problem(folder).find("it is cut short") != std::string::npos);
  write_file(scratch.path / "latest", "../elsewhere\n");
  CHECK_THROWS_AS(latest_checkpoint(scratch.path), ValueError);
}

TEST_CASE("checkpoint: a failure while writing leaves the last good one") {
  const Scratch scratch;
  const fs::path good = write_checkpoint(scratch.path, 1, 1, content("good"));
  CHECK_THROWS_WITH_AS(write_checkpoint(scratch.path, 2, 1,
                                        [](const fs::path& folder) {
                                          write_file(folder / "model.safetensors", "half");
                                          fail<IoError>("no space left");
                                        }),
                       "no space left", IoError);
  CHECK(latest_checkpoint(scratch.path) == good);
  CHECK(problem(good) == "");
  CHECK(list_checkpoints(scratch.path).size() == 1);
  CHECK(std::distance(fs::directory_iterator(scratch.path), {}) == 2);  // it and `latest`
}

TEST_CASE("checkpoint: a full disk leaves the last good one") {
  const Scratch scratch;
  const fs::path good = write_checkpoint(scratch.path, 1, 1, content("good"));
  const pid_t child = ::fork();
  if (child == 0) {
    // files cannot grow beyond 8 KiB: what a full disk looks like to the writer
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8192, 8192};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_checkpoint(scratch.path, 2, 1, content(std::string(100'000, 'x')));
    } catch (const IoError&) {
      ::_exit(7);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 7);
  CHECK(latest_checkpoint(scratch.path) == good);
  CHECK(problem(good) == "");
}

TEST_CASE("checkpoint: SIGKILL at any moment leaves a whole checkpoint") {
  const Scratch scratch;
  write_checkpoint(scratch.path, 1, 2, content("good"));
  for (int delay = 0; delay < 20; ++delay) {
    const pid_t child = ::fork();
    if (child == 0) {
      for (int64_t step = 2;; ++step) {
        write_checkpoint(scratch.path, step, 2, content(std::string(20'000, 'y')));
      }
    }
    ::usleep(static_cast<useconds_t>(500 + 700 * delay));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const fs::path latest = latest_checkpoint(scratch.path);
    REQUIRE_FALSE(latest.empty());
    CHECK(problem(latest) == "");
  }
  // the next writer clears what the killed ones left
  write_checkpoint(scratch.path, 1'000'000, 2, content("after"));
  for (const auto& entry : fs::directory_iterator(scratch.path)) {
    CHECK_FALSE(entry.path().filename().string().starts_with(".writing-"));
  }
}
