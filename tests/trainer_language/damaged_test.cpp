// Data and checkpoints that somebody damaged: a typed error or a trainer that goes on, within the
// memory that the file accounts for.
#include <doctest/doctest.h>

#include <fstream>

#include "core/base/text_file.h"
#include "tests/forge/scratch.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"
#include "tests/trainer_language/toy.h"
#include "trainer/language/dataset.h"
#include "trainer/language/sft.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

constexpr const char* kSupervised =
    R"({"messages": [{"role": "user", "content": "1+2="}, {"role": "assistant", "content": "3"}]}
{"messages": [{"role": "system", "content": "Sum."}, {"role": "assistant", "content": "né"}]}
)";
constexpr const char* kCompletion =
    R"({"prompt": "a", "completion": "b"}
{"prompt": "c \ud83d\ude00", "completion": "d\n"}
)";
constexpr const char* kPairLines =
    R"({"prompt": "q", "chosen": "good", "rejected": "bad"}
{"prompt": "", "chosen": "g\u00e9", "rejected": "g\u00e8"}
)";
constexpr const char* kSaid =
    R"({"step": 1, "kind": "train", "group": 0, "prompt": "q", "completion": "a", "token_ids": [97, 257], "log_probs": [-0.5, -0.1], "reward": 1, "rewards": {}, "advantage": 0.7}
{"step": 1, "kind": "train", "group": 0, "prompt": "q", "completion": "b", "token_ids": [98, 257], "log_probs": [-0.5, null], "reward": 0, "rewards": {}, "advantage": -0.7}
)";

const Tokenizer& bytes() {
  static const std::vector<std::string> special = chat_special_tokens();
  static const Tokenizer tokenizer = Tokenizer::bytes(special);
  return tokenizer;
}

/// Every example is one that can be packed: tokens of the vocabulary, a mask of the same length.
void check_examples(const Dataset& data) {
  for (const std::vector<Text>* texts : {&data.train, &data.test})
    for (const Text& text : *texts)
      for (const Continuation& c : text.continuations) {
        CHECK(c.tokens.size() == c.trained.size());
        for (const int32_t id : c.tokens) CHECK((id >= 0 && id < bytes().size()));
      }
}

void write(const fs::path& path, const std::string& text) {
  fs::remove(path);  // rewriting in place makes some file systems flush
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("dataset: damaged lines are read or refused, within their memory") {
  uint64_t read = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(400);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    DatasetOptions options;
    options.use = static_cast<DataUse>(round % 3);
    options.max_tokens = round % 2 ? 64 : 0;
    const char* good = options.use == DataUse::pairs ? kPairLines
                       : round % 2                   ? kSupervised
                                                     : kCompletion;
    const std::string text = damaged(good, round);
    const PeakMemory peak;
    try {
      check_examples(parse_dataset(text, "d.jsonl", bytes(), options));
      ++read;
    } catch (const ValueError& error) {
      CHECK(std::string_view(error.what()).starts_with("d.jsonl"));
      ++refused;
    }
    CHECK(peak.bytes() < memory_allowed(text.size()));
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("dataset: damaged completions of a run are read or refused, within their memory") {
  const Scratch scratch;
  const fs::path path = scratch.path / "completions.jsonl";
  uint64_t read = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(300);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const std::string text = damaged(kSaid, round);
    write(path, text);
    DatasetOptions options;
    options.use = round % 2 ? DataUse::pairs : DataUse::supervised;
    const PeakMemory peak;
    try {
      check_examples(load_completions(path, bytes(), options));
      ++read;
    } catch (const ValueError&) {
      ++refused;
    }
    try {
      dataset_strings(path);
    } catch (const ValueError&) {
    }
    CHECK(peak.bytes() < memory_allowed(text.size()));
  }
  CHECK(read > 0);
  CHECK(refused > 0);
}

TEST_CASE("dataset: what is no whole number of its range is no token") {
  const Scratch scratch;
  const fs::path path = scratch.path / "completions.jsonl";
  for (const char* token : {"97.5", "-1", "4294967393", "18446744073709551615", "true", "null"}) {
    CAPTURE(token);
    std::string text = kSaid;
    text.replace(text.find("97"), 2, token);
    write(path, text);
    CHECK_THROWS_WITH_AS(load_completions(path, bytes(), {}), doctest::Contains("jsonl:1: "),
                         ValueError);
  }
  CHECK_THROWS_WITH_AS(load_dataset(scratch.path, bytes(), {}), doctest::Contains("folder"),
                       IoError);
}

TEST_CASE("checkpoint of a language run: damaged files load or are refused") {
  ThreadPool pool(1);
  RunConfig config = toy_config("sft");
  config.model.decoder.hidden_size = 8;
  config.model.decoder.num_attention_heads = 1;
  config.model.decoder.num_hidden_layers = 1;
  config.trainer.batch_size = 2;
  const Scratch scratch;
  Sft trainer(config, pool, low_bytes());
  Metrics metrics;
  trainer.iterate(metrics);
  trainer.save(scratch.path);
  const std::string weights = weights_of(trainer);
  constexpr const char* kFiles[] = {"state.json", "train.safetensors", "model.safetensors",
                                    "config.json"};
  uint64_t loaded = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(160);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const fs::path path = scratch.path / kFiles[round % 4];
    const std::string good = read_text_file(path.string());
    // Elements are whatever they are: the damage is done to what describes them.
    const size_t header = path.extension() == ".json" ? good.size() : good.find("}}") + 2;
    write(path, damaged(good.substr(0, header), round) + good.substr(header));
    try {
      trainer.load(scratch.path);
      ++loaded;
    } catch (const Error&) {
      ++refused;
    }
    write(path, good);
  }
  CHECK(loaded > 0);
  CHECK(refused > rounds / 4);
  trainer.load(scratch.path);
  CHECK(weights_of(trainer) == weights);
  trainer.iterate(metrics);
}

TEST_CASE("checkpoint of a language run: counters are counts") {
  ThreadPool pool(1);
  const Scratch scratch;
  RunConfig config = toy_config("sft");
  Sft trainer(config, pool, low_bytes());
  trainer.save(scratch.path);
  const fs::path path = scratch.path / "state.json";
  const std::string good = read_text_file(path.string());
  for (const char* value : {"-5", "1.5", "1e300", "18446744073709551615", "null", "[]"}) {
    CAPTURE(value);
    std::string text = good;
    const std::string key = "\"items\": ";
    const size_t at = text.find(key) + key.size();
    text.replace(at, text.find_first_of(",\n", at) - at, value);
    write(path, text);
    CHECK_THROWS_WITH_AS(trainer.load(scratch.path), doctest::Contains("'items'"), ValueError);
  }
}
