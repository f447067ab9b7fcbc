// The example of docs/environments.md is the file that is compiled here, and it works.
#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "core/base/error.h"
#include "tests/envs/fixture.h"

using namespace bessemer;

namespace {
std::string source(const std::string& path) {
  std::ifstream file(std::string(BESSEMER_SOURCE_ROOT) + "/" + path);
  REQUIRE(file.good());
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
}  // namespace

TEST_CASE("the documentation shows the example as it is compiled") {
  const std::string doc = source("docs/environments.md"), code = source("tests/envs/corridor.cpp");
  CHECK(doc.find("```cpp\n" + code + "```") != std::string::npos);
}

TEST_CASE("the example steps, ends and keeps its options") {
  Stepped env("Corridor-v0", {.num_envs = 4, .options = {{"length", "6"}, {"slip", "0"}}});
  env.reset_all(0);
  int steps = 0;
  for (; !env.terminated[0] || steps == 0; ++steps) env.step<int64_t>({1, 1, 1, 1});
  CHECK(env.obs[0] == 1);
  CHECK(env.reward[0] == 1);
  CHECK(steps <= 5);
  CHECK(env.episode_length[0] == steps);
  CHECK_THROWS_WITH_AS(make_batch("Corridor-v0", {.options = {{"slip", "2"}}}),
                       "[env] Corridor-v0: slip is 2, allowed are 0 to 1", ValueError);
}
