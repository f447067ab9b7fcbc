// The log-probabilities that the generator reports are those of the trainer's forward pass over
// packed sequences, bit for bit: for every batch size, chunk of a prompt, number of threads,
// packing and layout of pages, with and without shared prompts.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>

#include "core/base/child.h"
#include "core/ops/ops.h"
#include "tests/rollout/decoder_toy.h"

using namespace bessemer;
using namespace bessemer::test;

namespace {

struct Threads {
  explicit Threads(int n) { cpu::set_threads(n); }
  ~Threads() { cpu::set_threads(1); }
};

/// A packed batch under construction, with the rows whose outputs predict a sampled token.
struct Batch {
  std::vector<int64_t> tokens, segments, rows, targets;
  std::vector<float> reported;

  int64_t segment(std::span<const int32_t> part, int64_t prefix) {
    segments.push_back(static_cast<int64_t>(tokens.size()));
    segments.push_back(prefix);
    tokens.insert(tokens.end(), part.begin(), part.end());
    return static_cast<int64_t>(segments.size() / 2) - 1;
  }
  /// `completion` follows the token at row `last`; its own tokens are the batch's latest.
  void predict(const Completion& completion, int64_t last) {
    const auto n = static_cast<int64_t>(completion.tokens.size());
    const auto begin = static_cast<int64_t>(tokens.size()) - n;
    for (int64_t i = 0; i < n; ++i) {
      rows.push_back(i == 0 ? last : begin + i - 1);
      targets.push_back(completion.tokens[static_cast<size_t>(i)]);
      reported.push_back(completion.log_prob[static_cast<size_t>(i)]);
    }
  }
};

enum class Packing { alone, side_by_side, shared };

/// One batch each (alone), all in one batch with their prompts repeated, or with shared prompts.
std::vector<Batch> pack(std::span<const Prompt> prompts, std::span<const Completion> completions,
                        Packing packing) {
  std::vector<Batch> out(1);
  size_t next = 0;
  for (const Prompt& prompt : prompts) {
    int64_t prefix = -1, last = 0;
    for (int64_t i = 0; i < prompt.completions; ++i) {
      const Completion& completion = completions[next++];
      if (packing == Packing::alone && !out.back().tokens.empty()) out.emplace_back();
      Batch& batch = out.back();
      if (packing == Packing::shared) {
        if (i == 0) {
          prefix = batch.segment(prompt.tokens, -1);
          last = static_cast<int64_t>(batch.tokens.size()) - 1;
        }
        batch.segment(completion.tokens, prefix);
      } else {
        std::vector<int32_t> whole = prompt.tokens;
        whole.insert(whole.end(), completion.tokens.begin(), completion.tokens.end());
        batch.segment(whole, -1);
        last = static_cast<int64_t>(batch.tokens.size() - completion.tokens.size()) - 1;
      }
      batch.predict(completion, last);
    }
  }
  return out;
}

Tensor ids(const std::vector<int64_t>& values, const Shape& shape) {
  return Tensor::from(std::span<const int64_t>(values), shape);
}

/// How many of the reported log-probabilities are not the trainer's.
int64_t mismatches(const nn::Decoder& decoder, const Batch& batch, double temperature) {
  const auto n = static_cast<int64_t>(batch.tokens.size());
  const auto sampled = static_cast<int64_t>(batch.rows.size());
  const nn::Packed packed{
      ids(batch.segments, {static_cast<int64_t>(batch.segments.size() / 2), 2})};
  // As a trainer does it: recorded.
  const Tensor hidden = decoder.hidden(ids(batch.tokens, {n}), packed);
  const auto [log_prob, entropy] = linear_cross_entropy(
      index_select(hidden, 0, ids(batch.rows, {sampled})), decoder.output_weight(),
      ids(batch.targets, {sampled}), inverse_temperature(temperature));
  int64_t wrong = 0;
  for (int64_t i = 0; i < sampled; ++i)
    wrong += std::memcmp(log_prob.data<float>() + i, &batch.reported[static_cast<size_t>(i)],
                         sizeof(float)) != 0;
  return wrong;
}

const std::vector<Prompt>& prompts() {
  static const std::vector<Prompt> list = {{some_tokens(45, 1), 4, 100, 0, 0},
                                           {some_tokens(3, 2), 1, 200, 1, 0},
                                           {some_tokens(32, 3), 3, 300, 2, 0},
                                           {some_tokens(70, 4), 2, 400, 3, 0}};
  return list;
}

const std::vector<GeneratorOptions>& settings() {
  static const std::vector<GeneratorOptions> list = [] {
    GeneratorOptions usual, one, chunks, separate, scarce;
    one.max_batch = 1;
    chunks.step_tokens = 7;
    chunks.max_batch = 5;
    separate.share_prompts = false;
    separate.step_tokens = 50;
    scarce.pages = 11;  // sequences lose their pages and are computed again
    std::vector<GeneratorOptions> all = {usual, one, chunks, separate, scarce};
    for (GeneratorOptions& options : all) options.seed = 5;
    return all;
  }();
  return list;
}

void check(const nn::DecoderConfig& config, double temperature, std::span<const int> threads) {
  const nn::Decoder decoder(config, 3);
  spread(decoder);
  SamplingOptions sampling;
  sampling.max_tokens = 40;
  sampling.stop_ids = {7};
  sampling.temperature = temperature;
  std::vector<Completion> first;
  for (const int n : threads) {
    const Threads scope(n);
    CAPTURE(n);
    for (size_t s = 0; s < settings().size(); ++s) {
      CAPTURE(s);
      Generator generator(decoder, settings()[s]);
      const auto completions = generator.generate(prompts(), sampling);
      if (first.empty()) first = completions;
      REQUIRE(completions.size() == first.size());
      for (size_t i = 0; i < first.size(); ++i) CHECK(same(completions[i], first[i]));
      CHECK(generator.cache().free_pages() == generator.cache().pages());
    }
    for (const Packing packing : {Packing::alone, Packing::side_by_side, Packing::shared}) {
      CAPTURE(static_cast<int>(packing));
      for (const Batch& batch : pack(prompts(), first, packing))
        CHECK(mismatches(decoder, batch, temperature) == 0);
    }
  }
  int64_t sampled = 0;
  for (const Completion& completion : first) sampled += std::ssize(completion.tokens);
  CHECK(sampled > 100);
}

}  // namespace

TEST_CASE("zero mismatch: float32, any threads, batches, chunks, packings and pages") {
  const int threads[] = {1, 2, 3};
  nn::DecoderConfig c = tiny_decoder();
  c.vocab_size = 512;  // wide enough that products are cut for threads
  c.hidden_size = 144;
  c.intermediate_size = 256;
  check(c, 1, threads);
}

TEST_CASE("zero mismatch: heads shared or not, tied or not, other temperatures") {
  const int one[] = {1};
  for (const bool tied : {true, false}) {
    for (const int64_t kv : {1, 6}) {
      nn::DecoderConfig c = tiny_decoder();
      c.tie_word_embeddings = tied;
      c.num_key_value_heads = kv;
      c.head_dim = kv == 1 ? 16 : 0;
      CAPTURE(tied);
      CAPTURE(kv);
      check(c, tied ? 0.7 : 1.3, one);
    }
  }
}

TEST_CASE("zero mismatch: bfloat16 on one machine") {
  const int threads[] = {1, 2};
  nn::DecoderConfig c = tiny_decoder();
  c.compute = Dtype::bf16;
  check(c, 1, threads);
  c.tie_word_embeddings = false;
  check(c, 0.7, std::span(threads, 1));
}

TEST_CASE("zero mismatch: the same with gradient checkpointing") {
  const int one[] = {1};
  nn::DecoderConfig c = tiny_decoder();
  c.checkpoint = true;
  check(c, 1, one);
}

TEST_CASE("zero mismatch holds for every instruction set of this machine" *
          doctest::skip(std::getenv("BESSEMER_ISA") != nullptr)) {
  for (const std::string& isa : cpu::available_isas()) {
    if (isa == cpu::kernels().isa) continue;
    CAPTURE(isa);
    ChildOptions again;  // this program, its kernels chosen anew
    again.args = {cat("/proc/", getpid(), "/exe"),
                  "-tc=zero mismatch: float32*,zero mismatch: heads*,zero mismatch: bfloat16*"};
    again.env = {{"BESSEMER_ISA", isa}};
    const ChildResult result = run_child(again, 300);
    CAPTURE(result.output.text);
    CHECK(result.status.ok());
  }
}
