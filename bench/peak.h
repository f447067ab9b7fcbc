// The limit of arithmetic: fused multiply-adds in independent chains of registers, in assembly.
#pragma once

#include <string>

#include "bench/bench.h"
#include "core/cpu/kernels.h"

namespace bessemer::bench {

inline constexpr int64_t kPeakSteps = 2000;
#define BESSEMER_TWELVE(line)                                                               \
  line("0") line("1") line("2") line("3") line("4") line("5") line("6") line("7") line("8") \
      line("9") line("10") line("11")
/// Runs the chains and returns how many floating-point operations that was.
inline double peak(const cpu::KernelTable& table) {
#if defined(__x86_64__)
  int64_t steps = kPeakSteps;
#define BESSEMER_WIDE(i) "vfmadd231ps %%zmm31, %%zmm30, %%zmm" i "\n"
#define BESSEMER_AVX(i) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" i "\n"
#define BESSEMER_SSE(i) "mulps %%xmm15, %%xmm" i "\naddps %%xmm14, %%xmm" i "\n"
  if (std::string(table.isa) == "avx512") {
    asm volatile(
        "vpxorq %%zmm30, %%zmm30, %%zmm30\nvpxorq %%zmm31, %%zmm31, %%zmm31\n1:\n" BESSEMER_TWELVE(
            BESSEMER_WIDE) "dec %0\njnz 1b\nvzeroupper\n"
        : "+r"(steps)
        :
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11");
    return 2.0 * 16 * 12 * kPeakSteps;
  }
  if (std::string(table.isa) == "avx2") {
    asm volatile(
        "vpxor %%ymm14, %%ymm14, %%ymm14\nvpxor %%ymm15, %%ymm15, %%ymm15\n1:\n" BESSEMER_TWELVE(
            BESSEMER_AVX) "dec %0\njnz 1b\nvzeroupper\n"
        : "+r"(steps)
        :
        : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm14", "xmm15");
    return 2.0 * 8 * 12 * kPeakSteps;
  }
  asm volatile("pxor %%xmm14, %%xmm14\npxor %%xmm15, %%xmm15\n1:\n" BESSEMER_TWELVE(
                   BESSEMER_SSE) "dec %0\njnz 1b\n"
               : "+r"(steps)
               :
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                 "xmm10", "xmm11", "xmm14", "xmm15");
  return 2.0 * 4 * 12 * kPeakSteps;
#else
  typedef float Four __attribute__((vector_size(16)));
  (void)table;
  Four x = {0.5f, 0.5f, 0.5f, 0.5f}, a = x, b = x, c = x, d = x;
  for (int64_t i = 0; i < kPeakSteps; ++i) {
    a = a * x + x;
    b = b * x + x;
    c = c * x + x;
    d = d * x + x;
    asm volatile("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d));
  }
  return 2.0 * 4 * 4 * kPeakSteps;
#endif
}

inline Subject peak_subject(const cpu::KernelTable& table) {
  return {"limit: multiply-adds in registers, 1 thread", [&table] { peak(table); }, peak(table)};
}
/// The limit of one thread and, where there are more, of `threads` of cpu::pool() side by side; the
/// last one is what a program that runs on `threads` is held against.
inline std::vector<Subject> peak_subjects(const cpu::KernelTable& table, int threads) {
  std::vector<Subject> out;
  for (int count = 1; count <= threads; count += std::max(1, threads - 1))
    out.push_back({"limit: fp32 multiply-adds in registers, " + std::to_string(count) +
                       (count > 1 ? " threads" : " thread"),
                   [&table, count] { cpu::pool().run(count, [&table](int64_t) { peak(table); }); },
                   count * peak(table)});
  return out;
}

#undef BESSEMER_TWELVE
#undef BESSEMER_WIDE
#undef BESSEMER_AVX
#undef BESSEMER_SSE

}  // namespace bessemer::bench
