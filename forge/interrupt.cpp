#include "forge/interrupt.h"

#include <unistd.h>
#include <csignal>

namespace bessemer {

namespace {

volatile std::sig_atomic_t requested = 0;
int guards = 0;
struct sigaction before_int, before_term;

volatile std::sig_atomic_t silent = 0;

void on_signal(int signal) {
  if (requested) _exit(130);
  requested = signal;
  if (silent) return;
  static constexpr char text[] = "\nstopping after this iteration; once more stops at once\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, sizeof text - 1);
}

}  // namespace

InterruptGuard::InterruptGuard(Reading reading) {
  if (guards++ > 0) return;
  requested = 0;
  silent = reading == Reading::ends;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = reading == Reading::ends ? 0 : SA_RESTART;
  sigaction(SIGINT, &action, &before_int);
  sigaction(SIGTERM, &action, &before_term);
}

InterruptGuard::~InterruptGuard() {
  if (--guards > 0) return;
  sigaction(SIGINT, &before_int, nullptr);
  sigaction(SIGTERM, &before_term, nullptr);
}

bool interrupt_requested() { return requested != 0; }
int interrupt_signal() { return requested; }
void clear_interrupt() { requested = 0; }
void request_interrupt() { requested = SIGINT; }

}  // namespace bessemer
