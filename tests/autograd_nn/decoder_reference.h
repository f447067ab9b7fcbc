// Llama's forward pass in double precision, one sequence at a time, written from the formulas.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "autograd/nn/decoder.h"

namespace bessemer::nn {

class DecoderReference {
 public:
  explicit DecoderReference(const Decoder& decoder) : c_(decoder.config()) {
    for (const auto& [name, tensor] : decoder.named_parameters()) {
      const auto values = tensor.values<float>();
      weights_[name] = {values.begin(), values.end()};
    }
  }

  /// [tokens, vocab_size].
  std::vector<double> logits(const std::vector<int64_t>& tokens) const {
    const size_t n = tokens.size(), hidden = size(c_.hidden_size);
    Rows x(n);
    for (size_t t = 0; t < n; ++t) {
      const double* row =
          weights_.at("model.embed_tokens.weight").data() + size(tokens[t]) * hidden;
      x[t].assign(row, row + hidden);
    }
    for (int64_t i = 0; i < c_.num_hidden_layers; ++i) layer(cat("model.layers.", i, "."), x);
    std::vector<double> out;
    for (const auto& row : x) {
      const auto y =
          linear(norm(row, "model.norm.weight"),
                 c_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
      out.insert(out.end(), y.begin(), y.end());
    }
    return out;
  }

 private:
  using Row = std::vector<double>;
  using Rows = std::vector<Row>;
  static size_t size(int64_t n) { return static_cast<size_t>(n); }

  Row linear(const Row& x, const std::string& name) const {
    const Row& w = weights_.at(name);
    Row y(w.size() / x.size());
    for (size_t o = 0; o < y.size(); ++o)
      for (size_t i = 0; i < x.size(); ++i) y[o] += w[o * x.size() + i] * x[i];
    return y;
  }
  Row norm(const Row& x, const std::string& name) const {
    double square = 0;
    for (const double v : x) square += v * v;
    const double scale = 1 / std::sqrt(square / static_cast<double>(x.size()) + c_.rms_norm_eps);
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * weights_.at(name)[i];
    return y;
  }
  void rotate(Row& x, size_t position) const {
    const size_t dim = size(c_.head_dim), half = dim / 2;
    for (size_t head = 0; head < x.size(); head += dim) {
      for (size_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const double a = x[head + i], b = x[head + half + i];
        x[head + i] = a * std::cos(angle) - b * std::sin(angle);
        x[head + half + i] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
  void layer(const std::string& prefix, Rows& x) const {
    const size_t n = x.size(), dim = size(c_.head_dim);
    const size_t heads = size(c_.num_attention_heads),
                 shared = heads / size(c_.num_key_value_heads);
    Rows q(n), k(n), v(n);
    for (size_t t = 0; t < n; ++t) {
      const Row h = norm(x[t], prefix + "input_layernorm.weight");
      q[t] = linear(h, prefix + "self_attn.q_proj.weight");
      k[t] = linear(h, prefix + "self_attn.k_proj.weight");
      v[t] = linear(h, prefix + "self_attn.v_proj.weight");
      rotate(q[t], t);
      rotate(k[t], t);
    }
    for (size_t t = 0; t < n; ++t) {
      Row seen(heads * dim);
      for (size_t head = 0; head < heads; ++head) {
        const size_t own = head * dim, kv = head / shared * dim;
        Row p(t + 1);
        double total = 0;
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < dim; ++i) p[s] += q[t][own + i] * k[s][kv + i];
          p[s] = std::exp(p[s] / std::sqrt(static_cast<double>(dim)));
          total += p[s];
        }
        for (size_t s = 0; s <= t; ++s)
          for (size_t i = 0; i < dim; ++i) seen[own + i] += p[s] / total * v[s][kv + i];
      }
      const Row y = linear(seen, prefix + "self_attn.o_proj.weight");
      for (size_t i = 0; i < y.size(); ++i) x[t][i] += y[i];
      const Row h = norm(x[t], prefix + "post_attention_layernorm.weight");
      Row gate = linear(h, prefix + "mlp.gate_proj.weight");
      const Row up = linear(h, prefix + "mlp.up_proj.weight");
      for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const Row down = linear(gate, prefix + "mlp.down_proj.weight");
      for (size_t i = 0; i < down.size(); ++i) x[t][i] += down[i];
    }
  }

  DecoderConfig c_;
  std::map<std::string, Row> weights_;
};

}  // namespace bessemer::nn
