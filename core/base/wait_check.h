// What a wait that may last (for another process, for a reply) calls now and then, so that whoever
// started it can end it: Python looks for Ctrl-C here.
#pragma once

#include <atomic>

namespace bessemer {

inline constexpr double kWaitSlice = 0.1;  // seconds between two looks

/// May throw: the exception ends the wait and reaches the caller.
using WaitCheck = void (*)();

inline std::atomic<WaitCheck>& wait_check_hook() {
  static std::atomic<WaitCheck> hook{nullptr};
  return hook;
}

inline void wait_check() {
  if (const WaitCheck check = wait_check_hook().load(std::memory_order_relaxed)) check();
}

}  // namespace bessemer
