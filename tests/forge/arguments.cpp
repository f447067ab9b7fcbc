#include "forge/arguments.h"

#include <doctest/doctest.h>

using namespace bessemer;

namespace {
const Command kCommand{
    "eval", "DIR", "judges a run", {{"--episodes", "N", "how many"}, {"--json", {}, "as JSON"}}};

Arguments parse(std::vector<std::string> words) { return parse_arguments(kCommand, words); }

std::string usage_error(std::vector<std::string> words) {
  try {
    parse(std::move(words));
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}
}  // namespace

TEST_CASE("arguments: flags and positional words in any order") {
  const Arguments a = parse({"--episodes", "5", "runs/x", "--json"});
  CHECK(a.positional == std::vector<std::string>{"runs/x"});
  CHECK(a.has("--json"));
  CHECK(a.integer("--episodes", 20, 1) == 5);
  CHECK(parse({"--episodes=7"}).integer("--episodes", 20, 1) == 7);
  CHECK(parse({}).integer("--episodes", 20, 1) == 20);
}

TEST_CASE("arguments: what is wrong is named") {
  CHECK(usage_error({"--episode", "5"}) ==
        "unknown flag '--episode' of 'eval', did you mean '--episodes'?");
  CHECK(usage_error({"--episodes"}) == "--episodes needs a value: --episodes N");
  CHECK(usage_error({"--json=1"}) == "--json takes no value");
  CHECK(usage_error({"--json", "--json"}) == "--json is given twice");
  CHECK_THROWS_WITH_AS(parse({"--episodes", "0"}).integer("--episodes", 1, 1),
                       "--episodes must be a whole number of at least 1, got '0'", UsageError);
  CHECK_THROWS_AS(parse({"--episodes", "5x"}).integer("--episodes", 1, 1), UsageError);
}

TEST_CASE("arguments: help lists every flag") {
  const std::string help = command_help(kCommand);
  CHECK(help.find("bessemer eval DIR") == 0);
  CHECK(help.find("--episodes N") != std::string::npos);
  CHECK(help.find("as JSON") != std::string::npos);
}
