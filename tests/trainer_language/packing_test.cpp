#include "trainer/language/packing.h"

#include <doctest/doctest.h>

#include "autograd/engine.h"
#include "core/base/rng.h"

using namespace bessemer;

namespace {

nn::Decoder small_decoder() {
  nn::DecoderConfig config;
  config.vocab_size = 20;
  config.hidden_size = 16;
  config.intermediate_size = 32;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 2;
  config.max_position_embeddings = 128;
  return nn::Decoder(config.checked(), 5);
}

std::vector<int32_t> words(uint64_t key, int64_t n) {
  const Rng rng{9, Stream::user};
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(static_cast<int32_t>(rng.at(key, static_cast<uint64_t>(i)).word[0] % 20));
  return out;
}

Continuation answer(uint64_t key, int64_t n) {
  Continuation out{words(key, n), std::vector<uint8_t>(static_cast<size_t>(n), 1)};
  for (size_t i = 2; i < out.trained.size(); i += 3)
    out.trained[i] = 0;  // as an environment's words
  return out;
}

/// Groups of several sizes, a text without prompt, a group too large for a pass.
std::vector<Text> texts() {
  std::vector<Text> out;
  for (uint64_t t = 0; t < 6; ++t) {
    Text text;
    if (t != 2) text.prompt = words(100 + t, 5 + static_cast<int64_t>(t) * 7);
    const uint64_t count = t == 2 ? 1 : 1 + t % 4;
    for (uint64_t c = 0; c < count; ++c)
      text.continuations.push_back(answer(1000 + 10 * t + c, 1 + static_cast<int64_t>(3 * c + t)));
    out.push_back(std::move(text));
  }
  return out;
}

/// Every continuation in a pass of its own, its prompt before it.
std::vector<Text> alone(const std::vector<Text>& texts) {
  std::vector<Text> out;
  for (const Text& text : texts)
    for (const Continuation& c : text.continuations) out.push_back({text.prompt, {c}});
  return out;
}

/// Sum of -log p / total over all passes, with the gradients of all parameters.
double loss_and_gradients(const nn::Decoder& decoder, const std::vector<Pack>& packs, double total,
                          std::vector<std::vector<float>>& gradients) {
  double loss = 0;
  for (const Pack& pack : packs) {
    if (pack.rows.empty()) continue;
    const auto n = static_cast<int64_t>(pack.rows.size());
    const Tensor part =
        linear_nll(pack_rows(pack_hidden(decoder, pack), pack), decoder.output_weight(),
                   index_tensor(pack.targets), Tensor::full({n}, 1 / total))[0];
    loss += part.item();
    backward(part);
  }
  gradients.clear();
  for (const Tensor& p : decoder.parameters()) {
    const Tensor g = contiguous(grad(p));
    gradients.emplace_back(g.values<float>().begin(), g.values<float>().end());
    clear_grad(p);
  }
  return loss;
}

}  // namespace

TEST_CASE("packing: packed and shared is one by one, in bits forward and closely backward") {
  const nn::Decoder decoder = small_decoder();
  for (const Tensor& p : decoder.parameters()) set_requires_grad(p);
  const std::vector<Text> all = texts(), apart = alone(all);
  int64_t total = 0;
  for (const Text& text : all) total += trained_tokens(text);

  std::vector<Pack> single;
  for (const Text& one : apart) {
    const auto packs = pack_texts(std::span(&one, 1), {});
    single.insert(single.end(), packs.begin(), packs.end());
  }
  const std::vector<float> reference = text_log_probs(decoder, single, 0.7);
  CHECK(static_cast<int64_t>(reference.size()) == total);
  std::vector<std::vector<float>> wanted, found;
  const double loss = loss_and_gradients(decoder, single, static_cast<double>(total), wanted);

  for (const int64_t size : {16, 40, 100, 100'000}) {
    CAPTURE(size);
    const std::vector<Pack> packs = pack_texts(all, {.max_tokens = size});
    if (size == 100'000) CHECK(packs.size() == 1);
    if (size == 40) CHECK(packs.size() > 2);
    CHECK(text_log_probs(decoder, packs, 0.7) == reference);
    // The denominator is the step's, so that the number of passes means nothing.
    const double packed = loss_and_gradients(decoder, packs, static_cast<double>(total), found);
    CHECK(packed == doctest::Approx(loss).epsilon(1e-6));
    for (size_t i = 0; i < wanted.size(); ++i)
      for (size_t j = 0; j < wanted[i].size(); ++j)
        REQUIRE(std::abs(found[i][j] - wanted[i][j]) <= 1e-6 + 1e-4 * std::abs(wanted[i][j]));
  }
}

TEST_CASE("packing: a shared prompt is computed once, unneeded tokens not at all") {
  Text text;
  text.prompt = words(1, 10);
  for (uint64_t c = 0; c < 4; ++c) text.continuations.push_back({words(2 + c, 3), {1, 1, 0}});
  const std::vector<Pack> packs = pack_texts(std::span(&text, 1), {});
  REQUIRE(packs.size() == 1);
  CHECK(packs[0].tokens.size() == 10 + 4 * 1);  // the second trained token is only predicted
  CHECK(packs[0].segments == std::vector<int64_t>{0, -1, 10, 0, 11, 0, 12, 0, 13, 0});
  CHECK(packs[0].rows == std::vector<int64_t>{9, 10, 9, 11, 9, 12, 9, 13});
  CHECK(packs[0].offsets == std::vector<int64_t>{0, 2, 4, 6, 8});

  const std::vector<Pack> whole = pack_texts(std::span(&text, 1), {.whole = true});
  CHECK(whole[0].tokens.size() == 10 + 4 * 3);
  CHECK(whole[0].last == std::vector<int64_t>{12, 15, 18, 21});

  // A pair stays together, however long.
  const std::vector<Pack> kept =
      pack_texts(std::span(&text, 1), {.max_tokens = 11, .divide = false});
  CHECK(kept.size() == 1);
  CHECK(pack_texts(std::span(&text, 1), {.max_tokens = 11}).size() == 4);
}
