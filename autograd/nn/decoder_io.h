// Decoders as folders that `transformers` loads: config.json, model.safetensors and, copied beside
// them by whoever has one, tokenizer.json.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "autograd/nn/decoder.h"

namespace bessemer::nn {

/// What config.json says besides the shape; -1: absent.
struct DecoderTokens {
  int64_t bos = -1, eos = -1;
};

/// The text of config.json. `score`: LlamaForSequenceClassification with one label, else
/// LlamaForCausalLM.
std::string decoder_config_json(const DecoderConfig& config, const DecoderTokens& tokens = {},
                                bool score = false);
/// Reads one; `name` is what errors call it. ValueError for what is damaged, missing or not this
/// decoder's shape (biases, scaled rotary positions, another architecture).
DecoderConfig parse_decoder_config(std::string_view json, const std::string& name);

/// Writes config.json and model.safetensors (float32) into `folder`, which is made when missing.
/// With a head it is a LlamaForSequenceClassification of one label (a reward or value model).
void save_decoder(const std::filesystem::path& folder, const Decoder& decoder,
                  const ScalarHead* head = nullptr, const DecoderTokens& tokens = {});

struct LoadedDecoder {
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<ScalarHead> head;  // null: the folder has none
};
/// Reads a folder. `compute` and `checkpoint` are taken from `like`; where `like` also states sizes
/// (vocab_size > 0), another shape is a ValueError that names the field. IoError and ValueError
/// name the file.
LoadedDecoder load_decoder(const std::filesystem::path& folder, const DecoderConfig& like = {});
/// Reads a folder's weights into a decoder that exists (and a head, where given: ValueError when
/// the folder has none).
void load_decoder_weights(const std::filesystem::path& folder, const Decoder& decoder,
                          const ScalarHead* head = nullptr);

}  // namespace bessemer::nn
