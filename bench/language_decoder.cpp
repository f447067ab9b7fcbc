// Decoders as a whole, one thread unless --threads N says otherwise: a training step of 14 M
// parameters beside the limit of multiply-adds, and generation at SmolLM2-135M's shape with random
// weights beside the limit of memory. Peers: bench/peers (torch's train_step.py, llama.cpp's
// decode.py, with the same sizes).
//   bench_language_decoder [--json] [--threads N] [--repeats N] [train|generate]
#include <cstring>

#include "autograd/engine.h"
#include "autograd/nn/optim.h"
#include "bench/bench.h"
#include "bench/peak.h"
#include "bench/shapes.h"
#include "core/ops/ops.h"
#include "rollout/generate.h"

namespace bessemer::bench {
namespace {

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "fp32" : "bf16"; }

struct Training {
  static constexpr int64_t kSequences = 4, kLength = 512, kTokens = kSequences * kLength;
  nn::Decoder decoder;
  nn::Adam adam;
  nn::Packed packed;
  Tensor tokens = Tensor::empty({kTokens}, Dtype::i64), targets, weights;

  explicit Training(const nn::DecoderConfig& config)
      : decoder(config, 1), adam(decoder.parameters()) {
    const Rng rng{7};
    for (int64_t i = 0; i < kTokens; ++i)
      tokens.data<int64_t>()[i] =
          rng.at(static_cast<uint64_t>(i)).word[0] % static_cast<uint64_t>(config.vocab_size);
    targets = tokens;
    weights = Tensor::full({kTokens}, 1.0 / kTokens);
    packed.segments = Tensor::empty({kSequences, 2}, Dtype::i64);
    for (int64_t s = 0; s < kSequences; ++s) {
      packed.segments.data<int64_t>()[2 * s] = s * kLength;
      packed.segments.data<int64_t>()[2 * s + 1] = -1;
    }
  }
  void step() {
    nn::zero_grad(adam.parameters());
    backward(
        linear_nll(decoder.hidden(tokens, packed), decoder.output_weight(), targets, weights)[0]);
    adam.step(1e-4);
  }
  /// Of the products: 6 a weight and token, and attention's causal halves.
  double flops() const {
    const nn::DecoderConfig& c = decoder.config();
    const double width = static_cast<double>(c.num_attention_heads * c.head_dim);
    return static_cast<double>(kTokens) *
           (6.0 * static_cast<double>(c.parameters()) +
            6.0 * static_cast<double>(c.num_hidden_layers) * kLength * width);
  }
};

void train(Report& report, int threads, int repeats) {
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    nn::DecoderConfig config = decoder_14m();
    config.compute = compute;
    Training training(config);
    std::vector<Subject> subjects = peak_subjects(cpu::kernels(), threads);
    const size_t limits = subjects.size();
    subjects.push_back({"step", [&] { training.step(); }, training.flops()});
    measure(subjects, repeats, 0.05);
    const double limit = subjects[limits - 1].rate();
    for (size_t i = 0; compute == Dtype::f32 && i < limits; ++i)
      report.figure(subjects[i].name, subjects[i].rate() / 1e9, "GFLOP/s");
    report.figure(cat("decoder 14 M, 4 x 512 tokens, train step, ", name_of(compute)),
                  Training::kTokens / subjects[limits].median(), "tokens/s", "fp32 limit",
                  subjects[limits].rate() / limit);
  }
}

/// Bytes a second that one thread reads, in the widest loads that the kernels have.
Subject reading(const std::vector<float>& memory) {
  return {"limit: reading memory, 1 thread",
          [&memory] {
            float sums[64];
            const auto row = static_cast<int64_t>(memory.size() / 64);
            cpu::kernels().sum_rows(64, row, memory.data(), row, sums);
            keep(sums);
          },
          static_cast<double>(memory.size() * sizeof(float))};
}

void generate(Report& report, int repeats) {
  const std::vector<float> memory(size_t{1} << 27, 1.0f);  // 512 MiB
  std::vector<Subject> subjects = {reading(memory)};
  measure(subjects, repeats, 0.05);
  const double bandwidth = subjects[0].rate();
  report.figure(subjects[0].name, bandwidth / 1e9, "GB/s");
  for (const Dtype compute : {Dtype::f32, Dtype::bf16}) {
    nn::DecoderConfig config = decoder_135m();
    config.compute = compute;
    const nn::Decoder decoder(config, 1);
    const double bytes =
        static_cast<double>(config.parameters()) * static_cast<double>(dtype_size(compute));
    auto prompt = [](int64_t n, int64_t sequences) {
      Prompt p;
      for (int64_t i = 0; i < n; ++i) p.tokens.push_back(static_cast<int32_t>(1000 + i));
      p.completions = sequences;
      return p;
    };
    GeneratorOptions options;
    options.pages = 512;
    SamplingOptions sampling;
    sampling.max_tokens = 64;
    {
      Generator generator(decoder, options);
      std::vector<double> seconds;
      for (int r = 0; r <= repeats; ++r) {  // the first packs the weights
        generator.add(prompt(512, 1), sampling);
        const double start = seconds_now();
        generator.step();
        if (r > 0) seconds.push_back(seconds_now() - start);
        while (generator.step()) {
        }
        generator.take();
      }
      std::sort(seconds.begin(), seconds.end());
      report.figure(cat("prefill 512, 135 M, ", name_of(compute)),
                    512 / seconds[seconds.size() / 2], "tokens/s");
    }
    for (const int64_t batch : {1, 8, 32}) {
      Generator generator(decoder, options);
      std::vector<double> seconds;
      for (int r = 0; r < 1 + repeats / 3; ++r) {
        generator.add(prompt(16, batch), sampling);
        generator.step();
        for (bool more = true; more;) {
          const double start = seconds_now();
          more = generator.step();
          if (more) seconds.push_back(seconds_now() - start);
        }
        generator.take();
      }
      std::sort(seconds.begin(), seconds.end());
      const double rate = static_cast<double>(batch) / seconds[seconds.size() / 2];
      report.figure(cat("decode batch ", batch, ", 135 M, ", name_of(compute)), rate, "tokens/s",
                    "reading the weights once a step",
                    rate * bytes / static_cast<double>(batch) / bandwidth);
    }
  }
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer;
  bench::Report report(argc, argv);
  int threads = 1, repeats = 7;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--threads" && i + 1 < argc) threads = std::stoi(argv[++i]);
    if (argument == "--repeats" && i + 1 < argc) repeats = std::stoi(argv[++i]);
    if (argument == "train" || argument == "generate") only = argument;
  }
  cpu::set_threads(threads);
  if (only != "generate") bench::train(report, threads, repeats);
  if (only != "train") bench::generate(report, repeats);
}
