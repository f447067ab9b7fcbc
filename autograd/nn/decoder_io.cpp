#include "autograd/nn/decoder_io.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/engine.h"
#include "core/base/text_file.h"
#include "core/io/safetensors.h"

namespace bessemer::nn {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kLanguageModel = "LlamaForCausalLM";
constexpr const char* kScoreModel = "LlamaForSequenceClassification";
constexpr const char* kScore = "score.weight";
constexpr const char* kHead = "lm_head.weight";

/// Typed reading of config.json.
class Reader {
 public:
  Reader(const Json& json, const std::string& name) : json_(json), name_(name) {
    if (!json.is_object()) wrong("is not an object");
  }

  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    fail<ValueError>("[decoder] ", name_, " ", parts...);
  }
  /// Null where it is absent or null.
  const Json* find(const char* key) const {
    const auto at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  int64_t integer(const char* key) const {
    const Json* value = find(key);
    if (!value) wrong("has no ", key);
    return integer(key, *value);
  }
  int64_t integer(const char* key, int64_t absent) const {
    const Json* value = find(key);
    return value ? integer(key, *value) : absent;
  }
  double number(const char* key, double absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_number()) wrong("has a ", key, " that is not a number");
    return value->get<double>();
  }
  bool flag(const char* key, bool absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_boolean()) wrong("has a ", key, " that is neither true nor false");
    return value->get<bool>();
  }
  std::string text(const char* key, const char* absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_string()) wrong("has a ", key, " that is not a string");
    return value->get<std::string>();
  }

 private:
  int64_t integer(const char* key, const Json& value) const {
    if (!value.is_number_integer()) wrong("has a ", key, " that is not an integer");
    if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX})
      wrong("has a ", key, " out of range");
    return value.get<int64_t>();
  }
  const Json& json_;
  const std::string& name_;
};

/// The element type may be any floating one; the result is float32.
Tensor take(const TensorFile& file, const std::string& path, const std::string& name,
            const Shape& shape) {
  const auto at = file.tensors.find(name);
  BESSEMER_CHECK(at != file.tensors.end(), ValueError, "[decoder] ", path, " has no ", name);
  const Tensor& tensor = at->second;
  BESSEMER_CHECK(dtype_is_float(tensor.dtype()), ValueError, "[decoder] ", path, ": ", name, " is ",
                 dtype_name(tensor.dtype()), ", expected floating elements");
  BESSEMER_CHECK(tensor.sizes() == shape, ValueError, "[decoder] ", path, ": ", name, " has shape ",
                 tensor.shape(), ", the configuration says ", shape.dims());
  return tensor.dtype() == Dtype::f32 ? tensor : cast(tensor, Dtype::f32);
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.sizes() == b.sizes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}

/// The weights in the order of decoder_parameters(); names beyond them are refused.
std::vector<Tensor> take_all(const TensorFile& file, const std::string& path,
                             const DecoderConfig& config) {
  NoGrad no_grad;
  // Which tensors are there decides before any of their shapes is believed.
  BESSEMER_CHECK(static_cast<int64_t>(file.tensors.size()) >= config.num_hidden_layers, ValueError,
                 "[decoder] ", path, " has ", file.tensors.size(), " tensors, too few for ",
                 config.num_hidden_layers, " layers");
  std::vector<Tensor> out;
  std::set<std::string> known = {kScore};
  for (const auto& [name, shape] : decoder_parameters(config)) {
    out.push_back(take(file, path, name, shape));
    known.insert(name);
  }
  for (const auto& [name, tensor] : file.tensors) {
    if (known.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    if (name == kHead && same(tensor, file.at("model.embed_tokens.weight"))) continue;
    fail<ValueError>("[decoder] ", path, " has a tensor ", name, " that this decoder does not have",
                     did_you_mean(name, std::vector<std::string>(known.begin(), known.end())));
  }
  return out;
}

void check_like(const DecoderConfig& found, const DecoderConfig& asked, const std::string& path) {
  if (asked.vocab_size == 0) return;
  const DecoderConfig like = asked.checked();
  auto equal = [&](const char* name, auto here, auto there) {
    BESSEMER_CHECK(here == there, ValueError, "[decoder] ", path, " has ", name, " ", here,
                   ", expected ", there);
  };
  equal("vocab_size", found.vocab_size, like.vocab_size);
  equal("hidden_size", found.hidden_size, like.hidden_size);
  equal("intermediate_size", found.intermediate_size, like.intermediate_size);
  equal("num_hidden_layers", found.num_hidden_layers, like.num_hidden_layers);
  equal("num_attention_heads", found.num_attention_heads, like.num_attention_heads);
  equal("num_key_value_heads", found.num_key_value_heads, like.num_key_value_heads);
  equal("head_dim", found.head_dim, like.head_dim);
  equal("rope_theta", found.rope_theta, like.rope_theta);
  equal("rms_norm_eps", found.rms_norm_eps, like.rms_norm_eps);
  equal("tie_word_embeddings", found.tie_word_embeddings, like.tie_word_embeddings);
}

}  // namespace

std::string decoder_config_json(const DecoderConfig& config, const DecoderTokens& tokens,
                                bool score) {
  const DecoderConfig c = config.checked();
  Json json;
  json["architectures"] = {score ? kScoreModel : kLanguageModel};
  json["model_type"] = "llama";
  json["vocab_size"] = c.vocab_size;
  json["hidden_size"] = c.hidden_size;
  json["intermediate_size"] = c.intermediate_size;
  json["num_hidden_layers"] = c.num_hidden_layers;
  json["num_attention_heads"] = c.num_attention_heads;
  json["num_key_value_heads"] = c.num_key_value_heads;
  json["head_dim"] = c.head_dim;
  json["hidden_act"] = "silu";
  json["max_position_embeddings"] = c.max_position_embeddings;
  json["rms_norm_eps"] = c.rms_norm_eps;
  json["rope_theta"] = c.rope_theta;
  json["rope_scaling"] = nullptr;
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["tie_word_embeddings"] = c.tie_word_embeddings;
  json["torch_dtype"] = "float32";
  auto token = [&](const char* key, int64_t id) { json[key] = id < 0 ? Json(nullptr) : Json(id); };
  token("bos_token_id", tokens.bos);
  token("eos_token_id", tokens.eos);
  // None: transformers gives the embedding of a padding token no gradient and skips it at the end
  // of what a reward model scores, so the end token must not be named here.
  json["pad_token_id"] = nullptr;
  if (score) {  // one label: one number, no classes
    json["id2label"] = {{"0", "score"}};
    json["label2id"] = {{"score", 0}};
  }
  return json.dump(2) + "\n";
}

DecoderConfig parse_decoder_config(std::string_view text, const std::string& name) {
  Json json;
  BESSEMER_CHECK(json_depth(text) <= kMaxJsonDepth, ValueError, "[decoder] ", name,
                 " is nested more than ", kMaxJsonDepth, " levels deep");
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    fail<ValueError>("[decoder] ", name, " is not JSON: ", error.what());
  }
  const Reader reader(json, name);
  if (const Json* list = reader.find("architectures")) {
    bool known = false;
    if (list->is_array())
      for (const Json& entry : *list) known |= entry == kLanguageModel || entry == kScoreModel;
    if (!known)
      reader.wrong("describes ", list->dump(-1, ' ', true, Json::error_handler_t::replace),
                   "; only ", kLanguageModel, " and ", kScoreModel, " are read");
  }
  const std::string type = reader.text("model_type", "llama");
  if (type != "llama") reader.wrong("has the model_type '", type, "', expected 'llama'");
  const std::string act = reader.text("hidden_act", "silu");
  if (act != "silu") reader.wrong("has the hidden_act '", act, "', expected 'silu'");
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (reader.flag(key, false)) reader.wrong("has ", key, ", which this decoder lacks");
  DecoderConfig c;
  c.rope_theta = reader.number("rope_theta", c.rope_theta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = reader.find(key);
    if (!rope) continue;
    const Reader inner(*rope, name);
    const std::string kind = inner.text("rope_type", inner.text("type", "default").c_str());
    if (kind != "default") reader.wrong("scales rotary positions (", kind, "), which is not read");
    c.rope_theta = inner.number("rope_theta", c.rope_theta);
  }
  c.vocab_size = reader.integer("vocab_size");
  c.hidden_size = reader.integer("hidden_size");
  c.intermediate_size = reader.integer("intermediate_size");
  c.num_hidden_layers = reader.integer("num_hidden_layers");
  c.num_attention_heads = reader.integer("num_attention_heads");
  c.num_key_value_heads = reader.integer("num_key_value_heads", c.num_attention_heads);
  c.head_dim = reader.integer("head_dim", 0);
  c.max_position_embeddings = reader.integer("max_position_embeddings", 2048);
  c.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  c.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  try {
    return c.checked();
  } catch (const ValueError& error) {
    reader.wrong("is out of range: ", error.what());
  }
}

void save_decoder(const fs::path& folder, const Decoder& decoder, const ScalarHead* head,
                  const DecoderTokens& tokens) {
  std::error_code error;
  fs::create_directories(folder, error);
  BESSEMER_CHECK(!error, IoError, "[decoder] cannot make ", folder.string(), ": ", error.message());
  NamedTensors all = decoder.named_parameters();
  if (head) head->collect("", all);
  // transformers refuses a file that does not say who wrote it for whom.
  save_safetensors((folder / "model.safetensors").string(), all, {{"format", "pt"}});
  write_text_file((folder / "config.json").string(),
                  decoder_config_json(decoder.config(), tokens, head != nullptr));
}

LoadedDecoder load_decoder(const fs::path& folder, const DecoderConfig& like) {
  const fs::path description = folder / "config.json";
  DecoderConfig config =
      parse_decoder_config(read_text_file(description.string()), description.string());
  check_like(config, like, description.string());
  config.compute = like.compute;
  config.checkpoint = like.checkpoint;
  const std::string path = (folder / "model.safetensors").string();
  const TensorFile file = load_safetensors(path);
  LoadedDecoder out;
  out.decoder = std::make_unique<Decoder>(config, take_all(file, path, config));
  if (file.tensors.contains(kScore)) {
    out.head = std::make_unique<ScalarHead>(config.hidden_size, 0, 0.0);
    assign(out.head->weight.detach(), take(file, path, kScore, {1, config.hidden_size}));
  }
  return out;
}

void load_decoder_weights(const fs::path& folder, const Decoder& decoder, const ScalarHead* head) {
  LoadedDecoder loaded = load_decoder(folder, decoder.config());
  BESSEMER_CHECK(!head || loaded.head, ValueError, "[decoder] ", folder.string(), " has no ",
                 kScore);
  NoGrad no_grad;
  const std::vector<Tensor> from = loaded.decoder->parameters(), to = decoder.parameters();
  for (size_t i = 0; i < to.size(); ++i) assign(to[i], from[i].detach());
  if (head) assign(head->weight, loaded.head->weight.detach());
}

}  // namespace bessemer::nn
