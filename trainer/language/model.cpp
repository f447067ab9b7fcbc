#include "trainer/language/model.h"

#include <charconv>

#include "autograd/engine.h"
#include "autograd/nn/decoder_io.h"
#include "core/text/chat.h"
#include "trainer/checkpoint.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

Dtype compute_dtype(const DecoderKeys& keys) {
  return keys.dtype == "bf16" ? Dtype::bf16 : Dtype::f32;
}

/// What the recipe says of the shape must be true of the weights.
void check_shape(const DecoderKeys& keys, const nn::DecoderConfig& found, const fs::path& folder) {
  const auto check = [&](const char* name, const std::optional<int64_t>& wanted, int64_t has) {
    BESSEMER_CHECK(!wanted || *wanted == has, ValueError, "model.", name, " is ", *wanted, ", but ",
                   folder.string(), " has ", has);
  };
  check("hidden_size", keys.hidden_size, found.hidden_size);
  check("num_hidden_layers", keys.num_hidden_layers, found.num_hidden_layers);
  check("num_attention_heads", keys.num_attention_heads, found.num_attention_heads);
  check("num_key_value_heads", keys.num_key_value_heads, found.num_key_value_heads);
  check("intermediate_size", keys.intermediate_size, found.intermediate_size);
  check("max_position_embeddings", keys.max_position_embeddings, found.max_position_embeddings);
}

Tokenizer new_tokenizer(const DecoderKeys& keys,
                        const std::function<std::vector<std::string>()>& texts) {
  const std::vector<std::string> special = chat_special_tokens();
  if (keys.vocabulary == "bytes") return Tokenizer::bytes(special);
  int64_t size = 0;
  std::from_chars(keys.vocabulary.data(), keys.vocabulary.data() + keys.vocabulary.size(), size);
  return Tokenizer::train(texts(), size, special);
}

}  // namespace

nn::NamedTensors LanguageModel::named() const {
  nn::NamedTensors out = decoder->named_parameters();
  if (head) head->collect("", out);
  return out;
}

fs::path weights_folder(const std::string& path) {
  if (fs::exists(fs::path(path) / "config.json")) return path;
  const fs::path newest = latest_checkpoint(fs::path(path) / "checkpoints");
  BESSEMER_CHECK(!newest.empty() && fs::exists(newest / "config.json"), ValueError, path,
                 " holds no language model: neither config.json nor a checkpoint that has one");
  return newest;
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& folder, int64_t vocabulary) {
  auto out = std::make_unique<Tokenizer>(Tokenizer::load(folder / "tokenizer.json"));
  BESSEMER_CHECK(out->size() <= vocabulary, ValueError, (folder / "tokenizer.json").string(),
                 " has ", out->size(), " tokens, the weights beside it only ", vocabulary);
  for (const std::string& mark : chat_special_tokens())
    BESSEMER_CHECK(out->has_special(mark), ValueError, (folder / "tokenizer.json").string(),
                   " has no special token ", mark, ", which the chat template needs");
  return out;
}

nn::DecoderConfig decoder_shape(const DecoderKeys& keys, int64_t vocabulary) {
  nn::DecoderConfig out;
  out.vocab_size = vocabulary;
  out.hidden_size = keys.hidden_size.value_or(128);
  out.num_hidden_layers = keys.num_hidden_layers.value_or(4);
  out.num_attention_heads =
      keys.num_attention_heads.value_or(std::max<int64_t>(1, out.hidden_size / 32));
  out.num_key_value_heads = keys.num_key_value_heads.value_or(out.num_attention_heads);
  out.intermediate_size = keys.intermediate_size.value_or((out.hidden_size * 8 / 3 + 31) / 32 * 32);
  out.max_position_embeddings = keys.max_position_embeddings.value_or(256);
  out.rope_theta = keys.rope_theta.value_or(10000);
  out.tie_word_embeddings = keys.tie_word_embeddings;
  out.compute = compute_dtype(keys);
  out.checkpoint = keys.checkpoint;
  try {
    return out.checked();
  } catch (const ValueError& error) {
    fail<ValueError>("model: ", error.what());
  }
}

LanguageModel make_language_model(const RunConfig& config, bool head,
                                  const std::function<std::vector<std::string>()>& texts) {
  const DecoderKeys& keys = config.model.decoder;
  const auto seed = static_cast<uint64_t>(config.seed);
  LanguageModel out;
  const std::string from = config.init.folder.empty() ? keys.path.value_or("") : config.init.folder;
  if (from.empty()) {
    out.tokenizer = std::make_unique<Tokenizer>(new_tokenizer(keys, texts));
    out.decoder = std::make_unique<nn::Decoder>(decoder_shape(keys, out.tokenizer->size()), seed);
  } else {
    const fs::path folder = weights_folder(from);
    nn::DecoderConfig like;
    like.compute = compute_dtype(keys);
    like.checkpoint = keys.checkpoint;
    nn::LoadedDecoder loaded = nn::load_decoder(folder, like);
    check_shape(keys, loaded.decoder->config(), folder);
    out.tokenizer = load_tokenizer(folder, loaded.decoder->config().vocab_size);
    out.decoder = std::move(loaded.decoder);
    if (head) out.head = std::move(loaded.head);
  }
  // Another key than the decoder's, so that the two share no draws.
  if (head && !out.head)
    out.head = std::make_unique<nn::ScalarHead>(out.decoder->config().hidden_size, ~seed);
  for (auto& [name, tensor] : out.named()) set_requires_grad(tensor);
  return out;
}

LanguageModel load_reward_model(const std::string& path, const DecoderKeys& keys,
                                const Tokenizer& like) {
  const fs::path folder = weights_folder(path);
  nn::DecoderConfig wanted;
  wanted.compute = compute_dtype(keys);
  nn::LoadedDecoder loaded = nn::load_decoder(folder, wanted);
  BESSEMER_CHECK(loaded.head, ValueError, "reward.model: ", folder.string(),
                 " is no reward model: it has no score.weight");
  LanguageModel out;
  out.tokenizer = load_tokenizer(folder, loaded.decoder->config().vocab_size);
  BESSEMER_CHECK(out.tokenizer->hash() == like.hash(), ValueError,
                 "reward.model: ", folder.string(),
                 " reads another vocabulary than the policy writes");
  out.decoder = std::move(loaded.decoder);
  out.head = std::move(loaded.head);
  for (auto& [name, tensor] : out.named()) set_requires_grad(tensor, false);
  return out;
}

std::unique_ptr<nn::Decoder> frozen_copy(const nn::Decoder& decoder) {
  auto out = std::make_unique<nn::Decoder>(decoder.config(), 0);
  const NoGrad no_grad;
  const nn::NamedTensors from = decoder.named_parameters(), to = out->named_parameters();
  for (size_t i = 0; i < to.size(); ++i) {
    set_requires_grad(to[i].second, false);
    assign(to[i].second, from[i].second.detach());
  }
  return out;
}

}  // namespace bessemer
