#include "core/base/thread_pool.h"

#include <sched.h>

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

void ThreadPool::work() {
  inside = true;
  for (;;) {
    const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= tasks_) break;
    try {
      task_(context_, i);
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  inside = false;
}

void ThreadPool::run_erased(int64_t tasks, Task task, void* context) {
  std::lock_guard caller(caller_);
  tasks_ = tasks;
  task_ = task;
  context_ = context;
  error_ = nullptr;
  next_.store(0, std::memory_order_relaxed);
  finished_.store(0, std::memory_order_relaxed);
  {
    // Under the mutex, so that no helper can fall asleep between its check and this change.
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1, std::memory_order_release);
  }
  if (sleeping_.load(std::memory_order_acquire) > 0) wake_.notify_all();
  work();
  const auto helpers = static_cast<int64_t>(workers_.size());
  // Every helper must have left work() before the next run may change the task.
  for (int spins = 0; finished_.load(std::memory_order_acquire) < helpers; ++spins) {
    if (spins < kSpins) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (error_) std::rethrow_exception(error_);
}

void ThreadPool::loop() {
  int64_t seen = 0;
  for (;;) {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (generation_.load(std::memory_order_acquire) != seen || stop_.load()) break;
      pause();
    }
    if (generation_.load(std::memory_order_acquire) == seen) {
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return stop_.load() || generation_.load() != seen; });
      sleeping_.fetch_sub(1);
    }
    if (stop_.load()) return;
    ++seen;
    work();
    finished_.fetch_add(1, std::memory_order_release);
  }
}

}  // namespace bessemer
