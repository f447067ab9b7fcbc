#include "rollout/generate.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/engine.h"
#include "autograd/nn/optim.h"
#include "core/ops/ops.h"
#include "tests/rollout/decoder_toy.h"

using namespace bessemer;
using namespace bessemer::test;
using Finish = Completion::Finish;

namespace {

struct Toy {
  nn::Decoder decoder;
  explicit Toy(const nn::DecoderConfig& config = tiny_decoder()) : decoder(config, 3) {
    spread(decoder);
  }
  Generator generator(GeneratorOptions options = {}) const {
    options.seed = 5;
    return Generator(decoder, options);
  }
};

/// Every token is a byte of its own.
std::string_view byte_of(int32_t token) {
  static const std::string table = [] {
    std::string out;
    for (int i = 0; i < 256; ++i) out += static_cast<char>(i);
    return out;
  }();
  return std::string_view(table).substr(static_cast<size_t>(token), 1);
}

/// Makes the decoder say `script` whatever the prompt: after token t comes script's token behind t.
/// The layers add nothing; embeddings are unit vectors and the head is their shift.
nn::Decoder parrot(const std::vector<int32_t>& script, int64_t vocabulary = 256) {
  nn::DecoderConfig c;
  c.vocab_size = vocabulary;
  c.hidden_size = vocabulary;
  c.intermediate_size = 8;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 2;
  c.max_position_embeddings = 64;
  c.tie_word_embeddings = false;
  nn::Decoder decoder(c, 1);
  NoGrad no_grad;
  for (const auto& [name, w] : decoder.named_parameters()) {
    if (w.ndim() == 2) fill(w, 0);
    if (name == "model.embed_tokens.weight")
      for (int64_t i = 0; i < vocabulary; ++i) w.data<float>()[i * vocabulary + i] = 1;
    if (name == "lm_head.weight")
      for (size_t i = 0; i + 1 < script.size(); ++i)
        w.data<float>()[script[i + 1] * vocabulary + script[i]] = 10;
    w.bump();
  }
  return decoder;
}

SamplingOptions greedy(int64_t max_tokens) {
  SamplingOptions s;
  s.temperature = 0;
  s.max_tokens = max_tokens;
  return s;
}

}  // namespace

TEST_CASE("generate: a sequence's tokens do not depend on who shares its batch") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 30;
  const std::vector<Prompt> prompts = {{some_tokens(20, 1), 3, 10, 0, 0},
                                       {some_tokens(50, 2), 2, 20, 1, 0}};
  Generator together = toy.generator();
  const auto all = together.generate(prompts, sampling);
  REQUIRE(all.size() == 5);
  for (size_t i = 0; i < all.size(); ++i) {
    Generator alone = toy.generator();
    const Prompt& prompt = prompts[i < 3 ? 0 : 1];
    const Prompt one = {prompt.tokens, 1, prompt.sequence + (i < 3 ? i : i - 3), prompt.group, 0};
    CHECK(same(alone.generate(std::span(&one, 1), sampling)[0], all[i]));
    CHECK(all[i].group == prompt.group);
    CHECK(all[i].finish == Finish::length);
    CHECK_FALSE(all[i].truncated_sampling);
  }
  CHECK(all[0].tokens != all[1].tokens);
}

TEST_CASE("generate: the prompt of a group is computed once") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 10;
  const Prompt prompt = {some_tokens(40, 1), 6, 0, 0, 0};
  Generator shared = toy.generator(), separate = toy.generator({.share_prompts = false});
  const auto a = shared.generate(std::span(&prompt, 1), sampling);
  const auto b = separate.generate(std::span(&prompt, 1), sampling);
  for (size_t i = 0; i < a.size(); ++i) CHECK(same(a[i], b[i]));
  CHECK(shared.counts().computed == 40 + 6 * 9);
  CHECK(shared.counts().shared == 5 * 40);
  CHECK(separate.counts().computed == 6 * (40 + 9));
  CHECK(shared.counts().sampled == 60);
}

TEST_CASE("generate: sequences join and leave, never more than the batch holds") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 12;
  std::vector<Prompt> prompts;
  for (int i = 0; i < 9; ++i)
    prompts.push_back({some_tokens(5 + 7 * i, i), 1 + i % 3, static_cast<uint64_t>(10 * i), i, 0});
  const auto expected = toy.generator().generate(prompts, sampling);
  for (const int64_t batch : {1, 3, 100}) {
    for (const int64_t step : {1, 5, 64}) {
      Generator generator = toy.generator({.max_batch = batch, .step_tokens = step});
      const auto got = generator.generate(prompts, sampling);
      for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], expected[i]));
      CHECK(generator.cache().free_pages() == generator.cache().pages());
    }
  }
}

TEST_CASE("generate: without pages sequences wait or are computed again, with the same tokens") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 60;
  const std::vector<Prompt> prompts = {{some_tokens(40, 1), 4, 10, 0, 0},
                                       {some_tokens(50, 2), 4, 20, 1, 0}};
  const auto expected = toy.generator().generate(prompts, sampling);
  for (const int64_t pages : {4, 5, 7, 12}) {
    CAPTURE(pages);
    Generator generator = toy.generator({.pages = pages});
    const auto got = generator.generate(prompts, sampling);
    for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], expected[i]));
    CHECK(generator.counts().preempted > 0);
    CHECK(generator.cache().free_pages() == pages);
  }
  // 40 + 60 tokens need four pages: with three nobody can finish.
  Generator generator = toy.generator({.pages = 3});
  for (const Completion& completion : generator.generate(prompts, sampling)) {
    CHECK(completion.finish == Finish::out_of_pages);
    CHECK(completion.tokens.size() == completion.log_prob.size());
    CHECK(completion.tokens.size() < 60);
  }
  Generator prompt_too_big = toy.generator({.pages = 1});
  for (const Completion& completion : prompt_too_big.generate(prompts, sampling))
    CHECK(completion.finish == Finish::out_of_pages);
}

TEST_CASE("generate: what an earlier sequence left in a page does not matter") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 20;
  const Prompt prompt = {some_tokens(20, 1), 2, 10, 0, 0};
  const auto expected = toy.generator().generate(std::span(&prompt, 1), sampling);
  Generator generator = toy.generator();
  for (const nn::KvPages& layer : generator.cache().layers()) {
    fill(layer.k, std::numeric_limits<double>::quiet_NaN());
    fill(layer.v, std::numeric_limits<double>::infinity());
  }
  const auto got = generator.generate(std::span(&prompt, 1), sampling);
  for (size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], expected[i]));
}

TEST_CASE("generate: how completions end") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 300;
  const std::vector<Prompt> prompts = {{some_tokens(200, 1), 1, 1, 0, 0},
                                       {some_tokens(256, 1), 2, 2, 1, 0},
                                       {some_tokens(300, 1), 1, 4, 2, 0},
                                       {some_tokens(255, 1), 1, 5, 3, 0}};
  const auto got = toy.generator().generate(prompts, sampling);
  CHECK(got[0].finish == Finish::context);
  CHECK(got[0].tokens.size() == 56);
  for (size_t i : {1, 2, 3}) {
    CHECK(got[i].finish == Finish::prompt_too_long);
    CHECK(got[i].tokens.empty());
  }
  CHECK(got[4].finish == Finish::context);
  CHECK(got[4].tokens.size() == 1);
  CHECK(finish_name(got[4].finish) == "context");

  const nn::Decoder says = parrot({'a', 'b', 'c', 'd', 'e', 'f', 'a'});
  GeneratorOptions options;
  options.token_bytes = byte_of;
  Generator generator(says, options);
  const Prompt prompt = {{'x', 'a'}, 1, 0, 0, 0};
  SamplingOptions stop = greedy(20);
  stop.stop_ids = {'z', 'e'};
  Completion c = generator.generate(std::span(&prompt, 1), stop)[0];
  CHECK(c.finish == Finish::stop);
  CHECK(c.tokens == std::vector<int32_t>{'b', 'c', 'd', 'e'});
  CHECK(c.text == "bcd");
  CHECK(c.truncated_sampling);
  stop.stop_ids = {};
  stop.stop = {"nothing", "fabc"};
  c = generator.generate(std::span(&prompt, 1), stop)[0];
  CHECK(c.finish == Finish::stop_string);
  CHECK(c.tokens.size() == 8);
  CHECK(c.text == "bcde");
  stop.stop = {};
  stop.max_tokens = 1;
  c = generator.generate(std::span(&prompt, 1), stop)[0];
  CHECK(c.finish == Finish::length);
  CHECK(c.text == "b");
}

TEST_CASE("generate: text arrives as whole characters, stop strings match across tokens") {
  // "aé€" in bytes, the last character cut off by the limit.
  const nn::Decoder says = parrot({'a', 0xC3, 0xA9, 0xE2, 0x82, 0xAC, '!'});
  GeneratorOptions options;
  options.token_bytes = byte_of;
  Generator generator(says, options);
  const Prompt prompt = {{'a'}, 1, 0, 0, 0};
  CHECK(generator.generate(std::span(&prompt, 1), greedy(5))[0].text == "é€");
  CHECK(generator.generate(std::span(&prompt, 1), greedy(4))[0].text == "é\xEF\xBF\xBD");
  SamplingOptions stop = greedy(6);
  stop.stop = {"€"};
  const Completion c = generator.generate(std::span(&prompt, 1), stop)[0];
  CHECK(c.finish == Finish::stop_string);
  CHECK(c.text == "é");
  CHECK(c.tokens.size() == 5);
}

TEST_CASE("generate: top-k, top-p and greedy are flagged, log-probs are of the whole vocabulary") {
  const Toy toy;
  const Prompt prompt = {some_tokens(10, 1), 1, 3, 0, 0};
  SamplingOptions sampling;
  sampling.max_tokens = 25;
  sampling.top_k = 1;
  const Completion top = toy.generator().generate(std::span(&prompt, 1), sampling)[0];
  const Completion most = toy.generator().generate(std::span(&prompt, 1), greedy(25))[0];
  CHECK(top.truncated_sampling);
  CHECK(most.truncated_sampling);
  CHECK(top.tokens == most.tokens);
  CHECK(same_bits(top.log_prob, most.log_prob));
  for (const float lp : top.log_prob) CHECK(lp < 0);
  sampling.top_k = 0;
  sampling.top_p = 0.5;
  CHECK(toy.generator().generate(std::span(&prompt, 1), sampling)[0].truncated_sampling);
}

TEST_CASE("generate: a conversation keeps its cache") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 9;
  const Prompt prompt = {some_tokens(33, 1), 2, 40, 0, 0};
  Generator generator = toy.generator();
  const int64_t handle = generator.add(prompt, sampling, true);
  auto run = [&] {
    while (generator.step()) {
    }
    return generator.take();
  };
  std::vector<int32_t> history[2] = {prompt.tokens, prompt.tokens};
  std::vector<Completion> last(2);
  for (int turn = 0; turn < 3; ++turn) {
    const int64_t before = generator.counts().computed;
    auto finished = run();
    REQUIRE(finished.size() == 2);
    for (int64_t i = 0; i < 2; ++i) {
      CHECK(finished[static_cast<size_t>(i)].handle == handle + i);
      const Completion& got = finished[static_cast<size_t>(i)].completion;
      // The same from scratch: the whole history as a prompt, draws counted on.
      const Prompt whole = {history[i], 1, prompt.sequence + static_cast<uint64_t>(i), 0,
                            static_cast<uint64_t>(turn * 9)};
      CHECK(same(toy.generator().generate(std::span(&whole, 1), sampling)[0], got));
      history[i].insert(history[i].end(), got.tokens.begin(), got.tokens.end());
      const auto answer = some_tokens(4 + turn, 50 + i);
      if (turn < 2) generator.extend(handle + i, answer, sampling);
      history[i].insert(history[i].end(), answer.begin(), answer.end());
    }
    if (turn > 0) CHECK(generator.counts().computed - before == 2 * (1 + 4 + turn - 1 + 8));
  }
  CHECK_THROWS_AS(generator.extend(handle + 2, {}, sampling), ValueError);
  generator.release(handle);
  CHECK_THROWS_AS(generator.extend(handle, {}, sampling), ValueError);
  CHECK(generator.cache().free_pages() < generator.cache().pages());
  generator.extend(handle + 1, std::vector<int32_t>(200, 1), sampling);
  CHECK(run()[0].completion.finish == Finish::context);
  generator.release(handle + 1);
  CHECK(generator.cache().free_pages() == generator.cache().pages());
}

TEST_CASE("generate: parked conversations give up their pages and are computed again") {
  const Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 20;
  const Prompt first = {some_tokens(60, 1), 1, 1, 0, 0}, second = {some_tokens(70, 2), 1, 2, 0, 0};
  auto talk = [&](int64_t pages) {
    Generator generator = toy.generator({.pages = pages});
    const int64_t a = generator.add(first, sampling, true);
    while (generator.step()) {
    }
    generator.add(second, sampling, true);
    while (generator.step()) {
    }
    generator.extend(a, some_tokens(5, 3), sampling);
    while (generator.step()) {
    }
    return generator.take();
  };
  const auto plenty = talk(0), scarce = talk(4);
  REQUIRE(plenty.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(same(plenty[i].completion, scarce[i].completion));
}

TEST_CASE("generate: new weights between steps") {
  Toy toy;
  SamplingOptions sampling;
  sampling.max_tokens = 24;
  const Prompt prompt = {some_tokens(30, 1), 3, 40, 0, 0};
  Generator generator = toy.generator();
  generator.set_version(7, 123);
  generator.add(prompt, sampling);
  for (int i = 0; i < 11; ++i) generator.step();
  {
    NoGrad no_grad;
    for (const Tensor& w : toy.decoder.parameters()) assign(w, w * 0.9);
  }
  generator.set_version(8, 124);
  CHECK(generator.weight_hash() == 124);
  while (generator.step()) {
  }
  CHECK(generator.counts().invalidated == 3);
  for (const auto& [handle, c] : generator.take()) {
    CHECK(c.weight_version == 8);
    REQUIRE(c.version.size() == 24);
    for (size_t i = 0; i < 24; ++i) CHECK(c.version[i] == (i < 11 ? 7u : 8u));
    // The later tokens are those of the new weights after the whole history.
    Prompt rest = {prompt.tokens, 1, c.sequence, 0, 11};
    rest.tokens.insert(rest.tokens.end(), c.tokens.begin(), c.tokens.begin() + 11);
    SamplingOptions thirteen = sampling;
    thirteen.max_tokens = 13;
    const Completion fresh = toy.generator().generate(std::span(&rest, 1), thirteen)[0];
    CHECK(std::equal(fresh.tokens.begin(), fresh.tokens.end(), c.tokens.begin() + 11));
    CHECK(std::equal(fresh.log_prob.begin(), fresh.log_prob.end(), c.log_prob.begin() + 11));
  }
}

TEST_CASE("generate: random schedules give every sequence the tokens that it has alone") {
  nn::DecoderConfig config = tiny_decoder();
  config.hidden_size = 24;
  config.intermediate_size = 32;
  config.num_hidden_layers = 1;
  config.max_position_embeddings = 120;
  const Toy toy(config);
  for (uint64_t round = 0; round < 25; ++round) {
    CAPTURE(round);
    uint64_t draws = 0;
    auto below = [&](uint32_t n) {
      return static_cast<int64_t>(Rng{17}.at(round, draws++).word[0] % n);
    };
    Generator generator = toy.generator({.max_batch = 1 + below(8),
                                         .pages = 4 + below(12),
                                         .step_tokens = 1 + below(60),
                                         .share_prompts = below(4) > 0});
    SamplingOptions sampling;
    sampling.max_tokens = 1 + below(40);
    sampling.stop_ids = {3};
    struct Conversation {
      std::vector<int32_t> history;
      uint64_t key;
      uint64_t drawn = 0;
      int64_t turns;
    };
    std::vector<Conversation> open;  // by handle
    int64_t left = 0;
    auto add = [&] {
      const Prompt prompt = {some_tokens(1 + below(70), below(50)), 1 + below(5),
                             static_cast<uint64_t>(open.size()), 0, 0};
      REQUIRE(generator.add(prompt, sampling, true) == static_cast<int64_t>(open.size()));
      for (int64_t i = 0; i < prompt.completions; ++i)
        open.push_back({prompt.tokens, open.size(), 0, below(3)});
      left += prompt.completions;
    };
    for (int i = 0; i < 3; ++i) add();
    int64_t to_come = 4;
    while (left > 0) {
      const bool busy = generator.step();
      const auto finished = generator.take();
      REQUIRE((busy || !finished.empty()));
      for (const auto& [handle, got] : finished) {
        Conversation& c = open[static_cast<size_t>(handle)];
        REQUIRE(got.finish != Finish::out_of_pages);  // four pages hold a whole context
        const Prompt alone = {c.history, 1, c.key, 0, c.drawn};
        CHECK(same(toy.generator().generate(std::span(&alone, 1), sampling)[0], got));
        c.history.insert(c.history.end(), got.tokens.begin(), got.tokens.end());
        c.drawn += got.tokens.size();
        const auto answer = some_tokens(below(9), handle);
        c.history.insert(c.history.end(), answer.begin(), answer.end());
        if (c.turns-- > 0 && c.history.size() < 120) {
          generator.extend(handle, answer, sampling);
        } else {
          generator.release(handle);
          --left;
        }
      }
      if (to_come > 0 && below(6) == 0) {
        --to_come;
        add();
      }
    }
    CHECK(generator.cache().free_pages() == generator.cache().pages());
    CHECK_FALSE(generator.step());
  }
}

TEST_CASE("generate: what it refuses") {
  const Toy toy;
  Generator generator = toy.generator();
  const SamplingOptions usual;
  auto refuse = [&](const Prompt& prompt, const SamplingOptions& sampling) {
    generator.generate(std::span(&prompt, 1), sampling);
  };
  CHECK_THROWS_WITH_AS(refuse({{1, 61}, 1, 0, 0, 0}, usual),
                       doctest::Contains("token 61 is beyond the vocabulary of 61"), IndexError);
  CHECK_THROWS_AS(refuse({{-1}, 1, 0, 0, 0}, usual), IndexError);
  CHECK_THROWS_AS(refuse({{}, 1, 0, 0, 0}, usual), ValueError);
  CHECK_THROWS_AS(refuse({{1}, 0, 0, 0, 0}, usual), ValueError);
  auto with = [&](auto change) {
    SamplingOptions s;
    change(s);
    return s;
  };
  const Prompt fine = {{1}, 1, 0, 0, 0};
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.temperature = -1; })), ValueError);
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.temperature = NAN; })), ValueError);
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.top_k = -1; })), ValueError);
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.top_p = 0; })), ValueError);
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.max_tokens = 0; })), ValueError);
  CHECK_THROWS_AS(refuse(fine, with([](auto& s) { s.stop = {"x"}; })), ValueError);
  CHECK_THROWS_AS(toy.generator({.max_batch = 0}), ValueError);
  CHECK_THROWS_AS(toy.generator({.pages = -1}), ValueError);
  {
    NoGrad no_grad;
    fill(toy.decoder.parameters()[0], NAN);
  }
  CHECK_THROWS_AS(refuse(fine, usual), NotFiniteError);
  CHECK(generator.cache().free_pages() == generator.cache().pages());
}

TEST_CASE("a decoder of two layers learns a sentence by heart and says it") {
  const std::string text = "the quick brown fox jumps over the lazy dog";
  nn::DecoderConfig c;
  c.vocab_size = 256;
  c.hidden_size = 32;
  c.intermediate_size = 64;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.max_position_embeddings = 64;
  const nn::Decoder decoder(c, 1);
  nn::Adam adam(decoder.parameters());
  std::vector<int64_t> tokens(text.begin(), text.end());
  const auto n = static_cast<int64_t>(tokens.size()) - 1;
  const Tensor inputs =
      Tensor::from(std::span<const int64_t>(tokens).first(tokens.size() - 1), {n});
  const Tensor targets = Tensor::from(std::span<const int64_t>(tokens).subspan(1), {n});
  const int64_t start[] = {0, -1};
  const nn::Packed packed{Tensor::from(std::span<const int64_t>(start), {1, 2})};
  const Tensor weights = Tensor::full({n}, 1.0 / static_cast<double>(n));
  double loss = 0;
  for (int step = 0; step < 120; ++step) {
    nn::zero_grad(adam.parameters());
    const Tensor nll =
        linear_nll(decoder.hidden(inputs, packed), decoder.output_weight(), targets, weights)[0];
    loss = nll.item();
    backward(nll);
    adam.step(1e-2);
  }
  CHECK(loss < 0.05);
  GeneratorOptions options;
  options.token_bytes = byte_of;
  Generator generator(decoder, options);
  const Prompt prompt = {{'t', 'h', 'e', ' ', 'q'}, 1, 0, 0, 0};
  const auto said = generator.generate(std::span(&prompt, 1), greedy(n - 4));
  CHECK("the q" + said[0].text == text);
}
