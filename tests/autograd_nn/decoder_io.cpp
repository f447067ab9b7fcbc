#include "autograd/nn/decoder_io.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "core/io/safetensors.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"

using namespace bessemer;
using namespace bessemer::nn;

namespace {

struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "bessemer_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

DecoderConfig tiny() {
  DecoderConfig c;
  c.vocab_size = 11;
  c.hidden_size = 8;
  c.intermediate_size = 12;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.max_position_embeddings = 64;
  c.rope_theta = 12345.5;
  return c;
}

void check_equal(const Module& a, const Module& b) {
  const NamedTensors x = a.named_parameters(), y = b.named_parameters();
  REQUIRE(x.size() == y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    CHECK(x[i].first == y[i].first);
    CHECK(std::memcmp(x[i].second.raw(), y[i].second.raw(),
                      static_cast<size_t>(x[i].second.numel()) * 4) == 0);
  }
}

/// The text of config.json with one value replaced ("null" removes it in effect).
std::string changed(const std::string& key, const std::string& value) {
  std::string json = decoder_config_json(tiny());
  const size_t at = json.find("\"" + key + "\": ");
  REQUIRE(at != std::string::npos);
  const size_t from = at + key.size() + 4, to = json.find_first_of(",\n", from);
  return json.replace(from, to - from, value);
}
std::string refusal(const std::string& json) {
  try {
    parse_decoder_config(json, "config.json");
  } catch (const ValueError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("decoder folder: written and read back bit for bit") {
  for (const bool tied : {true, false}) {
    Folder folder;
    DecoderConfig c = tiny();
    c.tie_word_embeddings = tied;
    const Decoder decoder(c, 7);
    save_decoder(folder.path / "sub" / "model", decoder);
    const LoadedDecoder loaded = load_decoder(folder.path / "sub" / "model");
    CHECK(loaded.decoder->config() == decoder.config());
    CHECK_FALSE(loaded.head);
    check_equal(decoder, *loaded.decoder);
    for (const Tensor& w : loaded.decoder->parameters()) CHECK(w.requires_grad());
    const Decoder other(c, 8);
    load_decoder_weights(folder.path / "sub" / "model", other);
    check_equal(decoder, other);
    const ScalarHead head(8, 1);
    CHECK_THROWS_WITH_AS(load_decoder_weights(folder.path / "sub" / "model", other, &head),
                         doctest::Contains("score.weight"), ValueError);
  }
}

TEST_CASE("decoder folder: a head comes along") {
  Folder folder;
  const Decoder decoder(tiny(), 7);
  const ScalarHead head(8, 3), other(8, 4);
  save_decoder(folder.path, decoder, &head, {.eos = 2});
  CHECK(read_bytes(folder.path / "config.json").find("LlamaForSequenceClassification") !=
        std::string::npos);
  const LoadedDecoder loaded = load_decoder(folder.path, {.compute = Dtype::bf16});
  REQUIRE(loaded.head);
  CHECK(loaded.decoder->config().compute == Dtype::bf16);
  check_equal(head, *loaded.head);
  load_decoder_weights(folder.path, decoder, &other);
  check_equal(head, other);
}

TEST_CASE("decoder folder: half-precision files and a tied head written out are read") {
  Folder folder;
  const Decoder decoder(tiny(), 7);
  save_decoder(folder.path, decoder);
  std::vector<std::pair<std::string, Tensor>> half;
  for (const auto& [name, tensor] : decoder.named_parameters())
    half.emplace_back(name, cast(tensor.detach(), Dtype::bf16));
  half.emplace_back("lm_head.weight", half[0].second);
  save_safetensors((folder.path / "model.safetensors").string(), half);
  const LoadedDecoder loaded = load_decoder(folder.path);
  const auto a = decoder.output_weight().values<float>();
  const auto b = loaded.decoder->output_weight().values<float>();
  for (size_t i = 0; i < a.size(); ++i) CHECK(b[i] == doctest::Approx(a[i]).epsilon(0.01));
}

TEST_CASE("decoder folder: another shape or vocabulary is named") {
  Folder folder;
  const Decoder decoder(tiny(), 7);
  save_decoder(folder.path, decoder);
  DecoderConfig like = tiny();
  like.vocab_size = 12;
  CHECK_THROWS_WITH_AS(load_decoder(folder.path, like),
                       doctest::Contains("has vocab_size 11, expected 12"), ValueError);
  write_bytes(folder.path / "config.json", changed("vocab_size", "12"));
  CHECK_THROWS_WITH_AS(load_decoder(folder.path),
                       doctest::Contains("model.embed_tokens.weight has shape (11, 8)"),
                       ValueError);
  write_bytes(folder.path / "config.json", changed("num_hidden_layers", "3"));
  CHECK_THROWS_WITH_AS(load_decoder(folder.path), doctest::Contains("has no model.layers.2."),
                       ValueError);
  write_bytes(folder.path / "config.json", changed("num_hidden_layers", "1"));
  CHECK_THROWS_WITH_AS(load_decoder(folder.path), doctest::Contains("does not have"), ValueError);
  write_bytes(folder.path / "config.json", changed("num_hidden_layers", "4000"));
  CHECK_THROWS_WITH_AS(load_decoder(folder.path), doctest::Contains("too few"), ValueError);
  CHECK_THROWS_AS(load_decoder(folder.path / "none"), IoError);
}

TEST_CASE("decoder config: what is not this decoder is refused by name") {
  CHECK(parse_decoder_config(decoder_config_json(tiny()), "x") == tiny().checked());
  CHECK(refusal("{").find("is not JSON") != std::string::npos);
  CHECK(refusal("[]").find("is not an object") != std::string::npos);
  CHECK(refusal("{}").find("has no vocab_size") != std::string::npos);
  CHECK(refusal(changed("model_type", "\"qwen3\"")).find("'qwen3'") != std::string::npos);
  CHECK(refusal(changed("hidden_act", "\"gelu\"")).find("gelu") != std::string::npos);
  CHECK(refusal(changed("attention_bias", "true")).find("attention_bias") != std::string::npos);
  CHECK(refusal(changed("attention_bias", "3")).find("neither true nor false") !=
        std::string::npos);
  CHECK(refusal(changed("vocab_size", "11.5")).find("not an integer") != std::string::npos);
  CHECK(refusal(changed("vocab_size", "18446744073709551615")).find("out of range") !=
        std::string::npos);
  CHECK(refusal(changed("hidden_size", "-8")).find("hidden_size") != std::string::npos);
  CHECK(refusal(changed("rope_scaling", "{\"rope_type\": \"llama3\"}")).find("llama3") !=
        std::string::npos);
  CHECK(refusal(changed("rope_theta", "\"big\"")).find("rope_theta") != std::string::npos);
  // Newer files keep theta in rope_parameters.
  const DecoderConfig c =
      parse_decoder_config(changed("rope_scaling",
                                   "null, \"rope_parameters\": {\"rope_type\": \"default\", "
                                   "\"rope_theta\": 77}"),
                           "x");
  CHECK(c.rope_theta == 77);
}

TEST_CASE("decoder folder: damaged files load or are refused, within their memory") {
  Folder folder;
  const Decoder decoder(tiny(), 7);
  save_decoder(folder.path, decoder);
  const std::string config = read_bytes(folder.path / "config.json");
  const std::string weights = read_bytes(folder.path / "model.safetensors");
  const size_t header = weights.find("}}") + 2;
  uint64_t accepted = 0, refused = 0;
  const uint64_t rounds = fuzz_rounds(400);
  for (uint64_t round = 0; round < rounds; ++round) {
    const bool of_config = round % 2 == 0;
    const std::string bytes =
        of_config ? damaged(config, round)
                  : damaged(weights.substr(0, header), round) + weights.substr(header);
    CAPTURE(round);
    write_bytes(folder.path / "config.json", of_config ? bytes : config);
    write_bytes(folder.path / "model.safetensors", of_config ? weights : bytes);
    const PeakMemory peak;
    try {
      const LoadedDecoder loaded = load_decoder(folder.path);
      CHECK(loaded.decoder->config().checked() == loaded.decoder->config());
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
    CHECK(peak.bytes() < memory_allowed(bytes.size() + weights.size()));
  }
  CHECK(accepted > 0);
  CHECK(refused > rounds / 4);
}
