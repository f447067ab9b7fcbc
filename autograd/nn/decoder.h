// A decoder in Llama's shape (Touvron et al. 2023): RMSNorm before each half of a layer, rotary
// positions, grouped queries, SwiGLU, a head that may be the embedding. One forward pass serves
// training over packed sequences and generation over a paged cache, with the same bits.
#pragma once

#include <span>
#include <variant>
#include <vector>

#include "autograd/nn/module.h"

namespace bessemer::nn {

/// Names as in Hugging Face's config.json.
struct DecoderConfig {
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int64_t num_hidden_layers = 0, num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // 0: as many as attention heads
  int64_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  int64_t max_position_embeddings = 2048;
  double rope_theta = 10000, rms_norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  /// f32, or bf16: activations and cache in bfloat16, products of bfloat16 numbers (weights are
  /// float32 and rounded for them) summed in float32.
  Dtype compute = Dtype::f32;
  /// Keep only each layer's input for the backward pass and compute the rest again.
  bool checkpoint = false;

  /// With the zeros filled in; ValueError naming the field that is wrong.
  DecoderConfig checked() const;
  int64_t parameters() const;
  bool operator==(const DecoderConfig&) const = default;
};

/// Names and shapes of the parameters, as Hugging Face's Llama has them:
/// "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight" [out, in], ...,
/// "model.norm.weight", and "lm_head.weight" where it is not tied.
std::vector<std::pair<std::string, Shape>> decoder_parameters(const DecoderConfig& config);

/// Bytes that a decoder needs, for plans. Activations are what a backward pass keeps.
struct DecoderMemory {
  int64_t weights = 0;     // and their packed panels
  int64_t training = 0;    // gradients and AdamW's moments
  int64_t activation = 0;  // of one trained token
  int64_t shared = 0;      // of a training step, however many tokens: one layer's recomputation
  int64_t cache = 0;       // of one token in the key-value cache
};
DecoderMemory decoder_memory(const DecoderConfig& config, int64_t tokens);

/// What attention sees: whole sequences side by side. `segments` i64 [S, 2]: (first token of the
/// segment, the earlier segment that is its prefix or -1), as attention() takes them.
struct Packed {
  Tensor segments;
};

/// Pages of keys and values of one layer, as attention_paged() takes them.
struct KvPages {
  Tensor k, v;
};

/// ... or rows of sequences whose earlier keys lie in a cache. Row i of the tokens is written to
/// slots[i] of every layer's pages before it is attended to.
struct Paged {
  std::span<const KvPages> layers;
  Tensor table;      // i64 [S, pages]
  Tensor queries;    // i64 [S + 1]
  Tensor lengths;    // i64 [S], with the new rows
  Tensor slots;      // i64 [N]
  Tensor positions;  // i64 [N]
};
using Attend = std::variant<Packed, Paged>;

class Decoder : public Module {
 public:
  /// Weights normal with deviation 0.02, norms 1 (Hugging Face's initialisation).
  Decoder(const DecoderConfig& config, uint64_t seed);
  /// With these weights, float32 in the order and shapes of decoder_parameters().
  Decoder(const DecoderConfig& config, std::vector<Tensor> weights);

  /// tokens i64 [T] -> [T, hidden_size] after the final norm, in the compute dtype. IndexError for
  /// a token beyond the vocabulary, ValueError for positions beyond the context.
  Tensor hidden(const Tensor& tokens, const Attend& attend) const;
  /// [vocab_size, hidden_size]: what linear_cross_entropy() takes beside hidden rows.
  const Tensor& output_weight() const;
  /// [T, vocab_size] float32: hidden rows through the head.
  Tensor logits(const Tensor& hidden) const;

  const DecoderConfig& config() const { return config_; }
  /// Names of decoder_parameters().
  void collect(const std::string& prefix, NamedTensors& out) const override;

 private:
  std::span<const Tensor> layer_weights(size_t index) const;
  Tensor layer(size_t index, const Tensor& x, const Tensor& positions, const Attend& attend) const;

  DecoderConfig config_;
  std::vector<Tensor> weights_;  // in the order of decoder_parameters()
};

/// One number a token (value) or a sequence (reward, at its last token): hidden rows x weight.
/// Named "score.weight", as in Hugging Face's LlamaForSequenceClassification with one label.
struct ScalarHead : Module {
  Tensor weight;  // [1, hidden]
  ScalarHead(int64_t hidden, uint64_t seed, double std = 0.02);
  /// [T, hidden] of any floating dtype -> float32 [T].
  Tensor operator()(const Tensor& hidden) const;
  void collect(const std::string& prefix, NamedTensors& out) const override;
};

}  // namespace bessemer::nn
