#include "forge/completions.h"

#include <doctest/doctest.h>

#include <fstream>

#include "core/base/error.h"
#include "tests/forge/scratch.h"

namespace bessemer {
namespace {

constexpr const char* kLines =
    R"({"step": 1, "group": 0, "prompt": "2+3=", "completion": "5", "tokens": ["5"], "log_probs": [-0.1], "reward": 1, "rewards": {"solved": 1, "format": 1}, "advantage": 0.5, "finish": "stop"}
{"step": 1, "group": 0, "prompt": "2+3=", "completion": "<6>\n", "tokens": ["<6>", "\n"], "log_probs": [-5, null], "reward": 0, "rewards": {"solved": 0}, "advantage": -0.5, "finish": "length"}
{"step": 2, "group": 0, "prompt": "1+1=", "completion": "2", "reward": null, "finish": "stop"}
{"step": 2, "prompt": "cut)";

std::vector<ShownCompletion> written(const Scratch& scratch, const std::string& text,
                                     std::optional<int64_t> step = std::nullopt) {
  const std::string path = scratch / "completions.jsonl";
  std::ofstream(path) << text;
  return read_completions(path, step);
}

TEST_CASE("completions: a line cut off is left out, a damaged one is named") {
  const Scratch scratch;
  const auto all = written(scratch, kLines);
  REQUIRE(all.size() == 3);
  CHECK(all[0].rewards.size() == 2);
  CHECK(*all[0].advantage == 0.5);
  CHECK(*all[1].tokens[0].log_prob == -5);
  CHECK_FALSE(all[1].tokens[1].log_prob);
  CHECK_FALSE(all[2].reward);
  CHECK(written(scratch, kLines, 2).size() == 1);
  CHECK(written(scratch, kLines, 7).empty());
  for (const char* bad :
       {"{\"step\": 1}\n", "[]\n", "nonsense\n", "{\"step\": \"a\"}\n",
        "{\"step\": 1, \"prompt\": 3, \"completion\": \"\"}\n",
        "{\"step\": 1, \"prompt\": \"\", \"completion\": \"\", \"tokens\": [\"a\"], "
        "\"log_probs\": []}\n"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(written(scratch, bad), doctest::Contains("completions.jsonl:1"),
                         ValueError);
  }
}

TEST_CASE("completions: the table and the page show the same measures") {
  const Scratch scratch;
  const auto all = written(scratch, kLines);
  const std::string plain = completions_text(all, false, 80);
  CHECK(plain.find('\x1b') == std::string::npos);
  CHECK(plain.find("reward 1  format 1  solved 1  advantage 0.5  finish stop") !=
        std::string::npos);
  CHECK(plain.find("<6>\u21b5") != std::string::npos);
  const std::string colour = completions_text(all, true, 80);
  CHECK(colour.find("\x1b[38;2;") != std::string::npos);
  const std::string page = completions_html(all, "runs/<a>");
  CHECK(page.find("&lt;6&gt;") != std::string::npos);
  CHECK(page.find("runs/&lt;a&gt;") != std::string::npos);
  CHECK(page.find("<6>") == std::string::npos);
  CHECK(page.find("p = 0.905") != std::string::npos);
}

TEST_CASE("completions: controls in a text steer neither a terminal nor a page") {
  ShownCompletion c;
  c.prompt = "\x1b[2J\u009b31m";
  c.completion = "\ta\r";
  c.tokens = {{"\ta\r</span>", -1.0}};
  const std::string plain = completions_text({&c, 1}, false, 80);
  CHECK(plain.find("\u00b7[2J\u00b731m") != std::string::npos);
  CHECK(plain.find("\u00b7a\u00b7") != std::string::npos);
  const std::string page = completions_html({&c, 1}, "runs/a");
  CHECK(page.find_first_of("\x1b\r") == std::string::npos);
  CHECK(page.find("&lt;/span&gt;") != std::string::npos);
}

TEST_CASE("completions: a character made of two tokens is coloured as one") {
  ShownCompletion c;
  c.prompt = "a";
  c.completion = "\u00e4b";
  c.tokens = {{"\xc3", -1.0}, {"\xa4", -0.1}, {"b", 0.0}};
  const std::string colour = completions_text({&c, 1}, true, 80);
  CHECK(colour.find("\u00e4") != std::string::npos);
}

}  // namespace
}  // namespace bessemer
