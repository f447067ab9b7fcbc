// A tiny decoder and prompts for it, shared by the tests of generation.
#pragma once

#include <cstring>
#include <vector>

#include "rollout/generate.h"

namespace bessemer::test {

inline nn::DecoderConfig tiny_decoder() {
  nn::DecoderConfig c;
  c.vocab_size = 61;
  c.hidden_size = 48;
  c.intermediate_size = 72;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.max_position_embeddings = 256;
  return c;
}

/// Weights far from uniform outputs, so that a wrong key or position shows in every token.
inline void spread(const nn::Decoder& decoder) {
  NoGrad no_grad;
  for (const Tensor& w : decoder.parameters())
    if (w.ndim() == 2) assign(w, w * 8.0);
}

inline std::vector<int32_t> some_tokens(int64_t n, int64_t salt, int64_t vocabulary = 61) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(static_cast<int32_t>((i * i * 7 + salt * 13 + i) % vocabulary));
  return out;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline bool same(const Completion& a, const Completion& b) {
  return a.tokens == b.tokens && same_bits(a.log_prob, b.log_prob) && a.finish == b.finish &&
         a.sequence == b.sequence;
}

}  // namespace bessemer::test
