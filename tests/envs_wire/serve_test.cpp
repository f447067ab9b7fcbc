// Serving in a process of its own: what its end, asked for or not, means to clients.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/base/child.h"
#include "envs/client/remote_batch.h"
#include "envs/server/env_service.h"

using namespace bessemer;

namespace {

/// A served process and its address.
struct Process {
  Child child;
  std::string address;
  explicit Process(const std::string& where = "tcp://127.0.0.1:*") {
    ChildOptions options;
    options.args = {"/proc/self/exe", "--no-skip",
                    "--test-case=serve: helper that serves until it is told to stop"};
    options.env = {{"BESSEMER_TEST_ADDRESS", where}};
    child = Child::spawn(options);
    for (int i = 0; i < 1000 && address.empty(); ++i) {
      const std::string text = child.output().text;
      const size_t at = text.find("serving "), end = text.find('\n', at);
      if (at != std::string::npos && end != std::string::npos) {
        address = text.substr(at + 8, end - at - 8);
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    REQUIRE_NE(address, "");
  }
};

struct CartPole {
  std::unique_ptr<EnvBatch> batch;
  std::vector<float> obs = std::vector<float>(8);
  StepBuffers out;
  explicit CartPole(std::unique_ptr<EnvBatch> b) : batch(std::move(b)) {
    out.obs = {obs.data()};
    const uint64_t seeds[] = {3, 4};
    batch->reset(seeds, {}, {}, out);
  }
  void step(int64_t i) {
    const int64_t actions[] = {i % 2, (i / 2) % 2};
    batch->step({actions, nullptr}, out);
  }
};

BatchOptions two() {
  BatchOptions options;
  options.num_envs = 2;
  return options;
}

}  // namespace

TEST_CASE("serve: helper that serves until it is told to stop" * doctest::skip()) {
  const char* given = std::getenv("BESSEMER_TEST_ADDRESS");
  const std::string address = given ? given : "tcp://127.0.0.1:*";
  ServeOptions options;
  options.drain = 20;
  serve_environments(options, {&address, 1}, [](std::span<const std::string> bound) {
    std::printf("serving %s\n", bound[0].c_str());
    std::fflush(stdout);
  });
}

TEST_CASE("serve: SIGTERM refuses new sessions, lets open ones finish, then ends with 0") {
  Process process;
  {
    CartPole pole(connect_batch(process.address, "CartPole-v1", two()));
    process.child.signal(SIGTERM);
    wire::Code code = wire::Code::internal;
    for (int i = 0; i < 200 && code != wire::Code::draining; ++i) {
      try {
        connect_batch(process.address, "CartPole-v1", two());
      } catch (const wire::WireError& error) {
        code = error.code();
      }
    }
    CHECK_EQ(code, wire::Code::draining);
    for (int64_t i = 0; i < 100; ++i) pole.step(i);
    CHECK(process.child.running());
  }
  const auto status = process.child.wait(30);
  REQUIRE(status);
  CHECK(status->ok());
}

TEST_CASE("serve: a killed and restarted server costs time, not steps") {
  const std::string where = cat("ipc:///tmp/bes-serve-", getpid());
  for (const bool shared : {true, false}) {
    CAPTURE(shared);
    auto process = std::make_unique<Process>(where);
    RemoteOptions remote;
    remote.shared = shared;
    remote.wire.resend = 0.05;
    CartPole here(make_batch("CartPole-v1", two()));
    CartPole there(connect_batch(where, "CartPole-v1", two(), remote));
    for (int64_t i = 0; i < 400; ++i) {
      if (i % 100 == 50) {
        process->child.kill();
        process = std::make_unique<Process>(where);
      }
      here.step(i);
      there.step(i);
      REQUIRE_EQ(here.obs, there.obs);
    }
  }
  unlink(where.c_str() + 6);  // what a killed server leaves; the next one takes it over
}

TEST_CASE("serve: a stopped server is waited for and goes on where it was") {
  Process process;
  CartPole here(make_batch("CartPole-v1", two()));
  CartPole there(connect_batch(process.address, "CartPole-v1", two()));
  std::thread waker;
  for (int64_t i = 0; i < 60; ++i) {
    if (i == 30) {
      process.child.signal(SIGSTOP);
      waker = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(700));
        process.child.signal(SIGCONT);
      });
    }
    here.step(i);
    there.step(i);
    CHECK_EQ(here.obs, there.obs);
  }
  waker.join();
}

TEST_CASE("serve: the death of a server on this host is seen long before a deadline") {
  for (const bool shared : {true, false}) {
    CAPTURE(shared);
    Process process;
    RemoteOptions remote;
    remote.reconnect = 0;
    remote.deadline = 120;
    remote.shared = shared;
    CartPole pole(connect_batch(process.address, "CartPole-v1", two(), remote));
    process.child.kill();
    const auto begin = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(pole.step(0), wire::WireError);
    CHECK_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  }
}
