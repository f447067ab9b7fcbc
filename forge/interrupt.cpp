#include "forge/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "core/base/error.h"

namespace bessemer {

namespace {

volatile std::sig_atomic_t requested = 0;
int guards = 0;
struct sigaction before_int, before_term;

volatile std::sig_atomic_t silent = 0;
// Readable from the first signal on: a flag alone would be missed between a look at it and poll().
volatile std::sig_atomic_t wake = -1;

void request(int signal) {
  requested = signal;
  const uint64_t one = 1;
  const int before = errno;
  [[maybe_unused]] const ssize_t woken = ::write(wake, &one, sizeof one);
  errno = before;
}

void on_signal(int signal) {
  if (requested) _exit(130);
  request(signal);
  if (silent) return;
  static constexpr char text[] = "\nstopping after this iteration; once more stops at once\n";
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, sizeof text - 1);
}

}  // namespace

InterruptGuard::InterruptGuard(Notice notice) {
  if (guards++ > 0) return;
  if (wake < 0) wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  clear_interrupt();
  silent = notice == Notice::silent;
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
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

void clear_interrupt() {
  requested = 0;  // first: a signal from here on is seen by its flag or by its wake
  uint64_t count;
  [[maybe_unused]] const ssize_t drained = ::read(wake, &count, sizeof count);
}

bool wait_readable(int file) {
  pollfd files[] = {{file, POLLIN, 0}, {wake, POLLIN, 0}};
  while (!requested && ::poll(files, 2, -1) < 0) {
    BESSEMER_CHECK(errno == EINTR, IoError,
                   "[interrupt] cannot wait for input: ", std::strerror(errno));
  }
  return !requested;
}

void request_interrupt() { request(SIGINT); }

}  // namespace bessemer
