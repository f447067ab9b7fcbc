// The halves of a step, and threads: neither changes a bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "core/base/error.h"
#include "core/base/thread_pool.h"
#include "tests/envs/fixture.h"

using namespace bessemer;

namespace {
std::vector<int64_t> pushes(int64_t rows, int t) {
  std::vector<int64_t> actions(rows);
  for (int64_t i = 0; i < rows; ++i) actions[i] = ((i * 7 + t * 13) % 11) & 1;
  return actions;
}
}  // namespace

TEST_CASE("send and recv give every environment's step once, in the order of sending") {
  Stepped whole("CartPole-v1", {.num_envs = 6}), halves("CartPole-v1", {.num_envs = 6});
  whole.reset_all(3);
  halves.reset_all(3);
  for (int t = 0; t < 60; ++t) {
    const std::vector<int64_t> actions = pushes(6, t);
    whole.step(actions);
    const std::vector<int64_t> first = {4, 5, 1}, second = {0, 2, 3};
    for (const auto& ids : {first, second}) {
      std::vector<int64_t> some;
      for (const int64_t id : ids) some.push_back(actions[id]);
      halves.batch->send({.data = some.data()}, ids);
    }
    std::vector<int64_t> seen, ids(6);
    for (const int64_t count : {2, 3, 1}) {
      CHECK(halves.batch->recv(count, halves.out, ids) == count);
      for (int64_t i = 0; i < count; ++i) {
        CHECK(std::ranges::equal(halves.row(i), whole.row(ids[i])));
        CHECK(halves.terminated[i] == whole.terminated[ids[i]]);
        seen.push_back(ids[i]);
      }
    }
    CHECK(seen == std::vector<int64_t>{4, 5, 1, 0, 2, 3});
  }
}

TEST_CASE("send and recv refuse what cannot be meant") {
  Stepped env("CartPole-v1", {.num_envs = 3});
  env.reset_all(0);
  const std::vector<int64_t> actions = {0, 0, 0};
  const std::vector<int64_t> twice = {1, 1}, far = {5}, one = {1}, bad = {7};
  std::vector<int64_t> ids(3);
  CHECK_THROWS_AS(env.batch->recv(1, env.out, ids), ValueError);
  CHECK_THROWS_AS(env.batch->send({.data = actions.data()}, twice), ValueError);
  CHECK_THROWS_AS(env.batch->send({.data = actions.data()}, far), IndexError);
  CHECK_THROWS_AS(env.batch->send({.data = bad.data()}, one), ValueError);
  env.batch->send({.data = actions.data()}, one);
  CHECK_THROWS_AS(env.batch->send({.data = actions.data()}, one), ValueError);
  CHECK_THROWS_AS(env.step(actions), ValueError);
  CHECK_THROWS_AS(env.reset(), ValueError);
  CHECK_THROWS_AS(env.batch->recv(2, env.out, ids), ValueError);
  CHECK_THROWS_AS(env.batch->recv(1, env.out, {}), ValueError);
  CHECK(env.batch->recv(1, env.out, ids) == 1);
  CHECK(ids[0] == 1);
  env.step(actions);
}

TEST_CASE("text is sent and received") {
  Stepped env("Echo-v0", {.num_envs = 3});
  env.reset_all(2);
  std::vector<std::string> words;
  for (int i = 0; i < 3; ++i) words.emplace_back(env.text.row(i));
  Ragged reply;
  for (const int i : {2, 0}) reply.push(words[i]);
  const std::vector<int64_t> order = {2, 0};
  env.batch->send({.ragged = &reply}, order);
  std::vector<int64_t> ids(3);
  for (const int64_t expected : {2, 0}) {
    CHECK(env.batch->recv(1, env.out, ids) == 1);
    CHECK(ids[0] == expected);
    CHECK(env.reward[0] == 1);
    CHECK(env.text.rows() == 1);
  }
}

TEST_CASE("the same bits for any number of threads") {
  struct Case {
    const char* id;
    Arithmetic arithmetic;
    int64_t envs;  // enough work that a step is cut into tasks
  };
  for (const auto& [id, arithmetic, envs] :
       {Case{"CartPole-v1", Arithmetic::plain, 900}, Case{"Acrobot-v1", Arithmetic::lanes, 1500},
        Case{"TestCount-v0", Arithmetic::plain, 900}, Case{"Echo-v0", Arithmetic::plain, 900}}) {
    CAPTURE(id);
    const int64_t count = envs;
    std::vector<std::vector<float>> traces;
    std::vector<std::string> texts;
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      Stepped env(id, {.num_envs = count,
                       .autoreset = Autoreset::same_step,
                       .max_episode_steps = 30,
                       .pool = threads == 1 ? nullptr : &pool,
                       .arithmetic = arithmetic});
      env.reset_all(11);
      std::vector<float> trace;
      std::string text;
      for (int t = 0; t < 80; ++t) {
        if (env.width == 0) {
          Ragged reply;
          for (int64_t i = 0; i < count; ++i) reply.push(i % 3 ? env.text.row(i) : "no");
          env.batch->step({.ragged = &reply}, env.out);
          text += env.text.bytes;
        } else if (env.batch->spec().action[0].dtype == Dtype::i64) {
          env.step(pushes(count, t));
        } else {
          env.step(std::vector<float>(2 * count, 0.25f));
        }
        trace.insert(trace.end(), env.obs.begin(), env.obs.end());
        trace.insert(trace.end(), env.reward.begin(), env.reward.end());
        trace.insert(trace.end(), env.final_obs.begin(), env.final_obs.end());
        trace.insert(trace.end(), env.episode_return.begin(), env.episode_return.end());
      }
      traces.push_back(std::move(trace));
      texts.push_back(std::move(text));
    }
    for (size_t i = 1; i < traces.size(); ++i) {
      CHECK(traces[i] == traces[0]);
      CHECK(texts[i] == texts[0]);
    }
  }
}
