// Kernels of a decoder: rows over 64 MiB beside a copy of the same bytes (one thread), the last
// layer with its loss and products of bfloat16 beside the limit of multiply-adds in float32 (one
// thread unless told otherwise). BESSEMER_ISA chooses the table. Peers:
// bench/peers/language_kernels.py (torch, the same sizes).
//   bench_language_kernels [--json] [--threads N] [memory|loss|products]
#include <cstring>
#include <fstream>

#include "autograd/engine.h"
#include "bench/bench.h"
#include "bench/peak.h"
#include "core/base/rng.h"
#include "core/ops/ops.h"

namespace bessemer::bench {
namespace {

Tensor draw(const Shape& shape, double scale = 1) {
  const Tensor seed = Tensor::full({}, 1, Dtype::i64), counter = Tensor::full({}, 0, Dtype::i64);
  return random_uniform(shape, seed, counter) * (2 * scale) - scale;
}

/// The same values made in place: nothing is freed that a later measurement would find again.
Tensor draw_in_place(const Shape& shape, float scale) {
  const Tensor out = Tensor::empty(shape);
  const Rng rng{1};
  for (int64_t i = 0; i < out.numel(); ++i)
    out.data<float>()[i] =
        scale * (2 * uniform_float(rng.at(static_cast<uint64_t>(i)).word[0]) - 1);
  return out;
}

/// Rates in GB/s with their share of the first subject's.
void report_bytes(Report& report, std::vector<Subject>& subjects) {
  measure(subjects, 11, 0.02);
  for (const Subject& s : subjects)
    report.figure(s.name, s.rate() / 1e9, "GB/s", "copy", s.rate() / subjects[0].rate());
}

void memory(Report& report, const cpu::KernelTable& t) {
  constexpr int64_t n = 1024, rows = 16384, total = n * rows;
  const Tensor x = draw({rows, n}), g = draw({rows, n}), y = Tensor::empty({rows, n});
  const Tensor other = Tensor::empty({rows, n});
  const Tensor weight = draw({n}), sums = Tensor::empty({n}), more = Tensor::empty({n});
  const float *px = x.data<float>(), *pg = g.data<float>(), *w = weight.data<float>();
  float *out = y.data<float>(), *second = other.data<float>();
  std::vector<Subject> s;
  const auto add = [&](const char* name, double passes, std::function<void()> body) {
    s.push_back({name, std::move(body), passes * 4 * static_cast<double>(total)});
  };
  add("limit: memcpy 64 MiB", 2, [=] { std::memcpy(out, px, total * 4); });
  add("rms_norm, rows of 1024", 2, [=, &t] { t.rms_norm_rows(rows, n, px, w, 1e-5f, out); });
  add("rms_norm backward", 3,
      [=, &t] { t.rms_norm_backward_rows(rows, n, px, w, pg, 1e-5f, out, sums.data<float>()); });
  add("layer_norm", 2,
      [=, &t] { t.layer_norm_rows(rows, n, px, w, w, 1e-5f, out, nullptr, nullptr); });
  add("layer_norm backward", 3, [=, &t] {
    t.layer_norm_backward_rows(rows, n, px, w, pg, 1e-5f, out, sums.data<float>(),
                               more.data<float>());
  });
  add("softmax", 2, [=, &t] { t.softmax_rows(rows, n, px, out); });
  const auto unary = [&](const char* name, OpId id) {
    const cpu::UnaryLoop loop = t.unary_f32[static_cast<int>(id)];
    add(name, 2, [=] { loop(total, out, 1, px, 1); });
  };
  unary("gelu", OpId::gelu);
  unary("silu", OpId::silu);
  add("swiglu", 3, [=, &t] { t.swiglu(total, px, pg, out); });
  add("swiglu backward", 5, [=, &t] { t.swiglu_backward(total, px, pg, px, out, second); });
  std::vector<float> angles(static_cast<size_t>(rows * 64), 0.5f);
  std::vector<int64_t> places(static_cast<size_t>(rows));
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int64_t>(i) % 2048;
  add("rope, 16 heads of 64", 2,
      [&, out, px] { t.rope_rows(rows, 16, 32, px, angles.data(), places.data(), 1, out); });
  const Tensor p = draw({total}), m = Tensor::full({total}, 1e-3), v = Tensor::full({total}, 1e-6);
  add("AdamW, 16 M parameters (28 bytes each)", 7, [&, pg] {
    t.adam({.n = total,
            .p = p.data<float>(),
            .m = m.data<float>(),
            .v = v.data<float>(),
            .g = pg,
            .lr = 1e-4f,
            .beta1 = 0.9f,
            .beta2 = 0.999f,
            .eps = 1e-8f,
            .weight_decay = 0.01f,
            .correction1 = 0.5f,
            .correction2 = 0.5f,
            .grad_scale = 1});
  });
  report_bytes(report, s);
}

void report_products(Report& report, const cpu::KernelTable& t, std::vector<Subject>& s) {
  const std::vector<Subject> limits = peak_subjects(t, cpu::pool().threads());
  s.insert(s.begin(), limits.begin(), limits.end());
  measure(s, 7, 0.05);
  const double limit = s[limits.size() - 1].rate();
  for (const Subject& subject : s) {
    report.figure(subject.name, subject.rate() / 1e9, "GFLOP/s", "limit", subject.rate() / limit);
    if (subject.work > 1e10) report.figure(subject.name + ", time", subject.median(), "s");
  }
}

/// What the system says of this process in /proc/self/status, in MiB; 0 where it says nothing.
double status_mebibytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stod(line.substr(key.size() + 1)) / 1024;
  return 0;
}

/// Memory that `body` needs at its peak beyond what is resident before it, in MiB.
double peak_mebibytes(const std::function<void()>& body) {
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts again
  const double before = status_mebibytes("VmRSS:");
  body();
  return status_mebibytes("VmHWM:") - before;
}

/// 512 tokens x 576 x a vocabulary of 49152, forward and backward.
void loss(Report& report, const cpu::KernelTable& t) {
  constexpr int64_t tokens = 512, width = 576, vocabulary = 49152;
  const Tensor x = draw_in_place({tokens, width}, 1);
  const Tensor weight = draw_in_place({vocabulary, width}, 0.05f);
  const Tensor half = cast(x, Dtype::bf16), ones = Tensor::ones({tokens});
  const Tensor targets = Tensor::empty({tokens}, Dtype::i64);
  for (int64_t i = 0; i < tokens; ++i) targets.data<int64_t>()[i] = i * 91 % vocabulary;
  for (const Tensor* leaf : {&x, &weight, &half}) set_requires_grad(*leaf);
  const double product = 2.0 * tokens * width * vocabulary;
  const auto train = [&](const Tensor& input, bool made) {
    for (const Tensor* leaf : {&x, &weight, &half}) clear_grad(*leaf);
    backward(made ? linear_nll(input, weight, targets, ones)[0]
                  : -sum(linear_cross_entropy(input, weight, targets)[0]));
  };
  {  // before anything is kept for the next time; gradients are no temporaries
    const double gradients = 4.0 * (tokens * width + vocabulary * width) / (1 << 20);
    const double peak = peak_mebibytes([&] { train(x, true); });
    report.figure("linear_nll 512 x 576 x 49152, peak temporaries", peak - gradients, "MiB");
  }
  std::vector<Subject> s;
  s.push_back(
      {"linear_nll 512 x 576 x 49152, with gradients", [&] { train(x, true); }, 3 * product});
  s.push_back(
      {"linear_cross_entropy, forward and backward", [&] { train(x, false); }, 4 * product});
  s.push_back({"linear_nll in bfloat16", [&] { train(half, true); }, 3 * product});
  report_products(report, t, s);
}

void products(Report& report, const cpu::KernelTable& t) {
  constexpr int64_t width = 576, units = 1536;
  const Tensor weight = draw({units, width}), rounded = cast(weight, Dtype::bf16);
  std::vector<Subject> s;
  std::vector<Tensor> inputs;
  for (const int64_t rows : {1, 8, 32, 512}) {
    const Tensor x = draw({rows, width}), half = cast(x, Dtype::bf16);
    const double flops = 2.0 * static_cast<double>(rows) * width * units;
    const std::string of = " " + std::to_string(rows) + " x 576 -> 1536";
    const auto add = [&](const std::string& name, const Tensor& input, const Tensor& w) {
      s.push_back({name + of,
                   [=] {
                     NoGrad guard;
                     keep(linear(input, w));
                   },
                   flops});
    };
    add("linear float32", x, weight);
    add("linear bfloat16", half, weight);
    add("linear float32, bfloat16 weight", x, rounded);
  }
  report_products(report, t, s);
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer::bench;
  Report report(argc, argv);
  const bessemer::cpu::KernelTable& table = bessemer::cpu::kernels();
  const std::pair<const char*, void (*)(Report&, const bessemer::cpu::KernelTable&)> groups[] = {
      {"memory", memory}, {"loss", loss}, {"products", products}};
  std::string wanted;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
      bessemer::cpu::set_threads(std::stoi(argv[++i]));
    else if (argv[i][0] != '-')
      wanted = argv[i];
  }
  if (!report.json()) std::printf("instruction set %s\n", table.isa);
  for (const auto& [name, run] : groups) {
    if (!wanted.empty() && wanted != name) continue;
    if (!report.json()) std::printf("\n%s\n", name);
    run(report, table);
  }
  return 0;
}
