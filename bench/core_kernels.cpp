// The kernels of core/cpu against the machine: products against fused multiply-adds in registers
// and OpenBLAS, loops over memory against a copy. BESSEMER_ISA chooses the table.
//   bench_core_kernels [--json] [limits|products|rl|elementwise|rows]
#include "core/cpu/kernels.h"

#include <cmath>
#include <memory>

#include "bench/bench.h"
#include "bench/peak.h"
#include "core/base/error.h"
#include "core/base/rng.h"
#if defined(BESSEMER_HAS_OPENBLAS)
#include <cblas.h>
#endif

using namespace bessemer;
using cpu::Activation;
using cpu::Gemm;
using cpu::KernelTable;

namespace {

// ---- memory
// --------------------------------------------------------------------------------------

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;
/// Page-aligned, each at another offset from a power of two: equal offsets alias in L1.
Buffer buffer(int64_t floats, float low = -1, float high = 1) {
  const Rng rng{1};
  Buffer out(static_cast<float*>(
      std::aligned_alloc(4096, (static_cast<size_t>(floats) * 4 + 8191) / 4096 * 4096)));
  for (int64_t i = 0; i < floats; ++i) {
    out[static_cast<size_t>(i)] =
        low + (high - low) * uniform_float(rng.at(static_cast<uint64_t>(i & 65535)).word[0]);
  }
  return out;
}

/// Measures `subjects` and prints each as `unit` (rates divided by 1e9), with its share of the
/// first.
void report_shares(bench::Report& report, std::vector<bench::Subject>& subjects, const char* unit,
                   double repeat_seconds = 0.02) {
  bench::measure(subjects, 11, repeat_seconds);
  const double limit = subjects[0].rate();
  report.figure(subjects[0].name, limit / 1e9, unit);
  for (size_t i = 1; i < subjects.size(); ++i) {
    report.figure(subjects[i].name, subjects[i].rate() / 1e9, unit, "limit",
                  subjects[i].rate() / limit);
  }
}

// ---- groups
// --------------------------------------------------------------------------------------

void limits(bench::Report& report, const KernelTable& table) {
  std::vector<bench::Subject> flops = {bench::peak_subject(table)};
  auto two = std::make_shared<ThreadPool>(2);
  flops.push_back({"multiply-adds in registers, 2 threads",
                   [two, &table] { two->run(2, [&](int64_t) { bench::peak(table); }); },
                   2 * bench::peak(table)});
  report_shares(report, flops, "GFLOP/s");
}

std::string shape_text(const char* what, const Gemm& g) {
  char text[96];
  std::snprintf(text, sizeof text, "%s %lld x %lld -> %lld", what, static_cast<long long>(g.m),
                static_cast<long long>(g.k), static_cast<long long>(g.n));
  return text;
}
double flops_of(const Gemm& g) {
  return 2.0 * static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
}
void add_product(std::vector<bench::Subject>& subjects, const KernelTable& table, const char* what,
                 const Gemm& g, ThreadPool* pool = nullptr) {
  subjects.push_back(
      {shape_text(what, g), [&table, g, pool] { table.gemm(g, pool); }, flops_of(g)});
#if defined(BESSEMER_HAS_OPENBLAS)
  if (!pool && !g.b_packed) {
    subjects.push_back({shape_text("    OpenBLAS", g),
                        [g] {
                          const bool ta = g.a_col != 1, tb = g.b_col != 1;
                          cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans,
                                      tb ? CblasTrans : CblasNoTrans, static_cast<int>(g.m),
                                      static_cast<int>(g.n), static_cast<int>(g.k), 1.0f, g.a,
                                      static_cast<int>(ta ? g.a_col : g.a_row), g.b,
                                      static_cast<int>(tb ? g.b_col : g.b_row), 0.0f, g.c,
                                      static_cast<int>(g.c_row));
                        },
                        flops_of(g)});
  }
#endif
}

void products(bench::Report& report, const KernelTable& table) {
  constexpr int64_t k = 576, n = 1536, most = 2048;
  const Buffer a = buffer(most * most), b = buffer(most * most), c = buffer(most * most);
  const Buffer packed = buffer(cpu::packed_floats(k, n));
  ThreadPool two(2);
  table.pack_b(k, n, b.get(), 1, k, packed.get());
  std::vector<bench::Subject> subjects = {bench::peak_subject(table)};
  for (const int64_t m : {1, 8, 64, 512}) {
    Gemm g{.m = m,
           .n = n,
           .k = k,
           .a = a.get(),
           .a_row = k,
           .b_packed = packed.get(),
           .c = c.get(),
           .c_row = n};
    add_product(subjects, table, "linear, packed weight", g);
    if (m >= 64) add_product(subjects, table, "  2 threads", g, &two);
    g.b_packed = nullptr;
    g.b = b.get();
    g.b_row = 1;
    g.b_col = k;
    add_product(subjects, table, "linear, weight as stored", g);
  }
  for (const int64_t size : {64, 256, 512, 1024, 2048}) {
    add_product(subjects, table, "square",
                {.m = size,
                 .n = size,
                 .k = size,
                 .a = a.get(),
                 .a_row = size,
                 .b = b.get(),
                 .b_row = size,
                 .c = c.get(),
                 .c_row = size});
  }
  report_shares(report, subjects, "GFLOP/s");
}

/// The three products of every linear layer of a 4-64-64-2 network: forward with bias, by input, by
/// weight.
void rl(bench::Report& report, const KernelTable& table) {
  const Buffer x = buffer(1024 * 64), w = buffer(64 * 64), g = buffer(1024 * 64),
               out = buffer(1024 * 64);
  const Buffer packed = buffer(64 * 64), bias = buffer(64);
  std::vector<bench::Subject> subjects = {bench::peak_subject(table)};
  for (const int64_t rows : {1, 64, 256, 1024}) {
    for (const auto& [in, units] : {std::pair<int64_t, int64_t>{4, 64}, {64, 64}, {64, 2}}) {
      table.pack_b(in, units, w.get(), 1, in, packed.get());
      Gemm forward{.m = rows,
                   .n = units,
                   .k = in,
                   .a = x.get(),
                   .a_row = in,
                   .b = w.get(),
                   .b_row = 1,
                   .b_col = in,
                   .c = out.get(),
                   .c_row = units,
                   .bias = bias.get()};
      add_product(subjects, table, "forward", forward);
      if (units == 64) {
        forward.activation = Activation::tanh;
        forward.b_packed = packed.get();
        add_product(subjects, table, "forward, packed, tanh", forward);
      }
      if (rows == 1) continue;
      add_product(subjects, table, "gradient by input",
                  {.m = rows,
                   .n = in,
                   .k = units,
                   .a = g.get(),
                   .a_row = units,
                   .b = w.get(),
                   .b_row = in,
                   .c = out.get(),
                   .c_row = in});
      add_product(subjects, table, "gradient by weight",
                  {.m = units,
                   .n = in,
                   .k = rows,
                   .a = g.get(),
                   .a_row = 1,
                   .a_col = units,
                   .b = x.get(),
                   .b_row = in,
                   .c = out.get(),
                   .c_row = in});
    }
  }
  bench::measure(subjects, 11, 0.005);
  const double limit = subjects[0].rate();
  report.figure(subjects[0].name, limit / 1e9, "GFLOP/s");
  for (size_t i = 1; i < subjects.size(); ++i) {
    report.figure(subjects[i].name, subjects[i].median() * 1e6, "us", "limit",
                  subjects[i].rate() / limit);
  }
}

void elementwise(bench::Report& report, const KernelTable& table) {
  constexpr int64_t n = int64_t{16} << 20;  // 64 MiB
  const Buffer x = buffer(n + 1024), y = buffer(n + 2048), z = buffer(n + 4096);
  const float *a = x.get() + 1024, *b = y.get() + 2048;
  float* out = z.get() + 3072;
  std::vector<bench::Subject> subjects;
  subjects.push_back({"limit: memcpy 64 MiB, bytes read and written",
                      [=] { std::memcpy(out, a, n * 4); }, 8.0 * n});
  const auto unary = [&](const char* name, OpId op) {
    const cpu::UnaryLoop loop = table.unary_f32[static_cast<int>(op)];
    subjects.push_back({name, [=] { loop(n, out, 1, a, 1); }, 8.0 * n});
  };
  unary("relu", OpId::relu);
  unary("exp", OpId::exp);
  unary("log", OpId::log);
  unary("tanh", OpId::tanh);
  unary("sigmoid", OpId::sigmoid);
  unary("softplus", OpId::softplus);
  unary("silu", OpId::silu);
  unary("erf", OpId::erf);
  unary("gelu", OpId::gelu);
  unary("sin", OpId::sin);
  const cpu::BinaryLoop add = table.binary_f32[static_cast<int>(OpId::add) - kUnaryOps];
  const cpu::BinaryLoop pow = table.binary_f32[static_cast<int>(OpId::pow) - kUnaryOps];
  subjects.push_back({"add, two operands", [=] { add(n, out, 1, a, 1, b, 1); }, 12.0 * n});
  subjects.push_back({"add, one scalar", [=] { add(n, out, 1, a, 1, b, 0); }, 8.0 * n});
  subjects.push_back({"pow, scalar exponent", [=] { pow(n, out, 1, b, 1, b, 0); }, 8.0 * n});
  report_shares(report, subjects, "GB/s");
}

void rows(bench::Report& report, const KernelTable& table) {
  constexpr int64_t total = int64_t{16} << 20;
  const Buffer x = buffer(total + 1024), y = buffer(total + 2048), z = buffer(total + 4096);
  const float *a = x.get() + 1024, *b = y.get() + 2048;
  float* out = z.get() + 3072;
  std::vector<bench::Subject> subjects;
  subjects.push_back({"limit: memcpy 64 MiB, bytes read and written",
                      [=] { std::memcpy(out, a, total * 4); }, 8.0 * total});
  for (const int64_t n : {1024, 2}) {
    const std::string of = " over rows of " + std::to_string(n);
    const int64_t count = total / n;
    const auto in_out = [&](const char* name, auto body, double bytes) {
      subjects.push_back({name + of, body, bytes * static_cast<double>(total)});
    };
    in_out(
        "softmax", [=, &table] { table.softmax_rows(count, n, a, out); }, 8);
    in_out(
        "log_softmax", [=, &table] { table.log_softmax_rows(count, n, a, out); }, 8);
    in_out(
        "softmax backward", [=, &table] { table.softmax_backward_rows(count, n, a, b, out); }, 12);
    in_out(
        "log_softmax backward",
        [=, &table] { table.log_softmax_backward_rows(count, n, a, b, out); }, 12);
    in_out(
        "sum", [=, &table] { table.sum_rows(count, n, a, n, out); }, 4);
    in_out(
        "max", [=, &table] { table.max_rows(count, n, a, n, out); }, 4);
  }
  subjects.push_back({"sum of columns, 65536 x 256",
                      [=, &table] { table.sum_columns(65536, 256, a, 256, out); }, 4.0 * total});
  subjects.push_back({"layer_norm over rows of 1024",
                      [=, &table] {
                        table.layer_norm_rows(total / 1024, 1024, a, b, b, 1e-5f, out, nullptr,
                                              nullptr);
                      },
                      8.0 * total});
  subjects.push_back(
      {"sum of squares", [=, &table] { bench::keep(table.sum_squares(total, a)); }, 4.0 * total});
  report_shares(report, subjects, "GB/s");
  for (const int64_t n : {int64_t{16} << 20, int64_t{4} << 10}) {
    const Buffer p = buffer(n + 512), m = buffer(n + 2560, 0, 1e-6f),
                 v = buffer(n + 3584, 0, 1e-6f);
    std::vector<bench::Subject> steps = {{"adam, " + std::to_string(n) + " parameters",
                                          [&, n] {
                                            table.adam({.n = n,
                                                        .p = p.get() + 512,
                                                        .m = m.get() + 2560,
                                                        .v = v.get() + 3584,
                                                        .g = a,
                                                        .lr = 1e-4f,
                                                        .beta1 = 0.9f,
                                                        .beta2 = 0.999f,
                                                        .eps = 1e-8f,
                                                        .weight_decay = 0,
                                                        .correction1 = 0.5f,
                                                        .correction2 = 0.5f,
                                                        .grad_scale = 1});
                                          },
                                          static_cast<double>(n)}};
    bench::measure(steps, 11, 0.02);
    report.figure(steps[0].name, steps[0].rate() / 1e9, "G/s");
  }
}

}  // namespace

int main(int argc, char** argv) try {
  bench::Report report(argc, argv);
#if defined(BESSEMER_HAS_OPENBLAS)
  openblas_set_num_threads(1);
#endif
  const KernelTable& table = cpu::kernels();
  if (!report.json()) std::printf("instruction set %s\n", table.isa);
  std::string wanted;
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] != '-') wanted = argv[i];
  }
  const std::pair<const char*, void (*)(bench::Report&, const KernelTable&)> groups[] = {
      {"limits", limits},
      {"products", products},
      {"rl", rl},
      {"elementwise", elementwise},
      {"rows", rows}};
  for (const auto& [name, run] : groups) {
    if (!wanted.empty() && wanted != name) continue;
    if (!report.json()) std::printf("\n%s\n", name);
    run(report, table);
  }
  return 0;
} catch (const bessemer::Error& error) {  // an instruction set that is not here
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
