// Steps a second of classic control through EnvBatch, resets, time limit and statistics included,
// beside loops of the same dynamics without any of it: the scalar limit (one instance, doubles and
// libm, its own reset) and the SIMD limit (the lane kernel on the same arrays, no resets). Peers:
// bench/peers/environments.py.
#define BESSEMER_RULES_ONLY  // the rules of each simulator, without registering them again
#include "bench/bench.h"
#include "core/base/rng.h"
#include "envs/sim/acrobot.cpp"
#include "envs/sim/cartpole.cpp"
#include "envs/sim/mountain_car.cpp"
#include "envs/sim/mountain_car_continuous.cpp"
#include "envs/sim/pendulum.cpp"

namespace bessemer {
namespace {

constexpr int64_t kRounds = 64;  // rounds of random actions, used in turn

template <class Action>
std::vector<Action> random_actions(const Channel& channel, int64_t count) {
  std::vector<Action> actions(count);
  const Rng rng{1};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t word = rng.at(i).word[0];
    if (channel.n.empty()) {
      const float unit = uniform_float(word);
      actions[i] = static_cast<Action>(channel.low[0] + (channel.high[0] - channel.low[0]) * unit);
    } else {
      actions[i] = static_cast<Action>(word % channel.n[0]);
    }
  }
  return actions;
}

/// A batch with buffers and actions; `step` makes one step of all.
template <class Rules>
struct Driven {
  Driven(int64_t envs, ThreadPool* pool, Arithmetic arithmetic)
      : batch(make_batch(Rules::spec().id,
                         {.num_envs = envs, .pool = pool, .arithmetic = arithmetic})),
        actions(random_actions<typename Rules::Action>(batch->spec().action[0], envs * kRounds)),
        obs(envs * Rules::kObs),
        reward(envs),
        returns(envs),
        terminated(envs),
        truncated(envs),
        lengths(envs) {
    out.obs = {obs.data()};
    out.reward = reward.data();
    out.terminated = terminated.data();
    out.truncated = truncated.data();
    out.episode_return = returns.data();
    out.episode_length = lengths.data();
    std::vector<uint64_t> seeds(envs);
    for (int64_t i = 0; i < envs; ++i) seeds[i] = i;
    batch->reset(seeds, {}, {}, out);
  }
  void step() {
    const int64_t round = next++ % kRounds;
    batch->step({.data = actions.data() + round * batch->num_envs()}, out);
  }

  std::unique_ptr<EnvBatch> batch;
  std::vector<typename Rules::Action> actions;
  std::vector<float> obs, reward, returns;
  std::vector<uint8_t> terminated, truncated;
  std::vector<int64_t> lengths;
  StepBuffers out;
  int64_t next = 0;
};

/// The scalar limit: one instance, nothing but step, observe and reset.
template <class Rules>
struct RawScalar {
  RawScalar()
      : actions(random_actions<typename Rules::Action>(Rules::spec().action[0], 4096)),
        params(Rules::params(Settings(Rules::spec().options, {}, "bench"))),
        start(Rules::spec().reset_options, {}, "bench"),
        limit(Rules::spec().max_episode_steps) {
    Rules::reset(state, rng, start);
  }
  void step() {
    double reward, obs[Rules::kObs];
    bool terminated;
    const auto action = static_cast<double>(actions[next++ & 4095]);
    Rules::template step<double>(state, action, params, reward, terminated);
    Rules::template observe<double>(state, obs);
    for (int k = 0; k < Rules::kObs; ++k) out[k] = static_cast<float>(obs[k]);
    bench::keep(out);
    if (terminated || ++length >= limit) {
      Rules::reset(state, rng, start);
      length = 0;
    }
  }

  std::vector<typename Rules::Action> actions;
  typename Rules::Params params;
  Settings start;
  int64_t limit, length = 0;
  uint64_t next = 0;
  Pcg64 rng{1};
  double state[Rules::kState];
  float out[Rules::kObs];
};

/// The SIMD limit: the kernel over all blocks, and nothing else.
template <class Rules>
struct RawLanes {
  explicit RawLanes(int64_t count)
      : envs(count),
        kernel(lane_kernel<Rules>(lane_isa())),
        actions(random_actions<typename Rules::Action>(Rules::spec().action[0], count)),
        params(Rules::params(Settings(Rules::spec().options, {}, "bench"))),
        obs(count * Rules::kObs),
        reward(count),
        flags(count * 3),
        length(count),
        total(count) {
    Pcg64 rng(1);
    const Settings start(Rules::spec().reset_options, {}, "bench");
    for (auto& column : state) column.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      double one[Rules::kState];
      Rules::reset(one, rng, start);
      for (int k = 0; k < Rules::kState; ++k) state[k][i] = one[k];
    }
  }
  void step() {
    for (int64_t low = 0; low < envs; low += LaneBlock<Rules>::kSize) {
      LaneBlock<Rules> b;
      b.count = std::min(LaneBlock<Rules>::kSize, envs - low);
      b.limit = INT64_MAX;
      for (int k = 0; k < Rules::kState; ++k) b.state[k] = state[k].data() + low;
      b.actions = actions.data() + low;
      b.params = &params;
      b.obs = obs.data() + low * Rules::kObs;
      b.reward = reward.data() + low;
      b.terminated = flags.data() + low;
      b.truncated = flags.data() + envs + low;
      b.over = flags.data() + 2 * envs + low;
      b.length = length.data() + low;
      b.total = total.data() + low;
      kernel(b);
    }
  }

  int64_t envs;
  void (*kernel)(const LaneBlock<Rules>&);
  std::vector<typename Rules::Action> actions;
  typename Rules::Params params;
  std::vector<double> state[Rules::kState];
  std::vector<float> obs, reward;
  std::vector<uint8_t> flags;
  std::vector<int64_t> length;
  std::vector<double> total;
};

template <class Rules>
void compare(bench::Report& report, ThreadPool& pool) {
  const std::string id = Rules::spec().id;
  std::vector<bench::Subject> subjects;
  const auto add = [&](const std::string& name, auto subject, int64_t envs) {
    const int64_t steps = std::max<int64_t>(1, 64 / envs);
    subjects.push_back({name,
                        [subject, steps] {
                          for (int64_t i = 0; i < steps; ++i) subject->step();
                        },
                        static_cast<double>(envs * steps)});
  };
  add("scalar limit", std::make_shared<RawScalar<Rules>>(), 1);
  add("1 plain", std::make_shared<Driven<Rules>>(1, nullptr, Arithmetic::plain), 1);
  add("1 lanes", std::make_shared<Driven<Rules>>(1, nullptr, Arithmetic::lanes), 1);
  for (const int64_t envs : {64, 1024, 4096}) {
    const std::string n = std::to_string(envs);
    add("limit " + n, std::make_shared<RawLanes<Rules>>(envs), envs);
    add(n, std::make_shared<Driven<Rules>>(envs, nullptr, Arithmetic::lanes), envs);
    add(n + ", 2 threads", std::make_shared<Driven<Rules>>(envs, &pool, Arithmetic::lanes), envs);
  }
  bench::measure(subjects, 15, 0.01);
  const auto rate = [&](size_t i) { return subjects[i].rate() / 1e6; };
  const auto line = [&](size_t i, const std::string& what, size_t limit, const char* beside) {
    report.figure(id + ", " + what, rate(i), "M steps/s", beside, rate(i) / rate(limit));
  };
  report.figure(id + ", loop of one instance, scalar", rate(0), "M steps/s");
  line(1, "1 instance, plain", 0, "scalar loop");
  line(2, "1 instance, lanes", 0, "scalar loop");
  for (size_t size = 0, i = 3; size < 3; ++size, i += 3) {
    const std::string n = subjects[i + 1].name + " instances";
    report.figure(id + ", SIMD kernel on " + n, rate(i), "M steps/s");
    line(i + 1, n + ", 1 thread", i, "SIMD kernel");
    line(i + 2, n + ", 2 threads", i + 1, "1 thread");
  }
}

}  // namespace
}  // namespace bessemer

int main(int argc, char** argv) {
  using namespace bessemer;
  bench::Report report(argc, argv);
  ThreadPool pool(2);
  compare<CartPole>(report, pool);
  compare<Acrobot>(report, pool);
  compare<MountainCar>(report, pool);
  compare<MountainCarContinuous>(report, pool);
  compare<Pendulum>(report, pool);
  return 0;
}
