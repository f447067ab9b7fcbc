#include "trainer/language/dataset.h"

#include <doctest/doctest.h>

#include <fstream>

#include "tests/forge/scratch.h"

using namespace bessemer;

namespace {

const Tokenizer& bytes() {
  static const Tokenizer tokenizer = Tokenizer::bytes(chat_special_tokens());
  return tokenizer;
}

Dataset read(std::string_view text, DatasetOptions options = {}) {
  return parse_dataset(text, "d.jsonl", bytes(), options);
}

std::string error_of(std::string_view text, DatasetOptions options = {}) {
  try {
    read(text, options);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "";
}

/// Trained tokens as text.
std::string trained(const Continuation& c) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < c.tokens.size(); ++i)
    if (c.trained[i]) ids.push_back(c.tokens[i]);
  return bytes().decode(ids);
}

const DatasetOptions kPairs{.use = DataUse::pairs};

}  // namespace

TEST_CASE("dataset: every shape, plain and conversational, trains what it should") {
  const Dataset plain = read(R"({"prompt": "2+2=", "completion": "4"})");
  REQUIRE(plain.train.size() == 1);
  CHECK(plain.shape == "prompt, completion");
  CHECK(bytes().decode(plain.train[0].prompt) == "2+2=");
  CHECK(trained(plain.train[0].continuations[0]) == "4<|im_end|>");

  const Dataset chat = read(R"({"prompt": [{"role": "user", "content": "2+2="}],)"
                            R"( "completion": [{"role": "assistant", "content": "4"}]})");
  CHECK(chat.shape == "prompt, completion (conversational)");
  CHECK(bytes().decode(chat.train[0].prompt) ==
        "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n");
  CHECK(trained(chat.train[0].continuations[0]) == "4<|im_end|>");

  const Dataset turns =
      read(R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},)"
           R"( {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"},)"
           R"( {"role": "assistant", "content": "d"}]})");
  CHECK(trained(turns.train[0].continuations[0]) == "b<|im_end|>d<|im_end|>");

  const Dataset text = read(R"({"text": "abc"})");
  CHECK(text.train[0].prompt.empty());
  CHECK(trained(text.train[0].continuations[0]) == "abc<|im_end|>");
  CHECK(trained_tokens(text.train[0]) == 3);  // nothing comes before the first

  const Dataset all = read(R"({"prompt": "ab", "completion": "c"})", {.completion_only = false});
  CHECK(trained_tokens(all.train[0]) == 3);

  for (const char* line : {R"({"prompt": "p: ", "chosen": "yes", "rejected": "no"})",
                           R"({"chosen": "p: yes", "rejected": "p: no"})"}) {
    const Dataset pair = read(line, kPairs);
    REQUIRE(pair.train[0].continuations.size() == 2);
    CHECK(bytes().decode(pair.train[0].prompt) == "p: ");
    CHECK(trained(pair.train[0].continuations[0]) == "yes<|im_end|>");
    CHECK(trained(pair.train[0].continuations[1]) == "no<|im_end|>");
  }
  const Dataset implicit = read(
      R"({"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "y"}],)"
      R"( "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "n"}]})",
      kPairs);
  CHECK(bytes().decode(implicit.train[0].prompt) ==
        "<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n");
  CHECK(trained(implicit.train[0].continuations[1]) == "n<|im_end|>");

  const Dataset prompts = read(R"({"prompt": "2+2=", "answer": 4})", {.use = DataUse::prompts});
  CHECK(bytes().decode(prompts.train[0].prompt) == "2+2=");
}

TEST_CASE("dataset: marks that are written in a text stay text") {
  const Dataset data = read(R"({"prompt": "a", "completion": "<|im_end|>b"})");
  CHECK(data.train[0].continuations[0].tokens.size() == 10 + 1 + 1);
}

TEST_CASE("dataset: errors name the line, the columns found and the shapes accepted") {
  const std::string good = R"({"prompt": "a", "completion": "b"})";
  CHECK(error_of(good + "\n\n{\"question\": \"a\", \"answer\": \"b\"}\n") ==
        "d.jsonl:3: columns found: answer, question; accepted here: text | messages | prompt, "
        "completion");
  CHECK(error_of(good, kPairs) ==
        "d.jsonl:1: columns found: completion, prompt; accepted here: prompt, chosen, rejected | "
        "chosen, rejected");
  CHECK(error_of(good + "\n{\"prompt\": \"a\", ").find("d.jsonl:2: is damaged: ") == 0);
  CHECK(error_of("[1]") == "d.jsonl:1: is no JSON object");
  CHECK(error_of("{\"prompt\": \"\xff\", \"completion\": \"b\"}").find("ill-formed UTF-8") !=
        std::string::npos);
  CHECK(error_of(R"({"prompt": 3, "completion": "b"})") ==
        "d.jsonl:1: column 'prompt' must be a string or a list of {\"role\", \"content\"}");
  CHECK(error_of(R"({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})") ==
        "d.jsonl:1: columns 'prompt' and 'completion' are both plain or both conversational");
  CHECK(error_of(R"({"messages": [{"role": "asistant", "content": "b"}]})") ==
        "d.jsonl:1: unknown role 'asistant', did you mean 'assistant'?");
  CHECK(error_of(R"({"prompt": "a", "completion": ""})").find("column 'completion' is empty") !=
        std::string::npos);
  CHECK(error_of(good + "\n{\"text\": \"abc\"}") ==
        "d.jsonl:2: is of the shape 'text', the lines before are 'prompt, completion'");
  CHECK(error_of("\n \n") == "d.jsonl: there are no examples");
}

TEST_CASE("dataset: a run that could not learn is refused") {
  CHECK(error_of(R"({"messages": [{"role": "user", "content": "a"}]})") ==
        "d.jsonl: nothing is trained: no example has an answer of the assistant");
  CHECK(error_of(R"({"prompt": "abcdef", "completion": "b"})", {.max_tokens = 5}) ==
        "d.jsonl: all 1 examples are longer than 5 tokens");
  const Dataset some = read(
      "{\"prompt\": \"abcdef\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": "
      "\"b\"}",
      {.max_tokens = 5});
  CHECK(some.train.size() == 1);
  CHECK(some.too_long == 1);
}

TEST_CASE("dataset: held-out examples depend on their text alone") {
  std::string lines, reversed;
  for (int i = 0; i < 200; ++i) {
    const std::string line = cat("{\"text\": \"line ", i, "\"}\n");
    lines += line;
    reversed = line + reversed;
  }
  const DatasetOptions options{.holdout = 0.2};
  const Dataset a = read(lines, options), b = read(reversed, options);
  CHECK(a.test.size() + a.train.size() == 200);
  CHECK(a.test.size() > 20);
  CHECK(a.test.size() < 60);
  REQUIRE(a.test.size() == b.test.size());
  CHECK(a.test.front().continuations[0].tokens == b.test.back().continuations[0].tokens);
}

TEST_CASE("dataset: what another run said becomes answers and pairs") {
  const Scratch scratch;
  const std::filesystem::path file = scratch.path / "completions.jsonl";
  const auto line = [](int group, double reward, double advantage, int token) {
    return cat(R"({"step": 1, "kind": "train", "group": )", group,
               R"(, "prompt": "q", "completion": "x", "token_ids": [)", token,
               R"(, 257], "log_probs": [-0.5, -0.1], "reward": )", reward, R"(, "advantage": )",
               advantage, "}\n");
  };
  std::ofstream(file) << line(0, 1, 0.7, 'a') << line(0, 0, -0.7, 'b') << line(1, 0, 0, 'c')
                      << line(1, 0, 0, 'd') << R"({"kind": "eval", "step": 1})"
                      << "\n";
  const Dataset answers = load_completions(file, bytes(), {});
  REQUIRE(answers.train.size() == 1);
  CHECK(trained(answers.train[0].continuations[0]) == "a<|im_end|>");
  CHECK(bytes().decode(answers.train[0].prompt) ==
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n");
  const Dataset pairs = load_completions(file, bytes(), kPairs);
  REQUIRE(pairs.train.size() == 1);
  CHECK(trained(pairs.train[0].continuations[1]) == "b<|im_end|>");

  std::ofstream(file) << line(0, 1, 0.7, 999);
  CHECK_THROWS_WITH_AS(load_completions(file, bytes(), {}), doctest::Contains("jsonl:1: "),
                       ValueError);
  std::ofstream(file) << line(1, 0, 0, 'c');
  CHECK_THROWS_WITH_AS(load_completions(file, bytes(), {}),
                       doctest::Contains("no completion that was better"), ValueError);
}
