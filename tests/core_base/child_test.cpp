#include "core/base/child.h"

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

using namespace bessemer;

namespace {

ChildOptions shell(const std::string& script) {
  ChildOptions options;
  options.args = {"/bin/sh", "-c", script};
  return options;
}

int open_fds() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder)) ++count;
  closedir(folder);
  return count;
}

/// The kernel's letter for what a process does ('T' stopped, 'Z' zombie), '\0' for one that is
/// gone.
char process_state(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return '\0';
  return text[text.rfind(')') + 2];
}

/// Gone, or a zombie that the machine's init has yet to collect.
bool dead(int pid) {
  const char state = process_state(pid);
  return state == '\0' || state == 'Z';
}

bool becomes_dead(int pid) {
  for (int i = 0; i < 500; ++i) {
    if (dead(pid)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

/// Waits until the child printed a whole line; its number.
int printed_number(const Child& child) {
  for (int i = 0; i < 500; ++i) {
    const std::string text = child.output().text;
    const size_t mark = text.find("pid=");
    if (mark != std::string::npos && text.find('\n', mark) != std::string::npos) {
      return std::stoi(text.substr(mark + 4));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return 0;
}

}  // namespace

TEST_CASE("child: output, errors, exit code, environment and folder") {
  ChildOptions options = shell("echo out $BESSEMER_X; pwd; echo err >&2; exit 3");
  options.env = {{"BESSEMER_X", "seven"}};
  options.cwd = "/usr";
  const ChildResult result = run_child(options, 10);
  CHECK_EQ(result.status.exit_code, 3);
  CHECK_EQ(result.status.text(), "exit code 3");
  CHECK_EQ(result.output.text, "out seven\n/usr\n");
  CHECK_EQ(result.errors.text, "err\n");
  CHECK(!result.timed_out);
}

TEST_CASE("child: a program that is not there is an error, not a child") {
  ChildOptions options;
  options.args = {"no-such-program-at-all"};
  CHECK_THROWS_WITH_AS(Child::spawn(options), "[child] no program 'no-such-program-at-all' in PATH",
                       IoError);
  options.args = {"/no/such/file"};
  CHECK_THROWS_WITH_AS(Child::spawn(options),
                       "[child] cannot start '/no/such/file': No such file or directory", IoError);
  options = shell("true");
  options.cwd = "/no/such/folder";
  CHECK_THROWS_AS(Child::spawn(options), IoError);
  options.args.clear();
  CHECK_THROWS_AS(Child::spawn(options), ValueError);
}

TEST_CASE("child: a hanging one ends at the deadline, with what it started") {
  const auto begin = std::chrono::steady_clock::now();
  const ChildResult result = run_child(shell("trap '' TERM; sleep 600 & echo pid=$!; wait"), 0.3);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  CHECK(result.timed_out);
  CHECK_EQ(result.status.signal, SIGKILL);
  CHECK_GE(seconds, 0.3);
  CHECK_LT(seconds, 10.0);
  CHECK(becomes_dead(std::stoi(result.output.text.substr(4))));
}

TEST_CASE("child: stop asks first, then kills; a stopped one dies too") {
  Child polite =
      Child::spawn(shell("trap 'exit 5' TERM; echo pid=0; while :; do sleep 0.01; done"));
  printed_number(polite);
  CHECK(polite.running());
  CHECK_EQ(polite.stop(10).exit_code, 5);
  CHECK(!polite.running());
  CHECK_EQ(polite.kill().exit_code, 5);

  Child stubborn = Child::spawn(shell("trap '' TERM; echo pid=0; while :; do sleep 0.01; done"));
  printed_number(stubborn);
  CHECK_EQ(stubborn.stop(0.05).signal, SIGKILL);

  Child frozen = Child::spawn(shell("sleep 600"));
  frozen.signal(SIGSTOP);
  // Two pending signals are delivered by number: TERM must not come before STOP has worked.
  while (process_state(frozen.pid()) != 'T')
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK_EQ(frozen.stop(0.05).signal, SIGKILL);
}

TEST_CASE("child: one that dies of a signal says which") {
  const ChildResult result = run_child(shell("kill -SEGV $$"), 10);
  CHECK_EQ(result.status.signal, SIGSEGV);
  CHECK_EQ(result.status.text(), "signal 11 (Segmentation fault)");
}

TEST_CASE("child: a chatty one neither blocks nor fills memory; the tail is kept") {
  ChildOptions options = shell("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last");
  options.capture_limit = 1000;
  const ChildResult result = run_child(options, 30);
  CHECK(result.status.ok());
  CHECK_EQ(result.output.text.size(), 1000);
  CHECK_EQ(result.output.dropped, 5000000 + 6 - 1000);
  CHECK(result.output.text.ends_with("x\nlast\n"));
}

TEST_CASE("child: pieces of output reach the callback as they come") {
  std::string seen;
  ChildOptions options = shell("echo one; echo two >&2");
  options.on_output = [&](bool is_error, std::string_view piece) {
    seen += is_error ? "E:" : "O:";
    seen += piece;
  };
  run_child(options, 10);
  CHECK(seen.find("O:one\n") != std::string::npos);
  CHECK(seen.find("E:two\n") != std::string::npos);
}

TEST_CASE("child: descriptors do not leak, neither here nor there") {
  const int leaky = open("/dev/null", O_RDONLY);  // without O_CLOEXEC, as a library might
  run_child(shell("true"), 10);
  const int before = open_fds();
  for (int i = 0; i < 20; ++i) {
    const ChildResult result = run_child(shell("ls /proc/self/fd | wc -l"), 10);
    CHECK_EQ(std::stoi(result.output.text), 4);  // 0, 1, 2 and ls's own folder
  }
  int after = open_fds();
  for (int i = 0; i < 500 && after > before; ++i) {  // the keeper may still hold the last state
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    after = open_fds();
  }
  CHECK_LE(after, before);
  close(leaky);
}

TEST_CASE("child: passed descriptors are 3, 4, ... in the child") {
  int ends[2];
  REQUIRE_EQ(pipe2(ends, O_CLOEXEC), 0);
  ChildOptions options = shell("echo through >&4");
  options.pass_fds = {ends[0], ends[1]};
  CHECK(run_child(options, 10).status.ok());
  char text[16] = {};
  CHECK_EQ(read(ends[0], text, sizeof text), 8);
  CHECK_EQ(std::string(text), "through\n");
  close(ends[0]);
  close(ends[1]);
}

TEST_CASE("child: one started by a thread that ended lives on; the destructor ends it") {
  Child child;
  std::thread([&] { child = Child::spawn(shell("echo pid=$$; sleep 600")); }).join();
  const int pid = printed_number(child);
  REQUIRE_GT(pid, 0);
  CHECK_EQ(pid, child.pid());
  CHECK(!child.wait(0.1));
  child = Child();
  CHECK(becomes_dead(pid));
}

TEST_CASE("child: helper that starts a sleeper and waits" * doctest::skip()) {
  Child child = Child::spawn(shell("sleep 600"));
  std::printf("pid=%d\n", child.pid());
  std::fflush(stdout);
  child.wait();
}

TEST_CASE("child: when the parent is killed its children die") {
  ChildOptions options;
  options.args = {"/proc/self/exe", "--no-skip",
                  "--test-case=child: helper that starts a sleeper and waits"};
  Child parent = Child::spawn(options);
  const int sleeper = printed_number(parent);
  REQUIRE_GT(sleeper, 0);
  CHECK(!dead(sleeper));
  parent.kill();
  CHECK(becomes_dead(sleeper));
}
