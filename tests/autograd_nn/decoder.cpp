#include "autograd/nn/decoder.h"

#include <doctest/doctest.h>

#include <cstring>
#include <numeric>

#include "autograd/engine.h"
#include "tests/autograd_nn/decoder_reference.h"

using namespace bessemer;
using namespace bessemer::nn;

namespace {

DecoderConfig tiny() {
  DecoderConfig c;
  c.vocab_size = 40;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 6;
  c.num_key_value_heads = 2;
  c.max_position_embeddings = 128;
  return c;
}

Tensor ids(const std::vector<int64_t>& values) {
  return Tensor::from(std::span<const int64_t>(values), {static_cast<int64_t>(values.size())});
}
/// Segments as (first token, prefix) pairs.
Packed packed(const std::vector<int64_t>& pairs) {
  return {
      Tensor::from(std::span<const int64_t>(pairs), {static_cast<int64_t>(pairs.size() / 2), 2})};
}
std::vector<int64_t> some_tokens(int64_t n, int64_t salt, int64_t vocabulary = 40) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back((i * i * 7 + salt * 13 + i) % vocabulary);
  return out;
}
bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.sizes() == b.sizes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}
/// Larger weights than at initialisation, so that attention and the gates are far from uniform.
void spread(const Decoder& decoder) {
  NoGrad no_grad;
  for (const Tensor& w : decoder.parameters())
    if (w.ndim() == 2) assign(w, w * 12.0);
}
std::vector<int64_t> joined(std::initializer_list<std::vector<int64_t>> parts) {
  std::vector<int64_t> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

}  // namespace

TEST_CASE("decoder: Hugging Face's names and shapes") {
  DecoderConfig c = tiny();
  c.tie_word_embeddings = false;
  const Decoder decoder(c, 1);
  const NamedTensors all = decoder.named_parameters();
  CHECK(all.size() == 1 + 2 * 9 + 2);
  auto shape = [&](const std::string& name) {
    for (const auto& [n, tensor] : all)
      if (n == name) return tensor.sizes();
    return Shape();
  };
  CHECK(shape("model.embed_tokens.weight") == Shape{40, 24});
  CHECK(shape("model.layers.1.self_attn.q_proj.weight") == Shape{24, 24});
  CHECK(shape("model.layers.1.self_attn.k_proj.weight") == Shape{8, 24});
  CHECK(shape("model.layers.0.self_attn.o_proj.weight") == Shape{24, 24});
  CHECK(shape("model.layers.0.mlp.gate_proj.weight") == Shape{40, 24});
  CHECK(shape("model.layers.0.mlp.down_proj.weight") == Shape{24, 40});
  CHECK(shape("model.layers.1.post_attention_layernorm.weight") == Shape{24});
  CHECK(shape("lm_head.weight") == Shape{40, 24});
  int64_t total = 0;
  for (const auto& [name, tensor] : all) total += tensor.numel();
  CHECK(decoder.config().parameters() == total);

  DecoderConfig smol;  // SmolLM2-135M: 134,515,008 parameters
  smol.vocab_size = 49152;
  smol.hidden_size = 576;
  smol.intermediate_size = 1536;
  smol.num_hidden_layers = 30;
  smol.num_attention_heads = 9;
  smol.num_key_value_heads = 3;
  CHECK(smol.parameters() == 134'515'008);
}

TEST_CASE("decoder: initialisation depends on the seed alone and has deviation 0.02") {
  const Decoder a(tiny(), 5), b(tiny(), 5), c(tiny(), 6);
  CHECK(same_bits(a.output_weight(), b.output_weight()));
  CHECK_FALSE(same_bits(a.output_weight(), c.output_weight()));
  double square = 0;
  for (const float v : a.output_weight().values<float>()) square += double{v} * v;
  CHECK(std::sqrt(square / static_cast<double>(a.output_weight().numel())) ==
        doctest::Approx(0.02).epsilon(0.1));
}

TEST_CASE("decoder: logits equal a double-precision forward pass") {
  for (const bool tied : {true, false}) {
    for (const int64_t kv : {1, 3, 6}) {
      DecoderConfig c = tiny();
      c.tie_word_embeddings = tied;
      c.num_key_value_heads = kv;
      c.head_dim = kv == 3 ? 6 : 4;
      c.rope_theta = 500;
      const Decoder decoder(c, 3);
      spread(decoder);
      NoGrad no_grad;
      const auto tokens = some_tokens(45, 1);
      const Tensor logits = decoder.logits(decoder.hidden(ids(tokens), packed({0, -1})));
      const auto expected = DecoderReference(decoder).logits(tokens);
      double worst = 0;
      for (size_t i = 0; i < expected.size(); ++i)
        worst = std::max(worst, std::abs(expected[i] - double{logits.data<float>()[i]}));
      CAPTURE(tied);
      CAPTURE(kv);
      CHECK(worst < 1e-4);
    }
  }
}

TEST_CASE("decoder: packing and shared prefixes change no bit") {
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    DecoderConfig c = tiny();
    c.compute = compute;
    const Decoder decoder(c, 3);
    spread(decoder);
    NoGrad no_grad;
    const auto prompt = some_tokens(37, 1), a = some_tokens(9, 2), b = some_tokens(30, 3),
               other = some_tokens(5, 4);
    auto alone = [&](const std::vector<int64_t>& tokens) {
      return decoder.hidden(ids(tokens), packed({0, -1}));
    };
    const Tensor with_a = alone(joined({prompt, a})), with_b = alone(joined({prompt, b}));
    const Tensor together =
        decoder.hidden(ids(joined({other, prompt, a, b})), packed({0, -1, 5, -1, 42, 1, 51, 1}));
    CHECK(same_bits(contiguous(slice(together, 0, 0, 5)), alone(other)));
    CHECK(same_bits(contiguous(slice(together, 0, 5, 51)), with_a));
    CHECK(same_bits(contiguous(slice(together, 0, 51, 81)), contiguous(slice(with_b, 0, 37, 67))));
  }
}

TEST_CASE("decoder: gradient checkpointing keeps the bits of the gradients") {
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    for (const bool tied : {true, false}) {
      std::vector<Tensor> plain;
      for (const bool checkpointed : {false, true}) {
        DecoderConfig c = tiny();
        c.compute = compute;
        c.checkpoint = checkpointed;
        c.tie_word_embeddings = tied;
        const Decoder decoder(c, 3);
        const auto tokens = some_tokens(33, 1);
        const Tensor hidden = decoder.hidden(ids(tokens), packed({0, -1, 20, 0, 27, 0}));
        backward(linear_nll(hidden, decoder.output_weight(), ids(some_tokens(33, 2)),
                            Tensor::ones({33}))[0]);
        const auto parameters = decoder.parameters();
        for (size_t i = 0; i < parameters.size(); ++i) {
          REQUIRE(grad(parameters[i]).defined());
          if (checkpointed) {
            CHECK(same_bits(plain[i], contiguous(grad(parameters[i]))));
          } else {
            plain.push_back(contiguous(grad(parameters[i])));
          }
        }
      }
    }
  }
}

TEST_CASE("decoder: a shared prompt gathers the gradients of its continuations") {
  const Decoder decoder(tiny(), 3);
  spread(decoder);
  const auto prompt = some_tokens(11, 1), a = some_tokens(6, 2), b = some_tokens(8, 3);
  auto gradients_of = [&](const std::vector<int64_t>& tokens, const Packed& attend,
                          const std::vector<int64_t>& rows) {
    for (const Tensor& w : decoder.parameters()) clear_grad(w);
    backward(sum(square(index_select(decoder.hidden(ids(tokens), attend), 0, ids(rows)))));
    std::vector<Tensor> out;
    for (const Tensor& w : decoder.parameters())
      out.push_back(grad(w).defined() ? grad(w) : zeros_like(w));
    return out;
  };
  std::vector<int64_t> rows_a(6), rows_b(8), rows(14);
  std::iota(rows_a.begin(), rows_a.end(), 11);
  std::iota(rows_b.begin(), rows_b.end(), 11);
  std::iota(rows.begin(), rows.end(), 11);
  const auto of_a = gradients_of(joined({prompt, a}), packed({0, -1}), rows_a);
  const auto of_b = gradients_of(joined({prompt, b}), packed({0, -1}), rows_b);
  const auto both = gradients_of(joined({prompt, a, b}), packed({0, -1, 11, 0, 17, 0}), rows);
  for (size_t i = 0; i < both.size(); ++i) {
    const Tensor expected = of_a[i] + of_b[i];
    const double scale = std::sqrt(sum(square(expected)).item()) + 1e-9;
    CHECK(std::sqrt(sum(square(both[i] - expected)).item()) / scale < 1e-5);
  }
}

TEST_CASE("decoder: what it refuses") {
  const Decoder decoder(tiny(), 1);
  NoGrad no_grad;
  const Packed one = packed({0, -1});
  CHECK_THROWS_WITH_AS(decoder.hidden(ids({1, 40}), one), doctest::Contains("40"), IndexError);
  CHECK_THROWS_AS(decoder.hidden(ids({1, -1}), one), IndexError);
  CHECK_THROWS_WITH_AS(decoder.hidden(ids(some_tokens(129, 1)), one),
                       doctest::Contains("exceeds the context of 128"), ValueError);
  CHECK_THROWS_AS(decoder.hidden(Tensor::empty({0}, Dtype::i64), one), ValueError);
  auto refused = [](auto change) {
    DecoderConfig c = tiny();
    change(c);
    CHECK_THROWS_AS(Decoder(c, 1), ValueError);
  };
  refused([](DecoderConfig& c) { c.vocab_size = 0; });
  refused([](DecoderConfig& c) { c.num_key_value_heads = 4; });
  refused([](DecoderConfig& c) { c.hidden_size = 25; });
  refused([](DecoderConfig& c) { c.head_dim = 3; });
  refused([](DecoderConfig& c) { c.rope_theta = 0; });
  refused([](DecoderConfig& c) { c.compute = Dtype::f16; });
  refused([](DecoderConfig& c) { c.num_hidden_layers = -1; });
}

TEST_CASE("decoder: the memory of a plan is what a step takes") {
  for (const bool checkpointed : {false, true}) {
    DecoderConfig c;
    c.vocab_size = 256;
    c.hidden_size = 128;
    c.intermediate_size = 320;
    c.num_hidden_layers = 6;
    c.num_attention_heads = 4;
    c.num_key_value_heads = 2;
    c.checkpoint = checkpointed;
    const Decoder decoder(c, 1);
    const int64_t tokens = 1024, before = memory_stats().current;
    const Tensor hidden = decoder.hidden(ids(some_tokens(tokens, 1, 256)), packed({0, -1}));
    const auto kept = static_cast<double>(memory_stats().current - before);
    const DecoderMemory memory = decoder_memory(c, tokens);
    CAPTURE(checkpointed);
    CHECK(kept / static_cast<double>(memory.activation * tokens) ==
          doctest::Approx(1).epsilon(0.2));
    CHECK(memory.cache == 2 * 6 * 2 * 32 * 4);
    CHECK(memory.training == 12 * c.parameters());
  }
}

TEST_CASE("scalar head: hidden rows to numbers, zero where asked") {
  const ScalarHead head(8, 3), zero(8, 3, 0);
  const Tensor x = Init{9}.normal({5, 8}, 1);
  CHECK(head(x).sizes() == Shape{5});
  CHECK(head.named_parameters()[0].first == "score.weight");
  double expected = 0;
  for (int i = 0; i < 8; ++i) expected += double{x.data<float>()[i]} * head.weight.data<float>()[i];
  CHECK(head(x).data<float>()[0] == doctest::Approx(expected).epsilon(1e-5));
  for (const float y : zero(x).values<float>()) CHECK(y == 0);
  CHECK(head(cast(x, Dtype::bf16)).dtype() == Dtype::f32);
}
