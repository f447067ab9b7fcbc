// Elementwise loops over any strides from loops over contiguous elements: operands that are not
// contiguous pass through small blocks, so that each operation has a single vectorised body.
#pragma once

#include "core/cpu/isa/isa.h"

namespace bessemer::cpu::BESSEMER_ISA {

inline constexpr int64_t kBlock = 512;  // elements: three operands of 8 bytes are 12 KiB of L1
inline constexpr int kMaxElement = 8;

struct alignas(64) Block {
  unsigned char bytes[kBlock * kMaxElement];
};

template <class T>
BESSEMER_INLINE void copy_strided(int64_t n, T* out, int64_t step_out, const T* x, int64_t step_x) {
  if (step_x == 0 && step_out == 1) {  // one value for all, as in x * 2: whole vectors
    const T value = *x;
    for (int64_t i = 0; i < n; ++i) out[i] = value;
    return;
  }
  for (int64_t i = 0; i < n; ++i) out[i * step_out] = x[i * step_x];
}
BESSEMER_INLINE void copy_elements(int size, int64_t n, void* out, int64_t step_out, const void* x,
                                   int64_t step_x) {
  switch (size) {
    case 1:
      return copy_strided(n, static_cast<uint8_t*>(out), step_out, static_cast<const uint8_t*>(x),
                          step_x);
    case 2:
      return copy_strided(n, static_cast<uint16_t*>(out), step_out, static_cast<const uint16_t*>(x),
                          step_x);
    case 4:
      return copy_strided(n, static_cast<uint32_t*>(out), step_out, static_cast<const uint32_t*>(x),
                          step_x);
    default:
      return copy_strided(n, static_cast<uint64_t*>(out), step_out, static_cast<const uint64_t*>(x),
                          step_x);
  }
}

/// One operand of a strided loop: where its next block can be read contiguously.
struct Source {
  const char* data;
  int64_t step;
  int size;
  Block* block;

  /// Elements [first, first + n) as a contiguous run.
  const void* read(int64_t first, int64_t n) {
    if (step == 1) return data + first * size;
    if (step != 0 || first == 0) {
      copy_elements(size, n, block->bytes, 1, data + first * step * size, step);
    }
    return block->bytes;
  }
};

[[maybe_unused, gnu::noinline]] static void run_unary(void (*core)(int64_t, void*, const void*),
                                                      int64_t n, void* out, int64_t step_out,
                                                      int out_size, const void* x, int64_t step_x,
                                                      int x_size) {
  Block block_x, block_out;
  Source source{static_cast<const char*>(x), step_x, x_size, &block_x};
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = n - first < kBlock ? n - first : kBlock;
    char* target = static_cast<char*>(out) + first * step_out * out_size;
    void* direct = step_out == 1 ? static_cast<void*>(target) : block_out.bytes;
    core(count, direct, source.read(first, count));
    if (step_out != 1) copy_elements(out_size, count, target, step_out, direct, 1);
  }
}

[[maybe_unused, gnu::noinline]] static void run_binary(
    void (*core)(int64_t, void*, const void*, const void*), int64_t n, void* out, int64_t step_out,
    int out_size, const void* a, int64_t step_a, const void* b, int64_t step_b, int in_size) {
  Block block_a, block_b, block_out;
  Source source_a{static_cast<const char*>(a), step_a, in_size, &block_a};
  Source source_b{static_cast<const char*>(b), step_b, in_size, &block_b};
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = n - first < kBlock ? n - first : kBlock;
    char* target = static_cast<char*>(out) + first * step_out * out_size;
    void* direct = step_out == 1 ? static_cast<void*>(target) : block_out.bytes;
    const void* from_a = source_a.read(first, count);
    core(count, direct, from_a, source_b.read(first, count));
    if (step_out != 1) copy_elements(out_size, count, target, step_out, direct, 1);
  }
}

/// out[i] = f(x[i]), contiguous. The main loop counts in 16s, so that the compiler emits no scalar
/// remainder; the rest passes through a padded block (kPadded, for dear bodies) or goes one by one.
template <class Op, class Out, class In, bool kPadded>
static void unary_core(int64_t n, void* out_, const void* x_) {
  Out* out = static_cast<Out*>(out_);
  const In* x = static_cast<const In*>(x_);
  const int64_t main = n & ~int64_t{15};
#pragma GCC ivdep
  for (int64_t i = 0; i < main; ++i) out[i] = Op::apply(x[i]);
  if (main == n) return;
  if constexpr (kPadded) {
    alignas(64) In in_block[16] = {};
    alignas(64) Out out_block[16];
    const int64_t rest = n - main;
    for (int64_t i = 0; i < rest; ++i) in_block[i] = x[main + i];
    for (int64_t i = 0; i < 16; ++i) out_block[i] = Op::apply(in_block[i]);
    for (int64_t i = 0; i < rest; ++i) out[main + i] = out_block[i];
  } else {
    for (int64_t i = main; i < n; ++i) {
      asm volatile("");  // keeps this loop scalar
      out[i] = Op::apply(x[i]);
    }
  }
}
template <class Op, class Out, class In>
static void binary_core(int64_t n, void* out_, const void* a_, const void* b_) {
  Out* out = static_cast<Out*>(out_);
  const In *a = static_cast<const In*>(a_), *b = static_cast<const In*>(b_);
  const int64_t main = n & ~int64_t{15};
#pragma GCC ivdep
  for (int64_t i = 0; i < main; ++i) out[i] = Op::apply(a[i], b[i]);
  for (int64_t i = main; i < n; ++i) {
    asm volatile("");
    out[i] = Op::apply(a[i], b[i]);
  }
}

template <class Op, class Out, class In, bool kPadded>
static void unary_loop(int64_t n, void* out, int64_t step_out, const void* x, int64_t step_x) {
  if (step_out == 1 && step_x == 1) return unary_core<Op, Out, In, kPadded>(n, out, x);
  run_unary(unary_core<Op, Out, In, kPadded>, n, out, step_out, sizeof(Out), x, step_x, sizeof(In));
}
template <class Op, class Out, class In>
static void binary_loop(int64_t n, void* out, int64_t step_out, const void* a, int64_t step_a,
                        const void* b, int64_t step_b) {
  if (step_out == 1 && step_a == 1 && step_b == 1) {
    return binary_core<Op, Out, In>(n, out, a, b);
  }
  run_binary(binary_core<Op, Out, In>, n, out, step_out, sizeof(Out), a, step_a, b, step_b,
             sizeof(In));
}

}  // namespace bessemer::cpu::BESSEMER_ISA
