// One pool a process. Callers take part in the work; helpers spin briefly, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace bessemer {

class ThreadPool {
 public:
  /// `threads` counts the calling thread: 1 means no helpers. 0 means one a core.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(i) for every i in [0, tasks), each exactly once, on any thread; returns when all
  /// are done. The first exception is rethrown here. Calls do not nest: an inner run is done
  /// inline.
  template <class Body>
  void run(int64_t tasks, Body&& body) {
    if (tasks <= 0) return;
    if (tasks == 1 || workers_.empty() || busy_inside()) {
      for (int64_t i = 0; i < tasks; ++i) body(i);
      return;
    }
    run_erased(
        tasks,
        [](void* context, int64_t i) {
          (*static_cast<std::remove_reference_t<Body>*>(context))(i);
        },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// True on a thread that is inside some pool's run().
  static bool busy_inside();

 private:
  using Task = void (*)(void*, int64_t);
  void run_erased(int64_t tasks, Task task, void* context);
  void work(uint64_t generation);
  void loop();

  std::vector<std::thread> workers_;
  std::mutex caller_;  // one run at a time
  std::mutex mutex_;
  std::condition_variable wake_;
  // Generation in the high half, tasks not yet claimed in the low half: a helper that comes late
  // finds another generation or nothing left, so a run never waits for one that is asleep.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> unfinished_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::exception_ptr error_;
};

/// Cores this process may use (affinity respected).
int core_count();

}  // namespace bessemer
