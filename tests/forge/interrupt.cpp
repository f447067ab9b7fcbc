// Signals that ask to stop, whenever and on whichever thread they arrive.
#include "forge/interrupt.h"

#include <doctest/doctest.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <thread>

using namespace bessemer;

namespace {

struct Pipe {
  Pipe() { REQUIRE(::pipe(ends) == 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  int ends[2];
};

}  // namespace

TEST_CASE("a signal ends a wait for input that begins after it") {
  const Pipe pipe;
  const InterruptGuard guard(InterruptGuard::Notice::silent);
  for (int signal : {SIGINT, SIGTERM}) {
    std::raise(signal);
    CHECK_FALSE(wait_readable(pipe.ends[0]));
    CHECK(interrupt_signal() == signal);
    CHECK_FALSE(wait_readable(pipe.ends[0]));  // it stays so until it is forgotten
    clear_interrupt();
    CHECK_FALSE(interrupt_requested());
    REQUIRE(::write(pipe.ends[1], "x", 1) == 1);
    CHECK(wait_readable(pipe.ends[0]));
    char byte;
    REQUIRE(::read(pipe.ends[0], &byte, 1) == 1);
  }
}

TEST_CASE("a signal that another thread takes ends the wait") {
  const Pipe pipe;
  const InterruptGuard guard(InterruptGuard::Notice::silent);
  std::thread other([] {
    ::usleep(20'000);
    ::pthread_kill(::pthread_self(), SIGINT);
  });
  CHECK_FALSE(wait_readable(pipe.ends[0]));
  other.join();
  CHECK(interrupt_signal() == SIGINT);
}

TEST_CASE("input that ended is readable") {
  Pipe pipe;
  const InterruptGuard guard(InterruptGuard::Notice::silent);
  ::close(pipe.ends[1]);
  CHECK(wait_readable(pipe.ends[0]));
  pipe.ends[1] = -1;
}
