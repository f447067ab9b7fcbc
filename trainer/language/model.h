// The language model of a run: tokenizer, decoder and, where the algorithm wants one, a head that
// gives a number; from the weights that the recipe names, or new ones.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "autograd/nn/decoder.h"
#include "core/text/tokenizer.h"
#include "trainer/config.h"

namespace bessemer {

struct LanguageModel {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<nn::Decoder> decoder;
  std::unique_ptr<nn::ScalarHead> head;  // null: none

  /// Trainable tensors by name: the decoder's, then the head's.
  nn::NamedTensors named() const;
};

/// The folder with config.json, weights and tokenizer.json that `path` means: itself, or the newest
/// checkpoint of a run. ValueError where there is none.
std::filesystem::path weights_folder(const std::string& path);

/// The tokenizer of such a folder. ValueError where it has more entries than `vocabulary`, the
/// weights' rows, or lacks a mark of the chat template.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder, int64_t vocabulary);

/// Shape of new weights: what the recipe says, else 128 wide, 4 layers, heads of 32.
nn::DecoderConfig decoder_shape(const DecoderKeys& keys, int64_t vocabulary);

/// The run's model. `texts` are asked for where a vocabulary is to be learned. With `head`, the one
/// of the starting weights or a new one. Throws ValueError where the recipe's sizes and the
/// starting weights' differ.
LanguageModel make_language_model(const RunConfig& config, bool head,
                                  const std::function<std::vector<std::string>()>& texts);

/// A model as it was saved, for scoring; `config` gives what is computed in. ValueError where its
/// vocabulary is not `like`, or where it has no head.
LanguageModel load_reward_model(const std::string& path, const DecoderKeys& keys,
                                const Tokenizer& like);

/// Another decoder with the same weights, which take no gradients.
std::unique_ptr<nn::Decoder> frozen_copy(const nn::Decoder& decoder);

}  // namespace bessemer
