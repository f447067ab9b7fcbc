// Environments behind the wire against the same environments here.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "../core_wire/fault_proxy.h"
#include "envs/client/conform.h"
#include "envs/client/remote_batch.h"
#include "envs/render/canvas.h"
#include "envs/wire/spec_map.h"
#include "tests/envs_wire/serving.h"

using namespace bessemer;

namespace {

/// Every buffer that a batch can fill.
struct Everything {
  const Spec& spec;
  int64_t rows;
  std::vector<std::string> obs, final_obs, rewards, infos;
  std::vector<Ragged> text, final_text;
  std::vector<float> reward, returns;
  std::vector<uint8_t> terminated, truncated, fault, mask;
  std::vector<int64_t> length;
  StepBuffers out;

  Everything(const Spec& s, int64_t n) : spec(s), rows(n) {
    const auto bytes = [&](const Channel& c) {
      return std::string(c.ragged ? 0 : rows * c.numel() * dtype_size(c.dtype), '\0');
    };
    for (const Channel& c : s.observation) {
      obs.push_back(bytes(c));
      final_obs.push_back(bytes(c));
    }
    for (const Channel& c : s.rewards) rewards.push_back(bytes(c));
    for (const Channel& c : s.infos) infos.push_back(bytes(c));
    text.resize(obs.size());
    final_text.resize(obs.size());
    for (size_t c = 0; c < obs.size(); ++c) {
      const bool ragged = s.observation[c].ragged;
      out.obs.push_back(ragged ? nullptr : obs[c].data());
      out.final_obs.push_back(ragged ? nullptr : final_obs[c].data());
      out.ragged_obs.push_back(ragged ? &text[c] : nullptr);
      out.ragged_final_obs.push_back(ragged ? &final_text[c] : nullptr);
    }
    for (auto& r : rewards) out.rewards.push_back(reinterpret_cast<float*>(r.data()));
    for (auto& i : infos) out.infos.push_back(i.data());
    const auto count = static_cast<size_t>(n);
    reward.resize(count), returns.resize(count), length.resize(count);
    terminated.resize(count), truncated.resize(count), fault.resize(count);
    int64_t width = 0;
    for (const int64_t k : s.action[0].n) width += s.action_mask ? k : 0;
    mask.resize(count * static_cast<size_t>(width));
    out.reward = reward.data();
    out.episode_return = returns.data();
    out.episode_length = length.data();
    out.terminated = terminated.data();
    out.truncated = truncated.data();
    out.fault = fault.data();
    if (width) out.action_mask = mask.data();
  }

  bool same_text(const std::vector<Ragged>& a, const std::vector<Ragged>& b) const {
    for (size_t c = 0; c < a.size(); ++c) {
      if (a[c].bytes != b[c].bytes || a[c].offsets != b[c].offsets) return false;
    }
    return true;
  }
  /// What has other bits, or "".
  std::string differs(const Everything& o) const {
    if (obs != o.obs || !same_text(text, o.text)) return "obs";
    if (final_obs != o.final_obs || !same_text(final_text, o.final_text)) return "final_obs";
    if (reward != o.reward || rewards != o.rewards) return "reward";
    if (terminated != o.terminated || truncated != o.truncated) return "flags";
    if (fault != o.fault) return "fault";
    if (returns != o.returns || length != o.length) return "episode";
    if (mask != o.mask) return "mask";
    return infos != o.infos ? "infos" : "";
  }
};

/// Random actions inside the space, drawn for all rows.
struct Actor {
  const Spec& spec;
  std::mt19937 random{17};
  std::string bytes;
  Ragged text;
  Actions draw(int64_t rows) {
    const Channel& c = spec.action[0];
    bytes.clear();
    text.clear();
    for (int64_t i = 0; i < rows * (c.ragged ? 1 : c.numel()); ++i) {
      const auto e = static_cast<size_t>(c.numel() ? i % c.numel() : 0);
      if (c.ragged) {
        text.push(std::string(random() % 6, static_cast<char>('a' + random() % 3)));
      } else if (c.kind == SpaceKind::box) {
        const double low = c.low[c.low.size() == 1 ? 0 : e];
        const double high = c.high[c.high.size() == 1 ? 0 : e];
        const auto value = static_cast<float>(low + (high - low) * (random() % 1000) / 1000.0);
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
      } else {
        const int64_t n = c.n[c.n.size() == 1 ? 0 : e];
        const int64_t value = c.start + static_cast<int64_t>(random() % n);
        bytes.append(reinterpret_cast<const char*>(&value), dtype_size(c.dtype));
      }
    }
    return c.ragged ? Actions{nullptr, &text} : Actions{bytes.data(), nullptr};
  }
};

std::vector<uint64_t> seeds_for(int64_t count) {
  std::vector<uint64_t> seeds;
  for (int64_t i = 0; i < count; ++i) seeds.push_back(100 + static_cast<uint64_t>(i));
  return seeds;
}

template <class Error, class Body>
std::string message_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no such error";
}

wire::Code code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const wire::WireError& error) {
    return error.code();
  }
  return wire::Code::internal;
}

}  // namespace

TEST_CASE("remote: a Spec travels whole, and its hash sees channels but not wording") {
  for (const std::string& id : env_ids()) {
    CAPTURE(id);
    const Spec& spec = env_spec(id);
    const Spec back = spec_from_map(wire::unpack(wire::pack(spec_to_map(spec))));
    CHECK_EQ(wire::pack(spec_to_map(back)), wire::pack(spec_to_map(spec)));
    CHECK_EQ(spec_hash(back), spec_hash(spec));
    Spec other = spec;
    other.doc += "!";
    CHECK_EQ(spec_hash(other), spec_hash(spec));
    other.observation[0].dtype = other.observation[0].dtype == Dtype::f32 ? Dtype::f64 : Dtype::f32;
    CHECK_NE(spec_hash(other), spec_hash(spec));
  }
}

TEST_CASE("remote: every environment gives the same bits as here, in every autoreset mode") {
  Serving serving;
  for (const std::string& id : env_ids()) {
    for (const Autoreset mode : {Autoreset::next_step, Autoreset::same_step, Autoreset::disabled}) {
      for (const bool shared : {false, true}) {
        CAPTURE(id);
        CAPTURE(static_cast<int>(mode));
        CAPTURE(shared);
        BatchOptions options;
        options.num_envs = 5;
        options.autoreset = mode;
        options.max_episode_steps = 23;
        RemoteOptions remote;
        remote.shared = shared;
        const auto here = make_batch(id, options);
        const auto there = connect_batch(serving.address, id, options, remote);
        REQUIRE_EQ(there->rows(), here->rows());
        CHECK_EQ(there->spec().max_episode_steps, 23);
        Everything a(here->spec(), here->rows()), b(there->spec(), there->rows());
        const auto seeds = seeds_for(5);
        here->reset(seeds, {}, {}, a.out);
        there->reset(seeds, {}, {}, b.out);
        REQUIRE_EQ(a.differs(b), "");
        Actor actor{here->spec()};
        int ends = 0;
        for (int step = 0; step < 60; ++step) {
          const Actions actions = actor.draw(here->rows());
          here->step(actions, a.out);
          there->step(actions, b.out);
          REQUIRE_EQ(a.differs(b), "");
          std::vector<uint8_t> over(5);
          for (int64_t row = 0; row < here->rows(); ++row) {
            if (a.terminated[row] || a.truncated[row] || a.fault[row]) {
              over[row / here->spec().rows] = 1;
              ++ends;
            }
          }
          if (mode == Autoreset::disabled && std::ranges::count(over, 1)) {
            here->reset({}, {}, over, a.out);
            there->reset({}, {}, over, b.out);
            REQUIRE_EQ(a.differs(b), "");
          }
        }
        CHECK_GT(ends, 0);
        here->observe(a.out);
        there->observe(b.out);
        CHECK_EQ(a.obs, b.obs);
      }
    }
  }
}

TEST_CASE("remote: send and recv overlap and come back in order") {
  Serving serving;
  BatchOptions options;
  options.num_envs = 8;
  const auto here = make_batch("CartPole-v1", options);
  const auto there = connect_batch(serving.address, "CartPole-v1", options);
  Everything a(here->spec(), 4), b(there->spec(), 4);
  Everything all(here->spec(), 8);
  here->reset(seeds_for(8), {}, {}, all.out);
  there->reset(seeds_for(8), {}, {}, all.out);
  const std::vector<int64_t> halves[2] = {{0, 2, 4, 6}, {7, 5, 3, 1}};
  Actor actor{here->spec()};
  std::vector<int64_t> got(4);
  for (const auto& half : halves) {
    const Actions actions = actor.draw(4);
    here->send(actions, half);
    there->send(actions, half);
  }
  CHECK_THROWS_AS(there->send(actor.draw(1), std::vector<int64_t>{2}), ValueError);
  CHECK_THROWS_AS(there->step(actor.draw(8), all.out), ValueError);
  for (int step = 0; step < 200; ++step) {
    const auto& half = halves[step % 2];
    REQUIRE_EQ(here->recv(4, a.out, got), 4);
    REQUIRE_EQ(there->recv(4, b.out, got), 4);
    CHECK_EQ(got, half);
    REQUIRE_EQ(a.differs(b), "");
    const Actions actions = actor.draw(4);
    here->send(actions, half);
    there->send(actions, half);
  }
}

TEST_CASE("remote: snapshot, restore and pictures") {
  Serving serving;
  BatchOptions options;
  options.num_envs = 3;
  const auto there = connect_batch(serving.address, "CartPole-v1", options);
  Everything a(there->spec(), 3), b(there->spec(), 3);
  there->reset(seeds_for(3), {}, {}, a.out);
  Actor actor{there->spec()};
  for (int i = 0; i < 5; ++i) there->step(actor.draw(3), a.out);
  const std::string state = there->save(1);
  const Actions actions = actor.draw(3);
  there->step(actions, a.out);
  there->load(1, state);
  there->step(actions, b.out);
  const size_t row = a.obs[0].size() / 3;
  CHECK_EQ(a.obs[0].substr(row, row), b.obs[0].substr(row, row));
  CHECK_NE(a.obs[0].substr(0, row), b.obs[0].substr(0, row));
  CHECK_THROWS_AS(there->load(1, "damaged"), ValueError);

  Canvas canvas(there->spec().render_width, there->spec().render_height);
  Canvas blank(there->spec().render_width, there->spec().render_height);
  there->render(0, canvas);
  CHECK(!std::ranges::equal(canvas.pixels(), blank.pixels()));
}

TEST_CASE("remote: wrong arguments are the errors that a local batch throws") {
  Serving serving;
  const auto connect = [&](const std::string& id, const BatchOptions& options = {}) {
    return connect_batch(serving.address, id, options);
  };
  CHECK_EQ(message_of<ValueError>([&] { connect("CartPole-v9"); }),
           "[env] 'CartPole-v9' is not served here, did you mean 'CartPole-v1'?");
  BatchOptions bad;
  bad.options = {{"no_such_option", "1"}};
  CHECK_THROWS_AS(connect("Echo-v0", bad), ValueError);
  const auto batch = connect("CartPole-v1");
  Everything out(batch->spec(), 1);
  const int64_t inside = 1, outside = 7;
  CHECK_THROWS_AS(batch->step({&inside, nullptr}, out.out), ValueError);  // before the reset
  batch->reset(seeds_for(1), {}, {}, out.out);
  CHECK_EQ(message_of<ValueError>([&] {
             batch->step({&outside, nullptr}, out.out);
           }),
           "[env] CartPole-v1: action of row 0 is 7, allowed are 0 to 1");
  CHECK_THROWS_AS(batch->step({}, out.out), ValueError);
  CHECK_THROWS_AS(batch->reset(seeds_for(2), {}, {}, out.out), ValueError);
  CHECK_THROWS_AS(batch->reset({}, {{"no_such_option", "1"}}, {}, out.out), ValueError);
  CHECK_NOTHROW(batch->step({&inside, nullptr}, out.out));
}

TEST_CASE("remote: an environment that throws is a fault with its reason; the others go on") {
  Serving serving;
  BatchOptions options;
  options.num_envs = 3;
  options.options = {{"throw_at", "2"}, {"end", "50"}};
  const auto here = make_batch("TestCount-v0", options);
  const auto there = connect_batch(serving.address, "TestCount-v0", options);
  Everything a(here->spec(), 3), b(there->spec(), 3), c(here->spec(), 1), d(here->spec(), 1);
  here->reset(seeds_for(3), {}, {}, a.out);
  there->reset(seeds_for(3), {}, {}, b.out);
  Actor actor{here->spec()};
  const auto both = [&](int64_t env) {
    const Actions actions = actor.draw(1);
    std::vector<int64_t> got(1);
    here->send(actions, {&env, 1});
    there->send(actions, {&env, 1});
    here->recv(1, c.out, got);
    there->recv(1, d.out, got);
    REQUIRE_EQ(c.differs(d), "");
  };
  both(1);
  CHECK_EQ(d.fault[0], 0);
  both(1);
  CHECK_EQ(d.fault[0], 1);
  CHECK_EQ(there->fault_reason(1), "the world broke");
  CHECK_EQ(there->fault_reason(1), here->fault_reason(1));
  CHECK_EQ(there->fault_reason(0), "");
  both(0);
  both(1);  // a new world
  CHECK_EQ(d.fault[0], 0);
}

TEST_CASE("remote: limits on instances and time; slots come back") {
  ServeOptions options;
  options.ids = {"CartPole-v1"};
  options.instances = 10;
  options.instances_per_session = 8;
  options.seconds_per_session = 1e-6;
  Serving serving(options);
  BatchOptions eight, four;
  eight.num_envs = 8;
  four.num_envs = 4;
  CHECK_EQ(code_of([&] {
             BatchOptions nine;
             nine.num_envs = 9;
             connect_batch(serving.address, "CartPole-v1", nine);
           }),
           wire::Code::capacity);
  CHECK_THROWS_AS(connect_batch(serving.address, "Pendulum-v1", four), ValueError);
  {
    const auto first = connect_batch(serving.address, "CartPole-v1", eight);
    CHECK_EQ(code_of([&] { connect_batch(serving.address, "CartPole-v1", four); }),
             wire::Code::capacity);
    CHECK_EQ(server_info(serving.address).integer("instances"), 8);
    Everything out(first->spec(), 8);
    first->reset(seeds_for(8), {}, {}, out.out);
    CHECK_EQ(code_of([&] { first->observe(out.out); }), wire::Code::capacity);
  }
  for (int i = 0; i < 500 && server_info(serving.address).integer("instances") > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK_EQ(server_info(serving.address).integer("instances"), 0);
  CHECK_NOTHROW(connect_batch(serving.address, "CartPole-v1", four));
}

TEST_CASE(
    "remote: ten thousand batched steps over a link that misbehaves are the steps made here") {
  Serving serving;
  wire::FaultProxy proxy(
      serving.address, {.lose = 0.02, .twice = 0.04, .delay = 0.04, .reconnect = 0.002, .seed = 9});
  BatchOptions options;
  options.num_envs = 16;
  RemoteOptions remote;
  remote.shared = false;
  remote.wire.resend = 0.01;
  const auto here = make_batch("CartPole-v1", options);
  const auto there = connect_batch(proxy.address, "CartPole-v1", options, remote);
  Everything a(here->spec(), 4), b(there->spec(), 4), all(here->spec(), 16);
  here->reset(seeds_for(16), {}, {}, all.out);
  there->reset(seeds_for(16), {}, {}, all.out);
  Actor actor{here->spec()};
  std::vector<std::vector<int64_t>> quarters(4);
  for (int64_t i = 0; i < 16; ++i) quarters[i % 4].push_back(i);
  const auto send = [&](const std::vector<int64_t>& quarter) {
    const Actions actions = actor.draw(4);
    here->send(actions, quarter);
    there->send(actions, quarter);
  };
  for (const auto& quarter : quarters) send(quarter);
  std::vector<int64_t> got(4);
  for (int step = 0; step < 10000; ++step) {
    here->recv(4, a.out, got);
    there->recv(4, b.out, got);
    REQUIRE_EQ(a.differs(b), "");
    send(quarters[step % 4]);
  }
  CHECK_GT(proxy.lost, 100);
  CHECK_GT(proxy.reconnected, 5);
}

TEST_CASE("remote: a server that is replaced gets the session rebuilt to the same bits") {
  const std::string where = cat("ipc:///tmp/bes-rebuilt-", getpid());
  for (const bool shared : {false, true}) {
    for (const bool seeded : {true, false}) {
      CAPTURE(shared);
      CAPTURE(seeded);
      auto serving = std::make_unique<Serving>(ServeOptions(), where);
      BatchOptions options;
      options.num_envs = 4;
      RemoteOptions remote;
      remote.shared = shared;
      remote.replay_steps = 16;
      remote.wire.resend = 0.02;
      const auto here = make_batch("Acrobot-v1", options);
      const auto there = connect_batch(where, "Acrobot-v1", options, remote);
      Everything a(here->spec(), 4), b(there->spec(), 4);
      there->reset(seeded ? seeds_for(4) : std::vector<uint64_t>(), {}, {}, b.out);
      here->reset(seeds_for(4), {}, {}, a.out);
      for (int64_t env = 0; env < 4; ++env) here->load(env, there->save(env));
      Actor actor{here->spec()};
      for (int step = 0; step < 100; ++step) {
        if (step % 25 == 13) {
          serving.reset();
          serving = std::make_unique<Serving>(ServeOptions(), where);
        }
        const Actions actions = actor.draw(4);
        here->step(actions, a.out);
        there->step(actions, b.out);
        REQUIRE_EQ(a.differs(b), "");
      }
      // Two batches under way when the server goes.
      const std::vector<int64_t> halves[2] = {{0, 1}, {2, 3}};
      Everything c(here->spec(), 2), d(there->spec(), 2);
      for (const auto& half : halves) {
        const Actions actions = actor.draw(2);
        here->send(actions, half);
        there->send(actions, half);
      }
      serving.reset();
      serving = std::make_unique<Serving>(ServeOptions(), where);
      std::vector<int64_t> got(2);
      for (int i = 0; i < 2; ++i) {
        here->recv(2, c.out, got);
        there->recv(2, d.out, got);
        REQUIRE_EQ(c.differs(d), "");
      }
    }
  }
}

TEST_CASE("remote: a server that stays away is an error in time") {
  auto serving = std::make_unique<Serving>();
  RemoteOptions remote;
  remote.reconnect = 0.5;
  remote.deadline = 0.5;
  const auto batch = connect_batch(serving->address, "CartPole-v1", {}, remote);
  Everything out(batch->spec(), 1);
  batch->reset(seeds_for(1), {}, {}, out.out);
  serving.reset();
  const int64_t action = 0;
  const auto begin = std::chrono::steady_clock::now();
  CHECK_THROWS_AS(batch->step({&action, nullptr}, out.out), wire::WireError);
  CHECK_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  CHECK_THROWS_AS(batch->step({&action, nullptr}, out.out), wire::WireError);  // and again
}

TEST_CASE("remote: the conformance checks pass for every environment") {
  Serving serving;
  for (const std::string& id : {std::string("CartPole-v1"), std::string("Pendulum-v1"),
                                std::string("Echo-v0"), std::string("TestPair-v0")}) {
    int passed = 0;
    for (const ConformCheck& check : conform(serving.address, id)) {
      CAPTURE(id);
      CAPTURE(check.name);
      CAPTURE(check.text);
      CHECK(check.passed);
      ++passed;
    }
    CHECK_EQ(passed, 27);
  }
}

TEST_CASE("remote: info names what is served and counts") {
  ServeOptions options;
  options.ids = {"CartPole-v1", "Echo-v0"};
  Serving serving(options);
  const auto batch = connect_batch(serving.address, "CartPole-v1");
  Everything out(batch->spec(), 1);
  batch->reset(seeds_for(1), {}, {}, out.out);
  const int64_t action = 0;
  for (int i = 0; i < 7; ++i) batch->step({&action, nullptr}, out.out);
  const wire::Map info = server_info(serving.address);
  CHECK_EQ(info.list("envs").size(), 2);
  CHECK_EQ(info.list("envs")[1].map("env").text("id"), "Echo-v0");
  CHECK_EQ(info.integer("steps"), 7);
  CHECK_EQ(info.integer("instances"), 1);
  CHECK_EQ(info.map("wire").integer("sessions"), 1);
}
