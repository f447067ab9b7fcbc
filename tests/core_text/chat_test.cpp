#include "core/text/chat.h"

#include <doctest/doctest.h>

#include <algorithm>

using namespace bessemer;

TEST_CASE("turns are appended, and every token has an author") {
  const Tokenizer t = Tokenizer::bytes(chat_special_tokens());
  Chat chat(t);
  chat.add(Role::user, "2+2? <|im_end|>");
  const int64_t before = chat.ledger().size();
  CHECK(t.decode(chat.ledger().tokens) == "<|im_start|>user\n2+2? <|im_end|><|im_end|>\n");
  // The mark inside the text stayed text: exactly one end token.
  CHECK(std::count(chat.ledger().tokens.begin(), chat.ledger().tokens.end(), chat.end_token()) ==
        1);

  chat.open_assistant();
  CHECK_THROWS_AS(chat.add(Role::user, "now"), ValueError);
  CHECK_THROWS_AS(chat.sampled(9999, 0, 1), IndexError);
  chat.sampled('4', -0.25f, 7);
  chat.sampled(chat.end_token(), -0.5f, 7);
  CHECK_FALSE(chat.open());
  CHECK_THROWS_AS(chat.sampled('5', 0, 7), ValueError);
  CHECK(chat.last_answer() == "4");
  const TokenLedger& ledger = chat.ledger();
  CHECK(t.decode(std::span(ledger.tokens).subspan(static_cast<size_t>(before))) ==
        "<|im_start|>assistant\n4<|im_end|>\n");
  int trained = 0;
  for (size_t i = 0; i < ledger.tokens.size(); ++i) {
    CHECK((ledger.author[i] == Author::model) == (ledger.trained[i] == 1));
    CHECK((ledger.weight_version[i] == 7) == (ledger.trained[i] == 1));
    trained += ledger.trained[i];
  }
  CHECK(trained == 2);  // the answer and its end mark
}

TEST_CASE("a turn cut off by the length limit gets an untrained end") {
  const Tokenizer t = Tokenizer::bytes(chat_special_tokens());
  Chat chat(t);
  chat.open_assistant();
  chat.sampled('a', -1, 1);
  chat.close_assistant();
  CHECK(t.decode(chat.ledger().tokens) == "<|im_start|>assistant\na<|im_end|>\n");
  CHECK(chat.ledger().trained.back() == 0);
  chat.add(Role::tool, "42");
  CHECK(t.decode(chat.ledger().tokens).ends_with("<|im_start|>tool\n42<|im_end|>\n"));
}

TEST_CASE("a tokenizer without the marks, a wrong role: typed errors") {
  const Tokenizer plain = Tokenizer::bytes({});
  CHECK_THROWS_AS(Chat{plain}, ValueError);
  CHECK_THROWS_WITH_AS(role_parse("asistant"), "unknown role 'asistant', did you mean 'assistant'?",
                       ValueError);
  CHECK(role_parse("tool") == Role::tool);
}
