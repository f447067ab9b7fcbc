// Attention beside the limit of multiply-adds, on one thread unless told otherwise: packed forward
// and forward + backward as recorded operations, prefill and decoding over a paged cache. Causal
// products are counted as half of all pairs, backward as 2.5 forwards. BESSEMER_ISA chooses the
// kernels. Peer: bench/peers/core_kernels.py.
//   bench_language_attention [--json] [--threads N]
#include <cmath>

#include "autograd/engine.h"
#include "bench/bench.h"
#include "bench/peak.h"
#include "core/base/rng.h"
#include "core/cpu/attention.h"
#include "core/ops/ops.h"

using namespace bessemer;

namespace {

Tensor random(const Shape& shape, uint64_t stream) {
  return random_normal(shape, Tensor::scalar(static_cast<double>(stream), Dtype::i64),
                       Tensor::scalar(0, Dtype::i64));
}

struct Packed {
  int64_t tokens, heads = 9, dim = 64;
  Tensor q, k, v, segments = Tensor::zeros({1, 2}, Dtype::i64);

  explicit Packed(int64_t tokens) : tokens(tokens) {
    Tensor* parts[] = {&q, &k, &v};
    for (size_t i = 0; i < 3; ++i) {
      *parts[i] = random({tokens, heads, dim}, i + 1);
      set_requires_grad(*parts[i]);
    }
    segments.data<int64_t>()[1] = -1;
  }
  double flops() const {
    return 4.0 * static_cast<double>(heads * dim * tokens) * static_cast<double>(tokens) / 2;
  }
  void forward() const {
    NoGrad guard;
    bench::keep(attention(q, k, v, segments));
  }
  void both() const {
    const Tensor y = attention(q, k, v, segments);
    bench::keep(gradients(std::array{y}, std::array{q, k, v}, std::array{ones}));
  }
  Tensor ones = Tensor::ones({tokens, heads, dim});
};

/// SmolLM2-135M's heads: `sequences` that have `length` keys each add `queries` tokens.
struct Paged {
  int64_t sequences, length, queries;
  Tensor q, k, v, table, bounds, lengths;

  Paged(int64_t sequences, int64_t length, int64_t queries, Dtype dtype)
      : sequences(sequences), length(length), queries(queries) {
    const int64_t width = (length + cpu::kKeyBlock - 1) / cpu::kKeyBlock;
    const int64_t pages = sequences * width;
    q = random({sequences * queries, 9, 64}, 1);
    k = cast(random({pages, 3, 64, cpu::kKeyBlock}, 2), dtype);
    v = cast(random({pages, 3, cpu::kKeyBlock, 64}, 3), dtype);
    table = reshape(Tensor::arange(pages), {sequences, width});
    bounds =
        Tensor::arange(sequences + 1) * Tensor::scalar(static_cast<double>(queries), Dtype::i64);
    lengths = Tensor::full({sequences}, static_cast<double>(length), Dtype::i64);
  }
  double flops() const {
    return 4.0 * 9 * 64 * static_cast<double>(sequences * queries) *
           (static_cast<double>(length) - static_cast<double>(queries) / 2);
  }
  double bytes() const {
    return static_cast<double>(k.numel() + v.numel()) * static_cast<double>(dtype_size(k.dtype()));
  }
  void run() const { bench::keep(attention_paged(q, k, v, table, bounds, lengths)); }
};

}  // namespace

int main(int argc, char** argv) {
  bench::Report report(argc, argv);
  int threads = 1;
  for (int i = 1; i + 1 < argc; ++i)
    if (std::string(argv[i]) == "--threads") threads = std::stoi(argv[i + 1]);
  cpu::set_threads(threads);
  std::vector<Packed> packed;
  for (const int64_t tokens : {128, 1024, 4096}) packed.emplace_back(tokens);
  std::vector<bench::Subject> subjects = bench::peak_subjects(cpu::kernels(), threads);
  const size_t limits = subjects.size();
  for (const Packed& p : packed) {
    const std::string shape = cat("9 heads x ", p.tokens, " x 64");
    subjects.push_back({"attention causal forward " + shape, [&p] { p.forward(); }, p.flops()});
    subjects.push_back(
        {"attention causal forward+backward " + shape, [&p] { p.both(); }, 3.5 * p.flops()});
  }
  const Paged prefill(1, 512, 512, Dtype::f32);
  subjects.push_back(
      {"attention paged, prefill 512, 9/3 heads x 64", [&] { prefill.run(); }, prefill.flops()});
  bench::measure(subjects);
  for (size_t i = 0; i < limits; ++i)
    report.figure(subjects[i].name, subjects[i].rate() / 1e9, "GFLOP/s");
  const double limit = subjects[limits - 1].rate();
  for (size_t i = limits; i < subjects.size(); ++i)
    report.figure(subjects[i].name, subjects[i].rate() / 1e9, "GFLOP/s", "limit",
                  subjects[i].rate() / limit);

  const std::vector<float> memory(size_t{1} << 26, 1.0f);  // 256 MiB
  const Paged single(32, 512, 1, Dtype::f32), half(32, 512, 1, Dtype::bf16);
  std::vector<bench::Subject> decoding = {
      {"limit: reading memory",
       [&] {
         float sums[64];
         cpu::kernels().sum_rows(64, 1 << 20, memory.data(), 1 << 20, sums);
         bench::keep(sums);
       },
       static_cast<double>(memory.size() * sizeof(float))},
      {"attention paged, decode 32 x 512 keys, fp32", [&] { single.run(); }, single.bytes()},
      {"attention paged, decode 32 x 512 keys, bf16", [&] { half.run(); }, half.bytes()}};
  bench::measure(decoding);
  for (const bench::Subject& s : decoding)
    report.figure(s.name, s.rate() / 1e9, "GB/s", "memory", s.rate() / decoding[0].rate());
}
