// Environments made to test the batch: one that counts, one with two agents, one with every kind of
// channel.
#include <chrono>
#include <stdexcept>
#include <thread>

#include "envs/batch.h"

namespace bessemer {
namespace {

/// Observes how many steps were taken and a draw of the episode; ends after `end`; throws at
/// `throw_at`; every step takes `sleep` seconds.
struct Count {
  using Action = float;

  static Spec spec() {
    Spec s;
    s.id = "TestCount-v0";
    s.observation = {{.name = "obs", .shape = {2}}};
    s.action = {{.name = "action", .shape = {2}, .low = {-1, -2}, .high = {1, 2}}};
    s.options = {{.name = "end", .type = Option::Type::integer, .fallback = "3", .min = 1},
                 {.name = "sleep", .fallback = "0", .min = 0},
                 {.name = "throw_at", .type = Option::Type::integer, .fallback = "0"},
                 {.name = "throw_in_reset", .type = Option::Type::boolean, .fallback = "false"}};
    s.reset_options = {{.name = "from", .fallback = "0"}};
    return s;
  }
  explicit Count(const Settings& o)
      : end_(o.integer("end")),
        sleep_(o.number("sleep")),
        throw_at_(o.integer("throw_at")),
        reset_(o.boolean("throw_in_reset")) {}

  void reset(Pcg64& rng, const Settings& options) {
    count_ = options.number("from");
    draw_ = rng.random();
    if (reset_ && draw_ < 0.5) throw std::runtime_error("no world today");
  }
  StepResult step(std::span<const float> action, Pcg64&) {
    count_ += 1;
    if (sleep_ > 0) std::this_thread::sleep_for(std::chrono::duration<double>(sleep_));
    if (count_ == static_cast<double>(throw_at_)) throw std::runtime_error("the world broke");
    return {.reward = count_ + action[1], .terminated = count_ >= static_cast<double>(end_)};
  }
  void observe(RowOut& out) const {
    out.dense<float>(0)[0] = static_cast<float>(count_);
    out.dense<float>(0)[1] = static_cast<float>(draw_);
  }
  void state(StateIo& io) { io(count_, draw_); }

 private:
  int64_t end_;
  double sleep_;
  int64_t throw_at_;
  bool reset_;
  double count_ = 0, draw_ = 0;
};

/// Two agents; agent a terminates after 2 + a steps, the episode with the second.
struct Pair {
  using Action = int64_t;

  static Spec spec() {
    Spec s;
    s.id = "TestPair-v0";
    s.rows = 2;
    s.observation = {{.name = "obs"}};
    s.action = {{.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {4}}};
    return s;
  }
  explicit Pair(const Settings&) {}

  void reset(Pcg64&, const Settings&) { count_ = 0; }
  void step(std::span<const int64_t> actions, std::span<StepResult> results, Pcg64&) {
    ++count_;
    for (int a = 0; a < 2; ++a) {
      results[a] = {.reward = static_cast<double>(actions[a]), .terminated = count_ >= 2 + a};
    }
  }
  void observe(int row, RowOut& out) const {
    *out.dense<float>(0) = static_cast<float>(10 * count_ + row);
  }
  void state(StateIo& io) { io(count_); }

 private:
  int64_t count_ = 0;
};

/// Two observations, two infos, two reward components, a mask and a multi-discrete action.
struct Rich {
  using Action = int32_t;

  static Spec spec() {
    Spec s;
    s.id = "TestRich-v0";
    s.observation = {{.name = "position", .shape = {3}},
                     {.name = "goal", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {9}}};
    s.action = {{.name = "action",
                 .kind = SpaceKind::multi_discrete,
                 .dtype = Dtype::i32,
                 .shape = {2},
                 .n = {3, 4}}};
    s.rewards = {{.name = "reward.sum"}, {.name = "reward.last"}};
    s.infos = {{.name = "info.lap", .dtype = Dtype::i64},
               {.name = "info.level", .dtype = Dtype::f64}};
    s.action_mask = true;
    s.max_episode_steps = 4;
    return s;
  }
  explicit Rich(const Settings&) {}

  void reset(Pcg64& rng, const Settings&) {
    steps_ = sum_ = last_ = 0;
    goal_ = rng.integers(0, 9);
  }
  StepResult step(std::span<const int32_t> action, Pcg64&) {
    ++steps_;
    last_ = action[0];
    sum_ += action[0] + action[1];
    return {.reward = static_cast<double>(sum_ + last_)};
  }
  void observe(RowOut& out) const {
    for (int i = 0; i < 3; ++i) out.dense<float>(0)[i] = static_cast<float>(steps_ * i);
    *out.dense<int64_t>(1) = goal_;
  }
  void infos(RowOut& out) const {
    *out.dense<int64_t>(0) = steps_;
    *out.dense<double>(1) = 0.5 * static_cast<double>(sum_);
  }
  void rewards(std::span<float> out) const {
    out[0] = static_cast<float>(sum_);
    out[1] = static_cast<float>(last_);
  }
  void mask(std::span<uint8_t> out) const {
    for (size_t i = 0; i < out.size(); ++i) out[i] = i != static_cast<size_t>(steps_);
  }
  void state(StateIo& io) { io(steps_, sum_, last_, goal_); }

 private:
  int64_t steps_ = 0, sum_ = 0, last_ = 0, goal_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(Count)
BESSEMER_ENVIRONMENT(Pair)
BESSEMER_ENVIRONMENT(Rich)

}  // namespace bessemer
