// What a wait that may last (for another process, for a reply) calls now and then, so that whoever
// started it can end it: Python looks for Ctrl-C here.
#pragma once

#include <atomic>

#include "core/base/error.h"

namespace bessemer {

inline constexpr double kWaitSlice = 0.1;  // seconds between two looks

/// May throw: the exception ends the wait and reaches the caller.
using WaitCheck = void (*)();

inline std::atomic<WaitCheck>& wait_check_hook() {
  static std::atomic<WaitCheck> hook{nullptr};
  return hook;
}

/// Waits of this thread end with an Error once it is true; null: never. For threads that work for
/// somebody who may go away.
inline thread_local const std::atomic<bool>* wait_cancelled = nullptr;

inline void wait_check() {
  if (wait_cancelled && *wait_cancelled) fail<Error>("[wait] nobody waits for this any more");
  if (const WaitCheck check = wait_check_hook().load(std::memory_order_relaxed)) check();
}

}  // namespace bessemer
