// Ctrl-C: the first asks what runs to stop at its next boundary, the second ends the process at
// once.
#pragma once

namespace bessemer {

/// Catches SIGINT and SIGTERM while it lives; what was installed before comes back afterwards.
class InterruptGuard {
 public:
  /// Whether a line on stderr says what the first signal does.
  enum class Notice { said, silent };
  explicit InterruptGuard(Notice notice = Notice::said);
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
/// Waits until `file` can be read or is at its end; false once a caught signal came, before the
/// call or while it waits, on whichever thread. Needs a guard.
bool wait_readable(int file);
/// What a signal does, for callers with a signal loop of their own (Python).
void request_interrupt();

}  // namespace bessemer
