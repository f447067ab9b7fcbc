#include <doctest/doctest.h>

#include <set>

#include "core/base/rng.h"
#include "envs/env.h"
#include "envs/text/expression.h"

using namespace bessemer;

namespace {

const std::vector<std::string> kTasks = {"ReverseText-v0", "Arithmetic-v0", "LetterCount-v0",
                                         "Sorting-v0",     "Countdown-v0",  "GuessNumber-v0",
                                         "Calculator-v0"};

/// One environment, its outputs, and steps by text.
struct Talk {
  std::unique_ptr<EnvBatch> env;
  Ragged prompt, final_prompt;
  float reward = 0;
  uint8_t terminated = 0, truncated = 0, fault = 0;
  std::vector<float> components;
  StepBuffers out;

  explicit Talk(const std::string& id, const Options& options = {}) {
    BatchOptions batch;
    batch.options = options;
    batch.autoreset = Autoreset::disabled;
    env = make_batch(id, batch);
    components.resize(env->spec().rewards.size());
    out.obs = {nullptr};
    out.ragged_obs = {&prompt};
    out.reward = &reward;
    out.terminated = &terminated;
    out.truncated = &truncated;
    out.fault = &fault;
    for (float& c : components) out.rewards.push_back(&c);
  }
  std::string start(uint64_t seed, const Options& reset_options = {}) {
    const uint64_t seeds[] = {seed};
    env->reset(seeds, reset_options, {}, out);
    return std::string(prompt.row(0));
  }
  void say(std::string_view text) {
    Ragged reply;
    reply.push(text);
    env->step({.ragged = &reply}, out);
  }
};

}  // namespace

TEST_CASE("every oracle reaches the maximum, in both splits, and the splits share nothing") {
  for (const std::string& id : kTasks) {
    INFO(id);
    std::set<std::string> items[2];
    for (int split = 0; split < 2; ++split) {
      Talk talk(id, {{"split", split ? "test" : "train"}});
      for (uint64_t seed = 0; seed < 200; ++seed) {
        items[split].insert(talk.start(seed));
        double total = 0;
        int turns = 0;
        do {
          talk.say(talk.env->oracle(0));
          total += talk.reward;
          ++turns;
        } while (!talk.terminated && !talk.truncated);
        REQUIRE(talk.terminated);
        REQUIRE(talk.components[0] == 1);
        REQUIRE(turns <= 7);
        if (id != "GuessNumber-v0") REQUIRE(total == 1);
      }
    }
    if (id == "GuessNumber-v0") continue;  // sixty-four numbers, all of them in both
    CHECK(items[0].size() > 100);
    for (const std::string& item : items[1]) REQUIRE_FALSE(items[0].contains(item));
  }
}

TEST_CASE("bisection finds the number in 5.125 turns on average") {
  Talk talk("GuessNumber-v0");
  int turns = 0;
  for (int secret = 1; secret <= 64; ++secret) {
    talk.start(1, {{"secret", std::to_string(secret)}});
    do {
      talk.say(talk.env->oracle(0));
      ++turns;
    } while (!talk.terminated);
  }
  CHECK(turns == 328);
  CHECK_THROWS_AS(talk.start(1, {{"secret", "65"}}), ValueError);
}

TEST_CASE("wrong, malformed and hostile replies score nothing and break nothing") {
  const std::string deep(4000, '('), digits(4000, '9');
  const std::vector<std::string> replies = {
      "",           " ",         "\xff\xfe", deep,    digits, "1/0", "-", "9999999999999999999",
      "calc: 2**3", "answer: x", "((((1",    "1 2 3", "nan"};
  for (const std::string& id : kTasks) {
    INFO(id);
    Talk talk(id);
    for (const std::string& reply : replies) {
      talk.start(3);
      const bool right = talk.env->oracle(0) == reply;
      talk.say(reply);
      CHECK_FALSE(talk.fault);
      if (!right) CHECK(talk.components[0] == 0);
    }
    // Random bytes, many times.
    for (uint64_t i = 0; i < 200; ++i) {
      talk.start(i);
      std::string noise;
      for (uint64_t k = 0; k < i % 50; ++k)
        noise += "0123456789+-*/() calc:answer\n\xc3"[Rng{5}.at(i, k).word[0] % 29];
      talk.say(noise);
      REQUIRE_FALSE(talk.fault);
    }
  }
}

TEST_CASE("the same seed gives the same item; a saved episode goes on the same way") {
  for (const std::string& id : kTasks) {
    INFO(id);
    Talk a(id), b(id);
    CHECK(a.start(11) == b.start(11));
    if (id != "GuessNumber-v0")
      CHECK(a.start(12) != b.start(13));  // its first prompt is always the same
    a.start(14);
    if (a.env->spec().max_episode_steps > 0) a.say("5");
    const std::string state = a.env->save(0);
    b.env->load(0, state);
    CHECK(b.env->oracle(0) == a.env->oracle(0));
    const std::string reply = a.env->oracle(0);
    a.say(reply);
    b.say(reply);
    CHECK(a.reward == b.reward);
    CHECK(a.terminated == b.terminated);
    CHECK(a.prompt.bytes == b.prompt.bytes);
  }
}

TEST_CASE("partial answers are told apart") {
  Talk talk("ReverseText-v0");
  std::string word = talk.start(5).substr(9);
  std::string answer(word.rbegin(), word.rend());
  talk.say(answer.substr(1));
  CHECK(talk.components[0] == 0);
  CHECK(talk.components[1] == doctest::Approx(1 - 1.0 / static_cast<double>(word.size())));
  CHECK(talk.reward == talk.components[1]);

  Talk countdown("Countdown-v0", {{"count", "2"}});
  countdown.start(1);
  countdown.say("1000");  // a number that was not given
  CHECK(countdown.components[1] == 0);
  CHECK_THROWS_AS(Talk("Arithmetic-v0", {{"operators", "+%"}}), ValueError);
  CHECK_THROWS_AS(Talk("Arithmetic-v0", {{"split", "tset"}}), ValueError);
  CHECK_THROWS_AS(Talk("ReverseText-v0", {{"min_length", "9"}}), ValueError);
}

TEST_CASE("expressions are exact") {
  using text_task::read_expression;
  CHECK(read_expression("1+2*3")->value == text_task::Fraction{7, 1});
  CHECK(read_expression(" -(2 - 5) / 6 ")->value == text_task::Fraction{1, 2});
  CHECK(read_expression("8/(3-8/3)")->value == text_task::Fraction{24, 1});
  CHECK(read_expression("8/(3-8/3)")->numbers == std::vector<int64_t>{8, 3, 8, 3});
  for (const char* bad :
       {"", "1+", "(1", "1)", "1 2", "2*/3", "1/0", "1/(2-2)", "9223372036854775807+1", "x"})
    CHECK_FALSE(read_expression(bad));
}
