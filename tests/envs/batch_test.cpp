// What a batch promises whatever it steps: autoreset, limits, statistics, masks, seeds, faults,
// states.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "core/base/error.h"
#include "core/base/thread_pool.h"
#include "tests/envs/fixture.h"

using namespace bessemer;

namespace {
using Values = std::vector<float>;

Values zeros(int64_t rows) { return Values(rows * 2, 0.0f); }
}  // namespace

TEST_CASE("next_step: the step after an end ignores its action and starts a new episode") {
  Stepped env("TestCount-v0", {.num_envs = 1});
  env.reset({7});
  const float first_draw = env.obs[1];
  for (int t = 1; t <= 3; ++t) {
    env.step<float>({0, 0.5f});
    CHECK(env.obs[0] == t);
    CHECK(env.reward[0] == t + 0.5f);
    CHECK(env.terminated[0] == (t == 3));
    CHECK(env.truncated[0] == 0);
    CHECK(env.fault[0] == 0);
  }
  CHECK(env.final_obs == Values{3, first_draw});
  CHECK(env.episode_return[0] == 7.5f);
  CHECK(env.episode_length[0] == 3);
  env.step<float>({NAN, 99});  // ignored, and so not checked
  CHECK(env.obs[0] == 0);
  CHECK(env.obs[1] != first_draw);  // the stream went on
  CHECK(env.reward[0] == 0);
  CHECK(env.terminated[0] == 0);
  env.step<float>({0, 0});
  CHECK(env.obs[0] == 1);
  CHECK(env.reward[0] == 1);
}

TEST_CASE("same_step: the new observation comes at once, the old one in final_obs") {
  Stepped env("TestCount-v0", {.num_envs = 2, .autoreset = Autoreset::same_step});
  env.reset({7, 8});
  const float draw = env.obs[1];
  for (int t = 1; t <= 3; ++t) env.step(zeros(2));
  CHECK(env.terminated == std::vector<uint8_t>{1, 1});
  CHECK(env.reward[0] == 3);
  CHECK(env.obs[0] == 0);
  CHECK(env.final_obs[0] == 3);
  CHECK(env.final_obs[1] == draw);
  CHECK(env.episode_length[1] == 3);
  env.step(zeros(2));
  CHECK(env.obs[0] == 1);
  CHECK(env.terminated[0] == 0);
}

TEST_CASE("disabled: an ended environment must be reset by the caller, by mask") {
  Stepped env("TestCount-v0", {.num_envs = 2, .autoreset = Autoreset::disabled});
  env.reset({7, 8}, {{"from", "1"}});
  CHECK(env.obs[0] == 1);
  env.reset({9}, {}, {1, 0});
  CHECK(env.obs[0] == 0);
  CHECK(env.obs[2] == 1);  // not reset: still observed
  for (int t = 0; t < 2; ++t) env.step(zeros(2));
  CHECK(env.terminated == std::vector<uint8_t>{0, 1});
  CHECK_THROWS_WITH_AS(env.step(zeros(2)),
                       "[env] environment 1 has ended: reset it before the next step", ValueError);
  CHECK(env.obs[0] == 2);  // nothing was stepped
  env.reset({}, {}, {0, 1});
  env.step(zeros(2));
  CHECK(env.obs[0] == 3);
  CHECK(env.obs[2] == 1);
}

TEST_CASE("a time limit truncates, and both flags may be set") {
  Stepped limited("TestCount-v0", {.num_envs = 1, .max_episode_steps = 2});
  limited.reset({1});
  limited.step(zeros(1));
  CHECK(limited.truncated[0] == 0);
  limited.step(zeros(1));
  CHECK(limited.truncated[0] == 1);
  CHECK(limited.terminated[0] == 0);
  CHECK(limited.episode_length[0] == 2);
  CHECK(limited.batch->spec().max_episode_steps == 2);

  Stepped both("TestCount-v0", {.num_envs = 1, .max_episode_steps = 3});
  both.reset({1});
  for (int t = 0; t < 3; ++t) both.step(zeros(1));
  CHECK(both.truncated[0] == 1);
  CHECK(both.terminated[0] == 1);

  Stepped endless("CartPole-v1", {.num_envs = 1, .max_episode_steps = 0});
  CHECK(endless.batch->spec().max_episode_steps == 0);
  CHECK_THROWS_AS(make_batch("CartPole-v1", {.max_episode_steps = -1}), ValueError);
}

TEST_CASE("a seed repeats an episode, no seed goes on with the stream, none at all differs") {
  Stepped a("TestCount-v0", {.num_envs = 2}), b("TestCount-v0", {.num_envs = 2});
  a.reset({3, 4});
  const Values first = a.obs;
  a.reset();
  const Values second = a.obs;
  CHECK(first != second);
  b.reset({3, 4});
  CHECK(b.obs == first);
  b.reset();
  CHECK(b.obs == second);
  Stepped c("TestCount-v0", {.num_envs = 2});
  c.reset();
  CHECK(c.obs[1] != c.obs[3]);
}

TEST_CASE("wrong calls are refused and step nothing") {
  Stepped env("TestCount-v0", {.num_envs = 2});
  CHECK_THROWS_WITH_AS(env.step(zeros(2)), "[env] step before reset", ValueError);
  CHECK_THROWS_AS(env.batch->observe(env.out), ValueError);
  CHECK_THROWS_AS(env.reset({1, 2, 3}), ValueError);
  CHECK_THROWS_AS(env.reset({}, {}, {1}), ValueError);
  CHECK_THROWS_AS(env.reset({}, {}, {1, 0}), ValueError);  // the other was never reset
  CHECK_THROWS_AS(env.reset({}, {{"from", "x"}}), ValueError);
  env.reset({1, 2});
  CHECK_THROWS_WITH_AS(env.step<float>({0, 0, 0, NAN}),
                       "[env] TestCount-v0: action of row 1, element 1 is nan, allowed are -2 to 2",
                       ValueError);
  CHECK_THROWS_WITH_AS(
      env.step<float>({-1.5f, 0, 0, 0}),
      "[env] TestCount-v0: action of row 0, element 0 is -1.5, allowed are -1 to 1", ValueError);
  CHECK_THROWS_AS(env.batch->step({}, env.out), ValueError);
  CHECK(env.obs[0] == 0);
  env.step(zeros(2));
  CHECK(env.obs[0] == 1);

  Stepped cart("CartPole-v1", {.num_envs = 2});
  cart.reset_all(0);
  CHECK_THROWS_WITH_AS(cart.step<int64_t>({0, 2}),
                       "[env] CartPole-v1: action of row 1 is 2, allowed are 0 to 1", ValueError);
  CHECK_THROWS_AS(make_batch("CartPole-v1", {.num_envs = 0}), ValueError);
}

TEST_CASE("unchecked actions are the caller's business") {
  Stepped env("TestCount-v0", {.num_envs = 1, .check_actions = false});
  env.reset({1});
  env.step<float>({0, 50});
  CHECK(env.reward[0] == 51);
}

TEST_CASE("a world that throws is a fault with its reason, and starts anew") {
  for (const Autoreset mode : {Autoreset::next_step, Autoreset::same_step}) {
    Stepped env("TestCount-v0", {.num_envs = 2, .options = {{"throw_at", "2"}}, .autoreset = mode});
    env.reset({1, 2});
    env.step(zeros(2));
    CHECK(env.fault == std::vector<uint8_t>{0, 0});
    env.step(zeros(2));
    CHECK(env.fault == std::vector<uint8_t>{1, 1});
    CHECK(env.terminated[0] == 0);
    CHECK(env.truncated[0] == 0);
    CHECK(env.reward[0] == 0);
    CHECK(env.obs[0] == 0);
    CHECK(env.batch->fault_reason(1) == "the world broke");
    env.step(zeros(2));
    CHECK(env.fault[0] == 0);
    CHECK(env.obs[0] == (mode == Autoreset::next_step ? 0 : 1));
  }
}

TEST_CASE("a world that cannot start is a fault until it can") {
  Stepped env("TestCount-v0", {.num_envs = 8, .options = {{"throw_in_reset", "true"}}});
  env.reset_all(1);
  int64_t faults = 0;
  for (const uint8_t f : env.fault) faults += f;
  CHECK(faults > 0);
  CHECK(faults < 8);
  for (int t = 0; t < 64; ++t) env.step(zeros(8));
  for (int64_t row = 0; row < 8; ++row) {
    if (env.fault[row]) CHECK(env.batch->fault_reason(row) == "no world today");
  }
}

TEST_CASE("every kind of channel") {
  Stepped env("TestRich-v0", {.num_envs = 2, .autoreset = Autoreset::same_step});
  std::vector<int64_t> goal(2), final_goal(2), lap(2);
  std::vector<double> level(2);
  Values sum(2), last(2);
  std::vector<uint8_t> mask(14);
  env.out.obs = {env.obs.data(), goal.data()};
  env.out.final_obs = {env.final_obs.data(), final_goal.data()};
  env.out.infos = {lap.data(), level.data()};
  env.out.rewards = {sum.data(), last.data()};
  env.out.action_mask = mask.data();
  env.reset_all(4);
  const std::vector<int64_t> goals = goal;
  CHECK(mask[0] == 0);
  CHECK(mask[1] == 1);
  for (int t = 1; t <= 4; ++t) env.step<int32_t>({1, 3, 2, 0});
  CHECK(env.truncated == std::vector<uint8_t>{1, 1});
  CHECK(env.reward == Values{17, 10});
  CHECK(sum == Values{16, 8});
  CHECK(last == Values{1, 2});
  CHECK(final_goal == goals);
  CHECK(env.final_obs == Values{0, 4, 8, 0, 4, 8});
  CHECK(lap == std::vector<int64_t>{0, 0});  // of the new episode
  CHECK(mask[0] == 0);
  env.step<int32_t>({0, 1, 0, 1});
  CHECK(lap[1] == 1);
  CHECK(level[1] == 0.5);
  CHECK(mask[1] == 0);
  CHECK(mask[7 + 1] == 0);
  CHECK_THROWS_WITH_AS(env.step<int32_t>({0, 0, 0, 4}),
                       "[env] TestRich-v0: action of row 1, element 1 is 4, allowed are 0 to 3",
                       ValueError);
  // Nobody has to want anything.
  const std::vector<int32_t> actions(4, 0);
  env.batch->step({.data = actions.data()}, {});
}

TEST_CASE("an environment of two agents ends with its last row") {
  Stepped env("TestPair-v0", {.num_envs = 2});
  CHECK(env.batch->rows() == 4);
  env.reset({1, 2});
  CHECK(env.obs == Values{0, 1, 0, 1});
  env.step<int64_t>({0, 1, 2, 3});
  CHECK(env.reward == Values{0, 1, 2, 3});
  env.step<int64_t>({0, 1, 2, 3});
  CHECK(env.terminated == std::vector<uint8_t>{1, 0, 1, 0});
  CHECK(env.episode_length[0] == -7);  // not written: the environment goes on
  env.step<int64_t>({0, 1, 2, 3});
  CHECK(env.terminated == std::vector<uint8_t>{1, 1, 1, 1});
  CHECK(env.episode_return == Values{0, 3, 6, 9});
  CHECK(env.final_obs == Values{30, 31, 30, 31});
  env.step<int64_t>({0, 0, 0, 0});
  CHECK(env.obs == Values{0, 1, 0, 1});
}

TEST_CASE("a saved environment goes on as the original does") {
  for (const char* id : {"TestCount-v0", "CartPole-v1", "Echo-v0", "Corridor-v0"}) {
    CAPTURE(id);
    Stepped a(id, {.num_envs = 3}), b(id, {.num_envs = 2});
    a.reset_all(1);
    b.reset_all(77);
    const bool text = a.width == 0;
    Ragged words;
    const auto step = [&](Stepped& env) {
      if (text) {
        words.clear();
        for (int64_t i = 0; i < env.batch->rows(); ++i) words.push("ab");
        env.batch->step({.ragged = &words}, env.out);
      } else if (env.batch->spec().action[0].dtype == Dtype::i64) {
        env.step(std::vector<int64_t>(env.batch->rows(), 1));
      } else {
        env.step(zeros(env.batch->rows()));
      }
    };
    for (int t = 0; t < 2; ++t) step(a);
    const std::string state = a.batch->save(2);
    b.batch->load(0, state);
    CHECK(b.batch->save(0) == state);
    for (int t = 0; t < 40; ++t) {
      step(a);
      step(b);
      CHECK(a.reward[2] == b.reward[0]);
      CHECK(a.terminated[2] == b.terminated[0]);
      CHECK(a.truncated[2] == b.truncated[0]);
      if (text) {
        CHECK(a.text.row(2) == b.text.row(0));
      } else {
        CHECK(std::ranges::equal(a.row(2), b.row(0)));
      }
    }
    CHECK(a.batch->save(2) == b.batch->save(0));
  }
}

TEST_CASE("damaged, foreign, short and newer states are refused") {
  Stepped env("CartPole-v1", {.num_envs = 1});
  Stepped other("Acrobot-v1", {.num_envs = 1});
  env.reset({1});
  other.reset({1});
  const std::string good = env.batch->save(0);
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    CHECK_THROWS_AS(env.batch->load(0, bad), ValueError);
    CHECK_THROWS_AS(env.batch->load(0, std::string_view(good).substr(0, i)), ValueError);
  }
  CHECK_THROWS_WITH_AS(env.batch->load(0, other.batch->save(0)),
                       "[env] saved state is of Acrobot-v1, not of CartPole-v1", ValueError);
  std::string newer = good;
  newer[7] = '9';
  CHECK_THROWS_WITH_AS(env.batch->load(0, newer),
                       "[env] saved state has version 09, this program reads 01", ValueError);
  CHECK_THROWS_AS(env.batch->load(1, good), IndexError);
  CHECK_THROWS_AS(env.batch->load(0, "hello, I am a text and no environment"), ValueError);
  CHECK(env.batch->save(0) == good);
}

TEST_CASE("text in, text out") {
  Stepped env("Echo-v0", {.num_envs = 3, .options = {{"min_length", "2"}, {"max_length", "5"}}});
  env.reset_all(1);
  REQUIRE(env.text.rows() == 3);
  Ragged reply;
  for (int t = 1; t <= 8; ++t) {
    reply.clear();
    reply.push(env.text.row(0));
    reply.push("");
    reply.push(std::string(env.text.row(2)) + std::string(env.text.row(2)));
    env.batch->step({.ragged = &reply}, env.out);
    CHECK(env.reward == Values{1, 0, 0.5});
    CHECK(env.truncated[0] == (t == 8));
  }
  CHECK(env.final_text.rows() == 3);
  CHECK(env.final_text.row(1) == env.text.row(1));
  CHECK(env.episode_return[0] == 8);
  reply.clear();
  reply.push("one");
  CHECK_THROWS_AS(env.batch->step({.ragged = &reply}, env.out), ValueError);
  reply.push("two");
  reply.push(std::string(5000, 'x'));
  CHECK_THROWS_AS(env.batch->step({.ragged = &reply}, env.out), ValueError);
  const char* none = "";
  CHECK_THROWS_AS(env.batch->step({.data = none}, env.out), ValueError);
}
