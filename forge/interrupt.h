// Ctrl-C: the first asks the run to stop at its next boundary, the second ends the process at once.
#pragma once

namespace bessemer {

/// Catches SIGINT and SIGTERM while it lives; what was installed before comes back afterwards.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// True once a caught signal came; cleared when the outermost guard is made.
bool interrupt_requested();
/// What a signal does, for callers with a signal loop of their own (Python).
void request_interrupt();

}  // namespace bessemer
