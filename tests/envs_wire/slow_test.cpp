// Environments that take long beside those that do not: on one server, and in other processes.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "core/base/child.h"
#include "envs/client/conform.h"
#include "envs/client/remote_batch.h"
#include "tests/envs_wire/serving.h"

using namespace bessemer;

namespace {

using Clock = std::chrono::steady_clock;

/// TestCount-v0 behind the wire, with its results.
struct Counting {
  std::unique_ptr<EnvBatch> batch;
  std::vector<float> obs, action, reward;
  std::vector<uint8_t> fault;
  StepBuffers out;

  Counting(const std::string& address, int64_t envs, const std::string& sleep) {
    BatchOptions options;
    options.num_envs = envs;
    options.options = {{"sleep", sleep}, {"end", "1000000"}};
    batch = connect_batch(address, "TestCount-v0", options);
    obs.resize(2 * envs), action.resize(2 * envs), reward.resize(envs), fault.resize(envs);
    out.obs = {obs.data()};
    out.reward = reward.data();
    out.fault = fault.data();
    const std::vector<uint64_t> seeds(static_cast<size_t>(envs), 1);
    batch->reset(seeds, {}, {}, out);
  }
  void step() { batch->step({action.data(), nullptr}, out); }
};

bool has_python() {
  static const bool found = [] {
    try {
      ChildOptions options;
      options.args = {host_interpreter(), "-c", "import numpy, msgpack, gymnasium"};
      return run_child(options, 60).status.ok();
    } catch (const IoError&) {
      return false;
    }
  }();
  if (!found) MESSAGE("skipped: no Python with NumPy, msgpack and Gymnasium (BESSEMER_PYTHON)");
  return found;
}

ServeOptions serve_python(const std::string& name) {
  ServeOptions options;
  options.ids = {cat(TEST_SOURCE_FOLDER, "/../python/hosted/user_envs.py:", name), "CartPole-v1"};
  return options;
}

}  // namespace

TEST_CASE("slow: a session that takes long does not delay the others") {
  Serving serving;
  Counting quick(serving.address, 1, "0");
  Counting slow(serving.address, 1, "1");
  slow.step();  // now the server knows
  std::atomic<bool> done{false};
  std::thread other([&] {
    slow.step();
    done = true;
  });
  int64_t steps = 0;
  while (!done) {
    quick.step();
    ++steps;
  }
  other.join();
  CHECK_GT(steps, 5);  // waiting for its turn it would make one or two
  CHECK_EQ(slow.obs[0], 2);
  CHECK_EQ(quick.obs[0], static_cast<float>(steps));
}

TEST_CASE("slow: requests that wait for their turn are carried out once and in order") {
  Serving serving;
  Counting slow(serving.address, 4, "0.02");
  slow.step();
  const std::vector<float> action(2);
  std::vector<int64_t> ids(4);
  for (int round = 0; round < 5; ++round) {
    for (int64_t i = 0; i < 4; ++i) slow.batch->send({action.data(), nullptr}, {&i, 1});
    slow.batch->recv(4, slow.out, ids);
    CHECK_EQ(ids, std::vector<int64_t>{0, 1, 2, 3});
    for (int64_t i = 0; i < 4; ++i) CHECK_EQ(slow.obs[2 * i], static_cast<float>(round + 2));
  }
  CHECK_THROWS_AS(slow.batch->load(0, "nonsense"), ValueError);
  slow.step();
  CHECK_EQ(slow.obs[0], 7);
}

TEST_CASE("slow: a client that leaves in the middle of a step hurts nobody") {
  Serving serving;
  Counting quick(serving.address, 1, "0");
  for (int i = 0; i < 5; ++i) {
    Counting slow(serving.address, 3, "0.05");
    slow.step();
    const std::vector<float> action(6);
    const int64_t ids[] = {0, 1, 2};
    slow.batch->send({action.data(), nullptr}, ids);
  }
  for (int i = 0; i < 100; ++i) quick.step();
  CHECK_EQ(quick.obs[0], 100);
  const auto instances = [&] { return server_info(serving.address).integer("instances"); };
  for (int i = 0; i < 500 && instances() > 1; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK_EQ(instances(), 1);
}

TEST_CASE("slow: a server that ends while steps are under way waits for them") {
  auto serving = std::make_unique<Serving>();
  Counting slow(serving->address, 1, "0.5");
  slow.step();
  const std::vector<float> action(2);
  const int64_t id = 0;
  slow.batch->send({action.data(), nullptr}, {&id, 1});
  const auto begin = Clock::now();
  serving.reset();
  CHECK_LT(Clock::now() - begin, std::chrono::seconds(10));
}

TEST_CASE("slow: a Python environment is served from processes of its own") {
  if (!has_python()) return;
  ServeOptions options = serve_python("Trouble");
  options.host.deadline = 2;
  Serving serving(options);
  BatchOptions three;
  three.num_envs = 3;
  const auto batch = connect_batch(serving.address, "Trouble", three);
  std::vector<float> obs(6), reward(3);
  std::vector<uint8_t> fault(3);
  StepBuffers out;
  out.obs = {obs.data()};
  out.reward = reward.data();
  out.fault = fault.data();
  batch->reset(std::vector<uint64_t>{1, 2, 3}, {}, {}, out);
  for (const int64_t trouble : {1, 2, 4}) {  // raises, hangs, dies
    const int64_t actions[] = {0, trouble, 0}, calm[] = {0, 0, 0};
    batch->step({actions, nullptr}, out);
    CHECK_EQ(fault, std::vector<uint8_t>{0, 1, 0});
    CHECK_NE(batch->fault_reason(1), "");
    CHECK_EQ(reward, std::vector<float>{1, 0, 1});
    batch->step({calm, nullptr}, out);
    CHECK_EQ(fault, std::vector<uint8_t>{0, 0, 0});
  }
  CHECK_THROWS_AS(batch->save(0), wire::WireError);
  // While one of them hangs, another session goes on.
  std::atomic<bool> done{false};
  std::thread other([&] {
    const int64_t actions[] = {0, 2, 0};
    batch->step({actions, nullptr}, out);
    done = true;
  });
  const auto pole = connect_batch(serving.address, "CartPole-v1", {});
  StepBuffers nothing;
  pole->reset(std::vector<uint64_t>{1}, {}, {}, nothing);
  int64_t steps = 0;
  while (!done) {
    const int64_t action = steps & 1;
    pole->step({&action, nullptr}, nothing);
    ++steps;
  }
  other.join();
  CHECK_GT(steps, 5);  // waiting for its turn it would make one or two
  CHECK_EQ(fault, std::vector<uint8_t>{0, 1, 0});
}

TEST_CASE("slow: a served Python environment conforms to the protocol") {
  if (!has_python()) return;
  Serving serving(serve_python("Walk"));
  for (const ConformCheck& check : conform(serving.address, "Walk")) {
    CAPTURE(check.name);
    CAPTURE(check.text);
    CHECK(check.passed);
  }
}

TEST_CASE("slow: a session that cannot be made is refused with the reason") {
  if (!has_python()) return;
  Serving serving(serve_python("Walk"));
  BatchOptions options;
  options.options = {{"lenght", "3"}};
  CHECK_THROWS_AS(connect_batch(serving.address, "Walk", options), ValueError);
  CHECK_EQ(server_info(serving.address).integer("instances"), 0);
  CHECK_THROWS_AS(Serving({.ids = {"nowhere.py:Walk"}}), ValueError);
}
