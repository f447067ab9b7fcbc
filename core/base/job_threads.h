// Threads for jobs that may take long or wait: as many as there are jobs at once, up to a limit, so
// that one that hangs keeps no other waiting. (ThreadPool divides one computation; this does not.)
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace bessemer {

class JobThreads {
 public:
  explicit JobThreads(size_t most = 256) : most_(most) {}
  /// Lets running and queued jobs end.
  ~JobThreads();
  JobThreads(const JobThreads&) = delete;

  /// Starts a thread when all are busy. Jobs must not throw.
  void run(std::function<void()> job);
  size_t threads() const;

 private:
  void loop();

  const size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  std::vector<std::thread> threads_;
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace bessemer
