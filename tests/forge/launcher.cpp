#include "forge/launcher.h"

#include <doctest/doctest.h>

#include <cstdio>

#include "tests/forge/launcher_conformance.h"

using namespace bessemer;

namespace {

LaunchCommand shell(const std::string& name, const std::string& script) {
  return {name, {"/bin/sh", "-c", script}, {}};
}

}  // namespace

TEST_CASE("launcher: the local one conforms") {
  conform_launcher({[](int64_t places) { return std::make_unique<LocalLauncher>(places); }, shell});
}

TEST_CASE("launcher: helper that starts two levels and waits" * doctest::skip()) {
  LocalLauncher launcher;
  const ReservationId place = launcher.reserve({1});
  const ProcessId process = launcher.start(place, shell("sleeper", "sleep 600"));
  std::printf("pid=%d\n", launcher.pid(process).value_or(0));
  std::fflush(stdout);
  while (launcher.pid(process)) launcher.watch(600);
}

TEST_CASE("launcher: no orphan when this process is killed") {
  LocalLauncher launcher;
  LauncherWatch watch(launcher);
  const ReservationId place = launcher.reserve({1});
  const ProcessId parent =
      launcher.start(place, {"helper",
                             {"/proc/self/exe", "--no-skip",
                              "--test-case=launcher: helper that starts two levels and waits"},
                             {}});
  int sleeper = 0;
  REQUIRE(comes_true([&] {
    watch.look(0.05);
    for (const std::string& line : watch.lines[parent]) {
      if (line.starts_with("pid=")) sleeper = std::stoi(line.substr(4));
    }
    return sleeper > 0;
  }));
  CHECK(!process_dead(sleeper));
  send_signal(launcher.pid(parent), SIGKILL);
  CHECK(comes_true([&] { return process_dead(sleeper); }));
}
