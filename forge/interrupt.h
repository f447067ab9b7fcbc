// Ctrl-C: the first asks what runs to stop at its next boundary, the second ends the process at
// once.
#pragma once

namespace bessemer {

/// Catches SIGINT and SIGTERM while it lives; what was installed before comes back afterwards.
class InterruptGuard {
 public:
  /// What the first signal does to somebody who waits for input.
  enum class Reading { goes_on, ends };
  /// With Reading::goes_on a line on stderr says what happens; with `ends` a blocked read() returns
  /// EINTR and nothing is said.
  explicit InterruptGuard(Reading reading = Reading::goes_on);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// True once a caught signal came; cleared when the outermost guard is made.
bool interrupt_requested();
/// The signal: 0, SIGINT or SIGTERM.
int interrupt_signal();
/// Forgets it: the next signal is a first one again.
void clear_interrupt();
/// What a signal does, for callers with a signal loop of their own (Python).
void request_interrupt();

}  // namespace bessemer
