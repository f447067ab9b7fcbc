#include "core/text/tokenizer.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "core/base/rng.h"
#include "core/text/utf8.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"

using namespace bessemer;

namespace {
const std::vector<std::string> kSpecial = {"<|end|>", "<|user|>"};
const std::vector<std::string> kTexts = {"the cat sat on the mat; the cat sat.",
                                         "the dog isn't on the mat, it's 12 or 1234 metres away",
                                         "the cat sat on the mat; the cat sat.",
                                         "the dog isn't on the mat, it's 12 or 1234 metres away",
                                         "naïve café – 東京 の 東京タワー",
                                         "naïve café",
                                         "   spaces\n\n\tand tabs  "};

std::string random_bytes(uint64_t seed, int length) {
  std::string out;
  for (int i = 0; i < length; ++i)
    out +=
        static_cast<char>(Rng{seed}.at(static_cast<uint64_t>(i)).word[0] % (seed % 2 ? 256 : 128));
  return out;
}
}  // namespace

TEST_CASE("the byte vocabulary holds bytes and special tokens") {
  const Tokenizer t = Tokenizer::bytes(kSpecial);
  CHECK(t.size() == 258);
  CHECK(t.special("<|user|>") == 257);
  CHECK(t.encode("ab<|end|>c") == std::vector<int32_t>{97, 98, 256, 99});
  CHECK(t.encode("<|end|>", false).size() == 7);  // as text
  CHECK(t.decode(std::vector<int32_t>{97, 256, 98}) == "a<|end|>b");
  CHECK(t.decode(std::vector<int32_t>{97, 256, 98}, true) == "ab");
  CHECK_THROWS_AS(t.decode(std::vector<int32_t>{258}), IndexError);
  CHECK_THROWS_AS(t.token(-1), IndexError);
  CHECK_THROWS_WITH_AS(t.special("<|edn|>"), "no special token '<|edn|>', did you mean '<|end|>'?",
                       ValueError);
}

TEST_CASE("training merges the most frequent pairs, and every text comes back") {
  const Tokenizer t = Tokenizer::train(kTexts, 300, kSpecial);
  CHECK(t.size() == 300);
  CHECK(t.encode("the").size() == 1);
  CHECK(t.encode(" the cat").size() < 6);
  for (const std::string& text : kTexts) CHECK(t.decode(t.encode(text)) == text);
  for (uint64_t seed = 0; seed < 200; ++seed) {  // any bytes, valid or not
    const std::string text = random_bytes(seed, static_cast<int>(seed));
    REQUIRE(t.decode(t.encode(text, false)) == text);
  }
  CHECK_THROWS_AS(Tokenizer::train(kTexts, 257, kSpecial), ValueError);
  CHECK(Tokenizer::train({}, 5000, {}).size() == 256);  // nothing to merge
}

TEST_CASE("tokenizer.json comes back as it was") {
  const Tokenizer t = Tokenizer::train(kTexts, 320, kSpecial);
  const Tokenizer back = Tokenizer::parse(t.json(), "memory");
  CHECK(back.hash() == t.hash());
  CHECK(back.json() == t.json());
  for (const std::string& text : kTexts) CHECK(back.encode(text) == t.encode(text));
  CHECK(Tokenizer::bytes({}).hash() != t.hash());
  CHECK_THROWS_AS(Tokenizer::load("no/such/file.json"), IoError);
}

TEST_CASE("a damaged tokenizer.json is a typed error that names the file") {
  const auto refused = [](const std::string& json, const char* part) {
    try {
      Tokenizer::parse(json, "t.json");
    } catch (const ValueError& error) {
      const std::string text = error.what();
      INFO(text);
      CHECK(text.starts_with("t.json: "));
      CHECK(text.find(part) != std::string::npos);
      return;
    }
    FAIL("accepted: ", part);
  };
  refused("{", "not a JSON object");
  refused("{}", "'model' is missing");
  refused(R"({"model": {"type": "Unigram"}})", "not BPE");
  const std::string good = Tokenizer::train(kTexts, 300, kSpecial).json();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  refused(with("\"normalizer\": null", R"("normalizer": {"type": "NFC"})"), "NFC");
  refused(with("\"id\": 298", "\"id\": 900"), "gap");
  refused(with("\"type\": \"Split\"", "\"type\": \"Metaspace\""), "Metaspace");
  refused(with("\\\\p{L}", "\\\\p{"), "does not compile");
}

TEST_CASE("a damaged file loads or is refused, within its memory") {
  const std::string good = Tokenizer::train(kTexts, 280, kSpecial).json();
  uint64_t loaded = 0;
  const uint64_t rounds = fuzz_rounds(300);
  for (uint64_t round = 0; round < rounds; ++round) {
    const std::string text = damaged(good, round);
    CAPTURE(round);
    const PeakMemory peak;
    try {
      const Tokenizer t = Tokenizer::parse(text, "fuzz");
      CHECK(t.size() > 0);
      t.encode("the cat <|end|>");
      CHECK(t.json().size() > 0);
      ++loaded;
    } catch (const Error&) {
    }
    CHECK(peak.bytes() < memory_allowed(text.size()));
  }
  CHECK(loaded > 0);
  CHECK(loaded < rounds);
}

TEST_CASE("long texts of one kind, which patterns match by trial, are split all the same") {
  const Tokenizer t = Tokenizer::train(kTexts, 280, kSpecial);
  for (const std::string piece : {" ", "a", "1", "!", "\n", "\xff", " a", "'s", "\xe6\x9d\xb1"}) {
    std::string text;
    while (text.size() < 20'000) text += piece;
    CHECK(t.decode(t.encode(text)) == text);
  }
}

TEST_CASE("what a terminal is shown cannot steer it") {
  CHECK(utf8_printable("a\tb\n\u00e9") == "a\tb\n\u00e9");
  CHECK(utf8_printable("\x1b[2J\r\x7f\xc2\x9b") == "\u00b7[2J\u00b7\u00b7\u00b7");
  CHECK(utf8_printable("\xff\xe6\x9d") == "\ufffd\ufffd");
}

TEST_CASE("UTF-8 arrives in pieces") {
  const std::string text = "aé東😀z";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Utf8Decoder decoder;
    std::string out = decoder.push(text.substr(0, cut));
    for (size_t i = 0; i < out.size();) {  // only whole characters so far
      const int length = utf8_sequence(std::string_view(out).substr(i));
      REQUIRE(length > 0);
      i += static_cast<size_t>(length);
    }
    out += decoder.push(text.substr(cut));
    out += decoder.finish();
    REQUIRE(out == text);
  }
  Utf8Decoder decoder;
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(decoder.push("a\xE6\x9D"
                     "b\xFF") == "a" + bad + "b" + bad);
  CHECK(decoder.push("\xC0\xAF") == bad + bad);            // overlong
  CHECK(decoder.push("\xED\xA0\x80") == bad + bad + bad);  // surrogate
  CHECK(decoder.push("\xF0\x9F").empty());
  CHECK(decoder.finish() == bad);
  CHECK(decoder.finish().empty());
}
