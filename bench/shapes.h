// The decoders that benches of language models share, so that their figures are of one model.
#pragma once

#include "autograd/nn/decoder.h"

namespace bessemer::bench {

/// 14 M parameters: 6 layers x 384 x 6 heads, vocabulary 8192, tied.
inline nn::DecoderConfig decoder_14m() {
  nn::DecoderConfig c;
  c.vocab_size = 8192;
  c.hidden_size = 384;
  c.intermediate_size = 1024;
  c.num_hidden_layers = 6;
  c.num_attention_heads = 6;
  return c;
}

/// SmolLM2-135M's.
inline nn::DecoderConfig decoder_135m() {
  nn::DecoderConfig c;
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.num_hidden_layers = 30;
  c.num_attention_heads = 9;
  c.num_key_value_heads = 3;
  return c;
}

}  // namespace bessemer::bench
