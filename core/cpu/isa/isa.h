// What the sources of core/cpu/isa share. Each is compiled once for every instruction set with
// another BESSEMER_ISA, which names the namespace. Rule: nothing here or there may emit a function
// of external linkage outside that namespace (no std containers or algorithms), or the linker would
// keep one copy, perhaps the AVX-512 one, for all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cpu/kernels.h"

#define BESSEMER_INLINE [[gnu::always_inline]] [[maybe_unused]] static inline

namespace bessemer::cpu {

/// In dispatch.cpp, outside the instruction sets: a thread's scratch memory (64-byte aligned, grown
/// on demand, two independent slots) and parallel loops.
float* thread_scratch(int slot, size_t floats);
int pool_threads(const ThreadPool* pool);
void pool_run(ThreadPool* pool, int64_t tasks, void (*body)(void*, int64_t), void* context);

namespace BESSEMER_ISA {

void fill_elementwise(KernelTable& table);
void fill_casts(KernelTable& table);
void fill_products(KernelTable& table);
void fill_half_products(KernelTable& table);
void fill_rows(KernelTable& table);
void fill_norms(KernelTable& table);
void fill_attention(KernelTable& table);
void fill_cross_entropy(KernelTable& table);
void fill_attention_backward(KernelTable& table);
const KernelTable& table();

/// acts on x[0..n) in place.
void activate(Activation activation, int64_t n, float* x);

}  // namespace BESSEMER_ISA
}  // namespace bessemer::cpu
