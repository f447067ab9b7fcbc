// Chooses the kernel table, and holds what kernels need from outside: scratch memory and the pool.
// Compiled for the plain machine; the instruction sets are in core/cpu/isa.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>

#include "core/base/error.h"
#include "core/cpu/kernels.h"

namespace bessemer::cpu {

namespace baseline {
const KernelTable& table();
}
#if defined(BESSEMER_X86_KERNELS)
namespace avx2 {
const KernelTable& table();
}
namespace avx512 {
const KernelTable& table();
}
#endif

namespace {

struct Choice {
  const char* name;
  bool runs;
  const KernelTable& (*table)();
};

std::vector<Choice> choices() {
  std::vector<Choice> all = {{"baseline", true, baseline::table}};
#if defined(BESSEMER_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
                      __builtin_cpu_supports("avx512bf16");
  all.push_back({"avx2", avx2, avx2::table});
  all.push_back({"avx512", avx512, avx512::table});
#endif
  return all;
}

const KernelTable& choose() {
  const char* forced = std::getenv("BESSEMER_ISA");
  const std::vector<std::string> available = available_isas();
  return kernels(forced && *forced ? forced : available.back());
}

std::mutex pool_mutex;
std::unique_ptr<ThreadPool> current_pool;
std::atomic<ThreadPool*> current{nullptr};

struct Scratch {
  float* data = nullptr;
  size_t floats = 0;
  ~Scratch() { std::free(data); }
};

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) {
    if (choice.runs) names.emplace_back(choice.name);
  }
  return names;
}

const KernelTable& kernels(std::string_view isa) {
  for (const Choice& choice : choices()) {
    if (choice.runs && isa == choice.name) return choice.table();
  }
  const std::vector<std::string> available = available_isas();
  std::string list;
  for (const std::string& name : available) list += (list.empty() ? "" : ", ") + name;
  fail<ValueError>("[cpu] instruction set '", isa, "' is not available here; this machine runs ",
                   list, did_you_mean(isa, available));
}

const KernelTable& kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

ThreadPool& pool() {
  if (ThreadPool* ready = current.load(std::memory_order_acquire)) return *ready;
  std::lock_guard lock(pool_mutex);
  if (!current_pool) current_pool = std::make_unique<ThreadPool>(1);
  current.store(current_pool.get(), std::memory_order_release);
  return *current_pool;
}

void set_threads(int threads) {
  BESSEMER_CHECK(threads >= 0, ValueError, "[cpu] threads must be 0 (one a core) or more, got ",
                 threads);
  auto next = std::make_unique<ThreadPool>(threads);
  std::lock_guard lock(pool_mutex);
  current.store(next.get(), std::memory_order_release);
  current_pool = std::move(next);
}

float* thread_scratch(int slot, size_t floats) {
  thread_local Scratch scratch[2];
  Scratch& s = scratch[slot];
  if (s.floats < floats) {
    std::free(s.data);
    s.floats = 0;
    const size_t bytes = (floats * sizeof(float) + 4095) / 4096 * 4096;
    s.data = static_cast<float*>(std::aligned_alloc(4096, bytes));
    if (!s.data) throw std::bad_alloc();
    s.floats = bytes / sizeof(float);
  }
  return s.data;
}

int pool_threads(const ThreadPool* pool) { return pool->threads(); }

void pool_run(ThreadPool* pool, int64_t tasks, void (*body)(void*, int64_t), void* context) {
  pool->run(tasks, [=](int64_t i) { body(context, i); });
}

}  // namespace bessemer::cpu
