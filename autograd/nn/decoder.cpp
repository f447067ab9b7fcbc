#include "autograd/nn/decoder.h"

#include <algorithm>
#include <cmath>

#include "autograd/checkpoint.h"
#include "autograd/engine.h"

namespace bessemer::nn {

namespace {

constexpr double kInitStd = 0.02;

/// Weights of a layer, in this order.
enum LayerWeight : size_t { kQ, kK, kV, kO, kGate, kUp, kDown, kInputNorm, kPostNorm, kLayer };
constexpr const char* kLayerNames[kLayer] = {
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight",    "mlp.up_proj.weight",
    "mlp.down_proj.weight",    "input_layernorm.weight",  "post_attention_layernorm.weight"};

Shape layer_shape(const DecoderConfig& c, size_t weight) {
  const int64_t hidden = c.hidden_size, inner = c.intermediate_size;
  const int64_t queries = c.num_attention_heads * c.head_dim;
  const int64_t keys = c.num_key_value_heads * c.head_dim;
  switch (weight) {
    case kQ:
      return {queries, hidden};
    case kK:
    case kV:
      return {keys, hidden};
    case kO:
      return {hidden, queries};
    case kGate:
    case kUp:
      return {inner, hidden};
    case kDown:
      return {hidden, inner};
    default:
      return {hidden};
  }
}

/// Asks for what operations look up of a weight before they read one element: header, storage,
/// packed form. While a token is decoded all weights pass through the caches, so each of these
/// waits for memory, one for the other; those of a layer, asked for together, wait once.
void look_up(const Tensor& weight) {
  const TensorImpl* header = weight.impl();
  __builtin_prefetch(&header->shape[1]);
  __builtin_prefetch(&header->strides[1]);
  __builtin_prefetch(header->storage->packed);
}

}  // namespace

DecoderConfig DecoderConfig::checked() const {
  DecoderConfig c = *this;
  auto positive = [](const char* name, int64_t value, int64_t most = int64_t{1} << 32) {
    BESSEMER_CHECK(value > 0 && value <= most, ValueError, "[decoder] ", name,
                   " must be between 1 and ", most, ", got ", value);
  };
  positive("vocab_size", c.vocab_size, INT32_MAX);
  positive("hidden_size", c.hidden_size, 1 << 20);
  positive("intermediate_size", c.intermediate_size, 1 << 22);
  positive("num_hidden_layers", c.num_hidden_layers, 1 << 12);
  positive("num_attention_heads", c.num_attention_heads, 1 << 12);
  positive("max_position_embeddings", c.max_position_embeddings);
  if (c.num_key_value_heads == 0) c.num_key_value_heads = c.num_attention_heads;
  positive("num_key_value_heads", c.num_key_value_heads, 1 << 12);
  BESSEMER_CHECK(c.num_attention_heads % c.num_key_value_heads == 0, ValueError,
                 "[decoder] num_attention_heads (", c.num_attention_heads,
                 ") is not a multiple of num_key_value_heads (", c.num_key_value_heads, ")");
  if (c.head_dim == 0) {
    BESSEMER_CHECK(c.hidden_size % c.num_attention_heads == 0, ValueError,
                   "[decoder] hidden_size (", c.hidden_size,
                   ") is not a multiple of num_attention_heads (", c.num_attention_heads,
                   "): state head_dim");
    c.head_dim = c.hidden_size / c.num_attention_heads;
  }
  positive("head_dim", c.head_dim, 1 << 12);
  BESSEMER_CHECK(c.head_dim % 2 == 0, ValueError,
                 "[decoder] head_dim must be even for rotary positions, got ", c.head_dim);
  BESSEMER_CHECK(std::isfinite(c.rope_theta) && c.rope_theta > 0, ValueError,
                 "[decoder] rope_theta must be positive, got ", c.rope_theta);
  BESSEMER_CHECK(std::isfinite(c.rms_norm_eps) && c.rms_norm_eps >= 0, ValueError,
                 "[decoder] rms_norm_eps must be 0 or more, got ", c.rms_norm_eps);
  BESSEMER_CHECK(c.compute == Dtype::f32 || c.compute == Dtype::bf16, ValueError,
                 "[decoder] computes in f32 or bf16, not ", dtype_name(c.compute));
  return c;
}

int64_t DecoderConfig::parameters() const {
  int64_t total = 0;
  for (const auto& [name, shape] : decoder_parameters(*this)) total += shape.numel();
  return total;
}

std::vector<std::pair<std::string, Shape>> decoder_parameters(const DecoderConfig& config) {
  const DecoderConfig c = config.checked();
  std::vector<std::pair<std::string, Shape>> out;
  const Shape table{c.vocab_size, c.hidden_size};
  out.emplace_back("model.embed_tokens.weight", table);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i)
    for (size_t w = 0; w < kLayer; ++w)
      out.emplace_back(cat("model.layers.", i, ".", kLayerNames[w]), layer_shape(c, w));
  out.emplace_back("model.norm.weight", Shape{c.hidden_size});
  if (!c.tie_word_embeddings) out.emplace_back("lm_head.weight", table);
  return out;
}

Decoder::Decoder(const DecoderConfig& config, uint64_t seed) : config_(config.checked()) {
  Init init{seed};
  for (const auto& [name, shape] : decoder_parameters(config_))
    weights_.push_back(
        set_requires_grad(shape.ndim == 1 ? Tensor::ones(shape) : init.normal(shape, kInitStd)));
}

Decoder::Decoder(const DecoderConfig& config, std::vector<Tensor> weights)
    : config_(config.checked()), weights_(std::move(weights)) {
  const auto parameters = decoder_parameters(config_);
  BESSEMER_CHECK(weights_.size() == parameters.size(), ValueError, "[decoder] ", weights_.size(),
                 " weights for ", parameters.size(), " parameters");
  for (size_t i = 0; i < weights_.size(); ++i) {
    BESSEMER_CHECK(weights_[i].sizes() == parameters[i].second, ValueError, "[decoder] ",
                   parameters[i].first, " has shape ", weights_[i].shape(), ", expected ",
                   parameters[i].second.dims());
    BESSEMER_CHECK(weights_[i].dtype() == Dtype::f32 && weights_[i].contiguous(), TypeError,
                   "[decoder] ", parameters[i].first, " must be contiguous float32");
    set_requires_grad(weights_[i]);
  }
}

void Decoder::collect(const std::string& prefix, NamedTensors& out) const {
  size_t next = 0;
  for (const auto& [name, shape] : decoder_parameters(config_))
    out.emplace_back(prefix + name, weights_[next++]);
}

std::span<const Tensor> Decoder::layer_weights(size_t index) const {
  return std::span(weights_).subspan(1 + index * kLayer, kLayer);
}

Tensor Decoder::layer(size_t index, const Tensor& x, const Tensor& positions,
                      const Attend& attend) const {
  const std::span<const Tensor> w = layer_weights(index);
  const int64_t tokens = x.size(0), dim = config_.head_dim;
  const Paged* paged = std::get_if<Paged>(&attend);
  if (paged) {
    for (const Tensor& weight : w) look_up(weight);
    look_up(paged->layers[index].k);
    look_up(paged->layers[index].v);
  }
  const Tensor h = rms_norm(x, w[kInputNorm], config_.rms_norm_eps);
  auto heads = [&](LayerWeight which, int64_t count) {
    return reshape(linear(h, w[which]), {tokens, count, dim});
  };
  const Tensor q = rope(heads(kQ, config_.num_attention_heads), positions, config_.rope_theta);
  const Tensor k = rope(heads(kK, config_.num_key_value_heads), positions, config_.rope_theta);
  const Tensor v = heads(kV, config_.num_key_value_heads);
  Tensor seen;
  if (paged) {
    const KvPages& pages = paged->layers[index];
    kv_write(pages.k, pages.v, k, v, paged->slots);
    seen = attention_paged(q, pages.k, pages.v, paged->table, paged->queries, paged->lengths);
  } else {
    seen = attention(q, k, v, std::get<Packed>(attend).segments);
  }
  const Tensor middle = x + linear(reshape(seen, {tokens, -1}), w[kO]);
  const Tensor n = rms_norm(middle, w[kPostNorm], config_.rms_norm_eps);
  return middle + linear(swiglu(linear(n, w[kGate]), linear(n, w[kUp])), w[kDown]);
}

Tensor Decoder::hidden(const Tensor& tokens, const Attend& attend) const {
  BESSEMER_CHECK(tokens.ndim() == 1 && tokens.numel() > 0, ValueError,
                 "[decoder] takes one dimension of tokens, got ", tokens.shape());
  const Packed* packed = std::get_if<Packed>(&attend);
  const Tensor positions = packed ? segment_positions(packed->segments, tokens.numel())
                                  : std::get<Paged>(attend).positions;
  const int64_t last = std::ranges::max(positions.values<int64_t>());
  BESSEMER_CHECK(last < config_.max_position_embeddings, ValueError, "[decoder] a sequence of ",
                 last + 1, " tokens exceeds the context of ", config_.max_position_embeddings);
  if (!packed)
    BESSEMER_CHECK(
        static_cast<int64_t>(std::get<Paged>(attend).layers.size()) == config_.num_hidden_layers,
        ValueError, "[decoder] a cache of ", std::get<Paged>(attend).layers.size(),
        " layers for a decoder of ", config_.num_hidden_layers);
  Tensor x = cast(embedding(weights_[0], tokens), config_.compute);
  const bool again = config_.checkpoint && packed && (current_mode & kModeGrad);
  for (size_t i = 0; i < static_cast<size_t>(config_.num_hidden_layers); ++i) {
    if (again) {
      auto body = [this, i, positions, own = *packed](const Tensor& input) {
        return layer(i, input, positions, own);
      };
      x = checkpoint(body, x, layer_weights(i));
    } else {
      x = layer(i, x, positions, attend);
    }
  }
  const Tensor& norm = weights_[1 + static_cast<size_t>(config_.num_hidden_layers) * kLayer];
  return rms_norm(x, norm, config_.rms_norm_eps);
}

const Tensor& Decoder::output_weight() const {
  return config_.tie_word_embeddings ? weights_.front() : weights_.back();
}

Tensor Decoder::logits(const Tensor& hidden) const {
  return linear(hidden, output_weight(), Tensor(), cpu::Activation::none, true);
}

DecoderMemory decoder_memory(const DecoderConfig& config, int64_t tokens) {
  const DecoderConfig c = config.checked();
  const int64_t n = c.parameters(), width = static_cast<int64_t>(dtype_size(c.compute));
  const bool half = c.compute == Dtype::bf16;
  DecoderMemory m;
  m.weights = n * (half ? 4 + 2 : 4 + 4);  // and their panels for products
  m.training = n * (4 + 8);
  const int64_t queries = c.num_attention_heads * c.head_dim;
  const int64_t keys = c.num_key_value_heads * c.head_dim;
  // What a layer's nodes keep: input, both norms, the sum between, o's and down's results; q, k, v
  // with and without rotation, attention's result; gate, up and their product.
  const int64_t layer =
      width * (6 * c.hidden_size + 3 * queries + 3 * keys + 3 * c.intermediate_size) +
      4 * c.num_attention_heads;
  const int64_t ends = width * 3 * c.hidden_size;
  m.activation = ends + c.num_hidden_layers * (c.checkpoint ? width * c.hidden_size : layer);
  m.shared = c.checkpoint ? layer * tokens : 0;
  m.cache = 2 * c.num_hidden_layers * keys * width;
  return m;
}

ScalarHead::ScalarHead(int64_t hidden, uint64_t seed, double std) {
  Init init{seed};
  init.next = uint64_t{1} << 32;  // never the numbers of a decoder's weights of the same seed
  weight = set_requires_grad(init.normal({1, hidden}, std));
}

Tensor ScalarHead::operator()(const Tensor& hidden) const {
  return reshape(linear(cast(hidden, Dtype::f32), weight), {hidden.size(0)});
}

void ScalarHead::collect(const std::string& prefix, NamedTensors& out) const {
  out.emplace_back(prefix + "score.weight", weight);
}

}  // namespace bessemer::nn
