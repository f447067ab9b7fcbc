// Reward functions in Python: what they may do wrong, item by item. Skips without an interpreter
// that has NumPy and msgpack.
#include <doctest/doctest.h>

#include <fstream>
#include <string>
#include <vector>

#include "envs/server/reward_host.h"

using namespace bessemer;

namespace {

bool has_python() {
  static const bool found = [] {
    try {
      ChildOptions options;
      options.args = {host_interpreter(), "-c", "import numpy, msgpack"};
      return run_child(options, 60).status.ok();
    } catch (const IoError&) {
      return false;
    }
  }();
  if (!found) MESSAGE("skipped: no Python with NumPy and msgpack (BESSEMER_PYTHON)");
  return found;
}

std::string function(const std::string& name) {
  return cat("py:", TEST_SOURCE_FOLDER, "/../python/hosted/user_rewards.py:", name);
}

const std::vector<std::string> kPrompts = {"a", "b", "c", "d", "e"};
const std::vector<std::string> kCompletions = {"", "x", "xx", "xxx", "xxxx"};

std::vector<double> values(const std::vector<Score>& scores) {
  std::vector<double> out;
  for (const Score& score : scores) out.push_back(score.value);
  return out;
}

/// True when every item is marked, with `reason` in what it says.
bool all_marked(const std::vector<Score>& scores, std::string_view reason) {
  for (const Score& score : scores) {
    if (score.good() || score.fault.find(reason) == std::string::npos) {
      MESSAGE(score.fault);
      return false;
    }
  }
  return scores.size() == kCompletions.size();
}

}  // namespace

TEST_CASE("reward: a function with TRL's signature, in one process or several") {
  if (!has_python()) return;
  for (const int64_t processes : {1, 2, 7}) {
    RewardHost host(function("lengths"), {.processes = processes});
    CHECK_EQ(values(host.score(kPrompts, kCompletions)), std::vector<double>{0, 1, 2, 3, 4});
    wire::Map columns;
    columns.set("bonus", wire::List{1, 2, 3, 4, 5.5});
    CHECK_EQ(values(host.score(kPrompts, kCompletions, columns)),
             std::vector<double>{1, 3, 5, 7, 9.5});
    CHECK(host.score(wire::List{}, wire::List{}).empty());
  }
}

TEST_CASE("reward: scores that are none mark their own item") {
  if (!has_python()) return;
  RewardHost host(function("some_bad"));
  const std::vector<Score> scores = host.score(kPrompts, kCompletions);
  CHECK_EQ(scores[0].value, 1);
  CHECK_EQ(scores[1].fault, "the score is nan");
  CHECK_EQ(scores[2].fault, "the score is a NoneType, not a number");
  CHECK_EQ(scores[3].fault, "the score is a str, not a number");
  CHECK_EQ(scores[4].value, 2);
  CHECK(scores[4].good());
}

TEST_CASE(
    "reward: raising, dying, hanging and miscounting mark the call, and the next is answered") {
  if (!has_python()) return;
  CHECK(all_marked(RewardHost(function("too_few")).score(kPrompts, kCompletions),
                   "1 scores for 5 completions"));
  CHECK(all_marked(RewardHost(function("raises")).score(kPrompts, kCompletions),
                   "ZeroDivisionError: no reward for"));
  RewardHost dying(function("dies"));
  for (int i = 0; i < 2; ++i) {
    CHECK(all_marked(dying.score(kPrompts, kCompletions), "exit code 9"));
  }
  RewardHost hanging(function("hangs_on_xx"), {.deadline = 0.5, .processes = 5});
  for (int i = 0; i < 2; ++i) {
    const std::vector<Score> scores = hanging.score(kPrompts, kCompletions);
    CHECK_EQ(scores[1].value, 1);
    CHECK_EQ(scores[2].fault, "no answer in time; its process was ended");
    CHECK_EQ(scores[4].value, 1);
  }
}

TEST_CASE("reward: what cannot be loaded or asked is the caller's error") {
  if (!has_python()) return;
  CHECK_THROWS_WITH_AS(RewardHost("py:nowhere.py:f"), "[host] there is no file nowhere.py",
                       ValueError);
  CHECK_THROWS_AS(RewardHost(function("lenghts")), ValueError);
  CHECK_THROWS_AS(RewardHost("lengths"), ValueError);
  RewardHost host(function("lengths"));
  CHECK_THROWS_WITH_AS(host.score({"a"}, kCompletions), "[reward] 1 prompts for 5 completions",
                       ValueError);
}
