#include "forge/controller.h"

#include <doctest/doctest.h>
#include <signal.h>

#include <mutex>
#include <regex>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "tests/forge/processes.h"
#include "tests/forge/scratch.h"

using namespace bessemer;

namespace {

ActorSpec shell(const std::string& name, const std::string& script) {
  ActorSpec spec;
  spec.name = name;
  spec.args = {"/bin/sh", "-c", script};
  return spec;
}

/// A controller whose events are kept.
struct Stage {
  Scratch scratch;
  LocalLauncher launcher;
  std::mutex mutex;
  std::vector<std::string> seen;
  std::unique_ptr<Controller> controller;

  explicit Stage(ControllerOptions options = {}) {
    options.logs = scratch / "logs";
    ControllerEvents events;
    events.on_exit = [this](const std::string& name, const ChildStatus& status) {
      add(cat(name, " exit ", status.text()));
    };
    events.on_start = [this](const std::string& name, int pid, int64_t restarts) {
      CHECK(pid > 0);
      add(cat(name, " start ", restarts));
    };
    events.on_failure = [this](const std::string& name, const std::string&) {
      add(cat(name, " failure"));
    };
    controller = std::make_unique<Controller>(launcher, options, events);
  }
  void add(std::string text) {
    std::lock_guard lock(mutex);
    seen.push_back(std::move(text));
  }
  std::vector<std::string> events() {
    std::lock_guard lock(mutex);
    return seen;
  }
  ActorStatus status(const std::string& name) {
    for (const ActorStatus& status : controller->status()) {
      if (status.name == name) return status;
    }
    return {};
  }
  bool becomes(const std::string& name, ActorState state, int64_t restarts) {
    return comes_true([&] {
      const ActorStatus now = status(name);
      return now.state == state && now.restarts == restarts;
    });
  }
  std::string log(const std::string& name) { return read_text_file(scratch / ("logs/" + name)); }
};

}  // namespace

TEST_CASE("controller: logs have a time and a name on each line") {
  Stage stage;
  stage.controller->add(shell("talker", "echo one; echo two >&2; exit 0"));
  REQUIRE(stage.becomes("talker", ActorState::finished, 0));
  const std::string text = stage.log("talker.log");
  const std::regex line(R"((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z talker \| (one|two)\n){2})");
  CHECK_MESSAGE(std::regex_match(text, line), text);
  CHECK(stage.controller->tail("talker").size() == 8);
  stage.controller->note("hello");
  const std::string own = stage.log("controller.log");
  CHECK(own.find("controller | talker started, pid ") != std::string::npos);
  CHECK(own.find("controller | talker ended: exit code 0\n") != std::string::npos);
  CHECK(own.find("controller | hello\n") != std::string::npos);
  CHECK(stage.controller->failure().empty());
  CHECK(comes_true([&] { return stage.events().size() == 2; }));
  CHECK(stage.events() == std::vector<std::string>{"talker start 0", "talker exit exit code 0"});
}

TEST_CASE("controller: a dead actor is replaced, under the same name") {
  Stage stage;
  stage.controller->add(shell("worker", "echo pid $$; sleep 600"));
  for (int kill = 1; kill <= 3; ++kill) {
    REQUIRE(stage.becomes("worker", ActorState::running, kill - 1));
    const auto pid = stage.status("worker").pid;
    send_signal(pid, SIGKILL);
    REQUIRE(stage.becomes("worker", ActorState::running, kill));
    CHECK(stage.status("worker").pid != pid);
    CHECK(process_dead(pid));
    CHECK(stage.status("worker").last_exit.signal == SIGKILL);
  }
  CHECK(stage.controller->failure().empty());
}

TEST_CASE("controller: one that keeps dying is given up, and its last words are in the error") {
  ControllerOptions options;
  options.backoff = 0.001;
  options.tail_lines = 2;
  Stage stage(options);
  ActorSpec spec = shell("worker", "echo so; echo it; echo goes; exit 3");
  spec.restarts = 2;
  stage.controller->add(spec);
  REQUIRE(stage.becomes("worker", ActorState::failed, 2));
  const std::string expected =
      cat("worker ended with exit code 3, after 2 restarts in a row; its last lines (",
          stage.scratch / "logs/worker.log", "):\nit\ngoes");
  CHECK(stage.controller->failure() == expected);
  CHECK_THROWS_WITH_AS(stage.controller->check(), expected.c_str(), Error);
  CHECK(comes_true([&] { return stage.events().size() == 7; }));
  CHECK(stage.events().back() == "worker failure");
}

TEST_CASE("controller: policies") {
  ControllerOptions options;
  options.backoff = 0.001;
  Stage stage(options);
  ActorSpec once = shell("once", "exit 1");
  once.restart = Restart::never;
  ActorSpec server = shell("server", "exit 0");
  server.restart = Restart::always;
  server.restarts = 1;
  stage.controller->add(once);
  CHECK(stage.becomes("once", ActorState::failed, 0));
  CHECK(stage.controller->failure() == "once ended with exit code 1; it wrote nothing");
  stage.controller->add(server);
  CHECK(stage.becomes("server", ActorState::failed, 1));
  CHECK(stage.controller->failure().starts_with("once "));  // the first is what matters
}

TEST_CASE("controller: restarts are counted anew after a steady life") {
  ControllerOptions options;
  options.backoff = 0.001;
  options.steady = 0.01;
  Stage stage(options);
  ActorSpec spec = shell("worker", "sleep 0.02; exit 1");
  spec.restarts = 1;
  stage.controller->add(spec);
  CHECK(comes_true([&] { return stage.status("worker").restarts >= 4; }));
}

TEST_CASE("controller: one that hangs is killed as if it had crashed, its replacement is not") {
  Stage stage;
  stage.controller->add(shell("worker", "sleep 600"));
  const auto pid = stage.status("worker").pid;
  send_signal(pid, SIGSTOP);
  stage.controller->kill("worker", *pid, "it sent nonsense");
  REQUIRE(stage.becomes("worker", ActorState::running, 1));
  CHECK(process_dead(pid));
  CHECK(stage.log("worker.log").find("[it sent nonsense: killed]") != std::string::npos);
  const auto next = stage.status("worker").pid;
  stage.controller->kill("worker", *pid, "too late");
  CHECK(!process_dead(next));
  CHECK(stage.status("worker").pid == next);
  CHECK(stage.log("controller.log").find("too late") == std::string::npos);
  CHECK_THROWS_AS(stage.controller->kill("nobody", *pid, "why not"), ValueError);
}

TEST_CASE("controller: stop_all ends everything, once") {
  Stage stage;
  stage.controller->add(shell("polite", "trap 'echo bye; exit 0' TERM; echo up; sleep 600 & wait"));
  stage.controller->add(shell("stubborn", "trap '' TERM; echo up; while :; do sleep 0.1; done"));
  ActorSpec dying = shell("dying", "exit 1");
  dying.restarts = 1000000;
  stage.controller->add(dying);
  REQUIRE(comes_true([&] {
    return stage.controller->tail("polite") == "up\n" && stage.controller->tail("stubborn") != "";
  }));
  std::vector<std::optional<int>> pids;
  for (const ActorStatus& status : stage.controller->status()) pids.push_back(status.pid);
  stage.controller->stop_all(0.2);
  for (const auto pid : pids) CHECK(process_dead(pid));
  for (const ActorStatus& status : stage.controller->status()) {
    CHECK(status.state == ActorState::finished);
  }
  CHECK(stage.controller->tail("polite") == "up\nbye\n");
  CHECK_THROWS_AS(stage.controller->add(shell("late", "true")), ValueError);
  stage.controller->stop_all(0);
  CHECK(stage.controller->failure().empty());
}

TEST_CASE("controller: names and programs that cannot be") {
  Stage stage;
  stage.controller->add(shell("worker", "sleep 600"));
  CHECK_THROWS_AS(stage.controller->add(shell("worker", "true")), ValueError);
  CHECK_THROWS_AS(stage.controller->add(shell("../worker", "true")), ValueError);
  CHECK_THROWS_AS(stage.controller->add(shell("", "true")), ValueError);
  CHECK_THROWS_AS(stage.controller->add(shell("controller", "true")), ValueError);
  ActorSpec missing;
  missing.name = "missing";
  missing.args = {"/no/such/program"};
  CHECK_THROWS_AS(stage.controller->add(missing), IoError);
  CHECK(stage.controller->status().size() == 1);
}
