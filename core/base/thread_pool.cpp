#include "core/base/thread_pool.h"

#include <sched.h>

#include "core/base/error.h"

namespace bessemer {

namespace {
thread_local bool inside = false;
constexpr int kSpins = 4000;  // about 20 µs, what waking a halted core costs

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

int core_count() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int>(std::thread::hardware_concurrency());
}

bool ThreadPool::busy_inside() { return inside; }

ThreadPool::ThreadPool(int threads) {
  const int count = threads > 0 ? threads : core_count();
  for (int i = 1; i < count; ++i) workers_.emplace_back([this] { loop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

/// Claims and runs tasks of a generation until none is left.
void ThreadPool::work(uint64_t generation) {
  inside = true;
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (ticket >> 32 == generation && (ticket & 0xffffffffu) != 0) {
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    // Claimed: this run cannot end before the task does, so task and context are this generation's.
    try {
      task_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed),
                                            static_cast<int64_t>((ticket & 0xffffffffu) - 1));
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    ticket = ticket_.load(std::memory_order_acquire);
  }
  inside = false;
}

void ThreadPool::run_erased(int64_t tasks, Task task, void* context) {
  BESSEMER_CHECK(tasks < (int64_t{1} << 32), ValueError, "a run has at most 2^32 tasks, not ",
                 tasks);
  std::lock_guard caller(caller_);
  task_.store(task, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  error_ = nullptr;
  unfinished_.store(tasks, std::memory_order_relaxed);
  const uint64_t generation = ((ticket_.load(std::memory_order_relaxed) >> 32) + 1) & 0xffffffffu;
  {
    // Under the mutex, so that no helper can fall asleep between its check and this change.
    std::lock_guard lock(mutex_);
    ticket_.store(generation << 32 | static_cast<uint64_t>(tasks), std::memory_order_release);
  }
  if (sleeping_.load(std::memory_order_acquire) > 0) wake_.notify_all();
  work(generation);
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::loop() {
  const auto waiting = [this] {
    return (ticket_.load(std::memory_order_acquire) & 0xffffffffu) == 0 && !stop_.load();
  };
  while (!stop_.load()) {
    for (int spins = 0; spins < kSpins && waiting(); ++spins) pause();
    if (waiting()) {
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return !waiting(); });
      sleeping_.fetch_sub(1);
    }
    work(ticket_.load(std::memory_order_acquire) >> 32);
  }
}

}  // namespace bessemer
