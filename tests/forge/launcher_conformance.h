// What every Launcher must do, as one suite. A launcher's own test calls conform_launcher() with a
// way to make one; `shell` wraps a script of /bin/sh into the arguments that run it there.
#pragma once

#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "forge/launcher.h"
#include "tests/forge/processes.h"

namespace bessemer {

struct LauncherSubject {
  std::function<std::unique_ptr<Launcher>(int64_t places)> make;
  std::function<LaunchCommand(const std::string& name, const std::string& script)> shell;
};

/// What a launcher reported so far.
class LauncherWatch {
 public:
  explicit LauncherWatch(Launcher& launcher) : launcher_(launcher) {}

  std::map<ProcessId, std::vector<std::string>> lines;
  std::map<ProcessId, ChildStatus> exits;

  void look(double seconds) {
    for (const LaunchEvent& event : launcher_.watch(seconds)) {
      CHECK_MESSAGE(!exits.contains(event.process), "something after the end: ", event.text);
      if (event.kind == LaunchEvent::Kind::line) {
        lines[event.process].push_back(event.text);
      } else {
        exits[event.process] = event.status;
      }
    }
  }
  bool ended(ProcessId process) {
    return comes_true([&] { return exits.contains(process) || (look(0.05), false); });
  }
  bool wrote(ProcessId process, const std::string& line) {
    return comes_true([&] {
      for (const std::string& text : lines[process]) {
        if (text == line) return true;
      }
      look(0.05);
      return false;
    });
  }

 private:
  Launcher& launcher_;
};

inline void conform_launcher(const LauncherSubject& subject) {
  const std::unique_ptr<Launcher> launcher = subject.make(4);
  LauncherWatch watch(*launcher);
  const ReservationId room = launcher->reserve({3});
  const auto start = [&](const std::string& script) {
    return launcher->start(room, subject.shell("test", script));
  };
  const auto one = [](ReservationId id) { return std::vector<ReservationId>{id}; };

  SUBCASE("exit codes and signals are told") {
    const ProcessId good = start("exit 0"), bad = start("exit 7"), hit = start("kill -SEGV $$");
    REQUIRE(watch.ended(good));
    REQUIRE(watch.ended(bad));
    REQUIRE(watch.ended(hit));
    CHECK(watch.exits[good].ok());
    CHECK(watch.exits[bad].exit_code == 7);
    CHECK(watch.exits[hit].signal == SIGSEGV);
    CHECK(!launcher->pid(good));
  }
  SUBCASE("both streams come as lines, before the end, the unfinished last one too") {
    const ProcessId process =
        start("echo one; echo two >&2; printf 'three\\nfour' ; sleep 0.1; printf '!'");
    REQUIRE(watch.ended(process));
    auto lines = watch.lines[process];
    std::ranges::sort(lines);
    CHECK(lines == std::vector<std::string>{"four!", "one", "three", "two"});
  }
  SUBCASE("a flood without newlines comes in pieces, and what is lost is counted") {
    const ProcessId process = start("head -c 200000 /dev/zero | tr '\\0' x");
    REQUIRE(watch.ended(process));
    size_t bytes = 0;
    for (const std::string& line : watch.lines[process]) bytes += line.size();
    CHECK(bytes == 200000);
    // nobody looks while twelve megabytes come
    const ProcessId flood = start("yes 0123456789 | head -c 12000000; echo; echo last");
    CHECK(comes_true([&] { return process_dead(launcher->pid(flood)); }));
    REQUIRE(watch.ended(flood));
    CHECK(watch.lines[flood].size() < 1'000'000);
    CHECK(watch.lines[flood].back().ends_with("lines were lost]"));
  }
  SUBCASE("a place is taken while its process runs, and free afterwards") {
    const ProcessId first = start("sleep 600");
    start("sleep 600");
    start("sleep 600");
    CHECK_THROWS_WITH_AS(start("true"),
                         "[launcher] test: all 3 places of the reservation are taken", ValueError);
    CHECK_THROWS_WITH_AS(launcher->reserve({2}), "[launcher] 2 places asked for, 1 of 4 are free",
                         ValueError);
    CHECK_THROWS_AS(launcher->reserve({0}), ValueError);
    CHECK_THROWS_AS(launcher->start(room + 17, subject.shell("test", "true")), ValueError);
    launcher->release(first, 0);
    CHECK(watch.ended(start("true")));
    launcher->release(one(room), 0);
    CHECK_THROWS_AS(start("true"), ValueError);
    CHECK_THROWS_AS(launcher->release(one(room), 0), ValueError);
    CHECK(launcher->reserve({4}) != room);
  }
  SUBCASE("a program that is not there is an error, and leaves the place free") {
    LaunchCommand command{"test", {"/no/such/program"}, {}};
    for (int i = 0; i < 4; ++i) CHECK_THROWS_AS(launcher->start(room, command), IoError);
    CHECK(watch.ended(start("true")));
  }
  SUBCASE("the environment is added to") {
    LaunchCommand command = subject.shell("test", "echo $BESSEMER_LAUNCHED $HOME");
    command.env = {{"BESSEMER_LAUNCHED", "yes"}, {"HOME", "here"}};
    const ProcessId process = launcher->start(room, command);
    REQUIRE(watch.ended(process));
    CHECK(watch.lines[process] == std::vector<std::string>{"yes here"});
  }
  SUBCASE("release asks first, then kills, with everything that was started") {
    const ProcessId polite =
        start("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    const ProcessId stubborn = start("trap '' TERM; sleep 600 & echo $!; echo ready; wait; wait");
    REQUIRE(watch.wrote(polite, "ready"));
    REQUIRE(watch.wrote(stubborn, "ready"));
    const int grandchild = std::stoi(watch.lines[stubborn][0]);
    launcher->release(polite, 20);
    launcher->release(stubborn, 0.05);
    launcher->release(stubborn, 0.05);  // it ended already
    REQUIRE(watch.ended(polite));
    REQUIRE(watch.ended(stubborn));
    CHECK(watch.exits[polite].exit_code == 5);
    CHECK(watch.lines[polite].back() == "bye");
    CHECK(watch.exits[stubborn].signal == SIGKILL);
    CHECK(comes_true([&] { return process_dead(grandchild); }));
  }
  SUBCASE("a reservation ends as a whole, stopped processes too; others go on") {
    const ReservationId other = launcher->reserve({1});
    const ProcessId bystander = launcher->start(other, subject.shell("test", "sleep 600"));
    std::vector<std::optional<int>> pids;
    for (int i = 0; i < 3; ++i) pids.push_back(launcher->pid(start("trap '' TERM; sleep 600")));
    send_signal(pids[1], SIGSTOP);
    launcher->release(one(room), 0.05);
    for (const auto pid : pids) CHECK(comes_true([&] { return process_dead(pid); }));
    CHECK(!process_dead(launcher->pid(bystander)));
    watch.look(0);
    CHECK(watch.exits.size() == 3);
  }
  SUBCASE("an end is seen at once, from another thread's wait") {
    const ProcessId process = start("sleep 600");
    std::vector<LaunchEvent> seen;
    std::thread waiter([&] {
      while (seen.empty()) seen = launcher->watch(60);
    });
    send_signal(launcher->pid(process), SIGKILL);
    waiter.join();
    CHECK(seen[0].process == process);
    CHECK(seen[0].status.signal == SIGKILL);
    std::thread woken([&] { launcher->watch(60); });
    launcher->wake();
    woken.join();
  }
  SUBCASE("descriptors do not leak") {
    REQUIRE(watch.ended(start("true")));
    const int before = open_descriptors();
    for (int i = 0; i < 20; ++i) {
      const ProcessId process = start("ls /proc/self/fd | wc -l");
      REQUIRE(watch.ended(process));
      CHECK(std::stoi(watch.lines[process][0]) == 4);  // 0, 1, 2 and that of ls
    }
    CHECK(comes_true([&] { return open_descriptors() <= before; }));
  }
  SUBCASE("when it goes, everything goes") {
    std::unique_ptr<Launcher> brief = subject.make(2);
    const ReservationId place = brief->reserve({2});
    const ProcessId process = brief->start(place, subject.shell("test", "trap '' TERM; sleep 600"));
    const auto pid = brief->pid(process);
    brief.reset();
    CHECK(comes_true([&] { return process_dead(pid); }));
  }
}

}  // namespace bessemer
