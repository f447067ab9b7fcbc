// What a checkpoint of a language model holds: config.json, model.safetensors and the tokenizer as
// transformers reads them, train.safetensors (moments, a value head where there is one, episodes
// that are ahead) and state.json.
#include <cstring>
#include <nlohmann/json.hpp>

#include "autograd/nn/decoder_io.h"
#include "core/io/safetensors.h"
#include "trainer/language/trainer.h"
#include "trainer/state_json.h"

namespace bessemer {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int64_t kStateFormat = 1;

}  // namespace

void LanguageTrainer::save(const fs::path& folder) const {
  const bool reward = config_.trainer.algo == "reward";
  nn::DecoderTokens tokens;
  tokens.eos = model_.tokenizer->special(ChatTemplate().turn_end);
  nn::save_decoder(folder, *model_.decoder, reward ? model_.head.get() : nullptr, tokens);
  model_.tokenizer->save(folder / "tokenizer.json");
  write_text_file((folder / "tokenizer_config.json").string(), chat_tokenizer_config());
  nn::NamedTensors train;
  adam_->collect("adam.", train);
  if (model_.head && !reward) train.emplace_back("value.weight", model_.head->weight.detach());
  const Counters counters = save_ahead(train);
  save_safetensors((folder / "train.safetensors").string(), train);
  save_state(folder, counters);
}

void LanguageTrainer::save_state(const fs::path& folder, const Counters& counters) const {
  Json state;
  state["format"] = kStateFormat;
  state["bessemer"] = BESSEMER_VERSION;
  state["algo"] = config_.trainer.algo;
  state["env"] = config_.env.id;
  state["seed"] = config_.seed;
  state["recipe"] = config_.hash();
  state["steps"] = steps_;
  state["updates"] = updates();
  state["counters"] = {{"items", counters.items},
                       {"completions", counters.completions},
                       {"shuffles", counters.shuffles},
                       {"tokens", counters.tokens}};
  Json trainable = Json::object();
  for (auto& [name, tensor] : named_) trainable[name] = tensor.requires_grad();
  state["trainable"] = std::move(trainable);
  write_text_file((folder / "state.json").string(), state.dump(2) + "\n");
}

void LanguageTrainer::load(const fs::path& folder) {
  load_policy(folder);
  const fs::path path = folder / "train.safetensors";
  const TensorFile train = load_safetensors(path.string());
  nn::NamedTensors wanted;
  adam_->collect("adam.", wanted);
  if (model_.head && config_.trainer.algo != "reward")
    wanted.emplace_back("value.weight", model_.head->weight);
  for (auto& [name, target] : wanted) {
    const Tensor& from = train.at(name);
    BESSEMER_CHECK(from.dtype() == target.dtype() && from.sizes() == target.sizes(), ValueError,
                   path.string(), ": tensor '", name, "' is ", dtype_name(from.dtype()), " ",
                   from.shape(), ", expected ", dtype_name(target.dtype()), " ", target.shape());
    std::memcpy(target.raw(), from.raw(),
                static_cast<size_t>(from.numel()) * dtype_size(from.dtype()));
    target.bump();
  }
  load_state(folder);
  load_ahead(train);
  good_.clear();
  good_place_ = {learned(), steps_};
}

void LanguageTrainer::load_state(const fs::path& folder) {
  const fs::path path = folder / "state.json";
  const Json state = read_state_json(path);
  const Json stored = state_member<Json>(state, path, "counters");
  counters_.items = state_member<int64_t>(stored, path, "items");
  counters_.completions = state_member<int64_t>(stored, path, "completions");
  counters_.shuffles = state_member<int64_t>(stored, path, "shuffles");
  counters_.tokens = state_member<int64_t>(stored, path, "tokens");
  steps_ = state_member<int64_t>(state, path, "steps");
  adam_->set_steps(state_member<int64_t>(state, path, "updates"));
}

void LanguageTrainer::load_policy(const fs::path& folder) {
  const fs::path path = folder / "state.json";
  const Json state = read_state_json(path);
  const auto format = state_member<int64_t>(state, path, "format");
  BESSEMER_CHECK(format <= kStateFormat, ValueError, path.string(),
                 ": written by a newer Bessemer (format ", format, ", this one reads up to ",
                 kStateFormat, ")");
  const auto algo = state_member<std::string>(state, path, "algo");
  BESSEMER_CHECK(algo == config_.trainer.algo, ValueError, path.string(), ": a checkpoint of ",
                 algo, ", not of ", config_.trainer.algo);
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
  BESSEMER_CHECK(tokenizer.hash() == model_.tokenizer->hash(), ValueError,
                 (folder / "tokenizer.json").string(),
                 " is another vocabulary than the run's model has");
  nn::load_decoder_weights(folder, *model_.decoder, algo == "reward" ? model_.head.get() : nullptr);
}

}  // namespace bessemer
