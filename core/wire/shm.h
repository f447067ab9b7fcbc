// Two rings in one shared memory segment: messages between two processes of one host without a
// socket. The segment is a sealed memfd that has no name, so nothing can be left behind, and
// neither side can shrink it under the other.
//
// What the other side writes is never trusted: positions and sizes are checked against private
// copies, and a record is copied out before it is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/wire/socket.h"

namespace bessemer::wire {

/// Names this boot and process namespace: equal on both sides where memory can be shared.
const std::string& host_name();

class ShmLink {
 public:
  /// The server's end; `doorbell` is the writing end of a pipe that the client rings when the
  /// server sleeps. `bytes` of each direction are rounded up to whole pages.
  static std::unique_ptr<ShmLink> create(size_t bytes, int doorbell);
  /// The client's end, from the server's offer. Throws IoError when it cannot be opened here.
  static std::unique_ptr<ShmLink> open(const Map& offer);
  ~ShmLink();

  /// pid, fd, doorbell, bytes, nonce: what `open` needs.
  Map offer() const;
  /// Closes the descriptor that the offer names; the mapping stays.
  void forget_offer();

  /// Largest message that the ring takes, header and padding included.
  size_t capacity() const;
  /// False when there is no room now, or never will be.
  bool write(const Message& message);
  bool readable() const;
  /// The next message; nothing when there is none. Throws WireError (malformed) when the other side
  /// broke the ring: the link must then be given up.
  std::optional<Incoming> read(const Limits& limits);

  /// Says that this side is about to wait (the writer then wakes it), or no longer does. After
  /// `arm`, look at `readable` again before sleeping.
  void arm();
  void disarm();
  /// The client's sleep: until woken or `seconds` passed.
  void sleep(double seconds);

  /// Tells the reader to look at its socket: this message went there, for want of room.
  void note_socket();
  bool socket_noted();

  /// False when the other side last ran on this very CPU: waiting actively would keep it from it.
  bool may_spin() const;
  /// Called before each sleep: where both sides keep sharing one CPU although this thread may use
  /// others, moves it to another once in a while. Its affinity is left as it was.
  void part_ways();

 private:
  ShmLink() = default;
  struct Direction;
  struct Segment;
  void wake(Direction& direction);

  Segment* segment_ = nullptr;
  size_t mapped_ = 0, ring_bytes_ = 0;
  Direction* in_ = nullptr;
  Direction* out_ = nullptr;
  char* in_data_ = nullptr;
  char* out_data_ = nullptr;
  uint64_t read_at_ = 0, written_at_ = 0;  // this side's own positions
  uint32_t socket_seen_ = 0;
  uint32_t together_ = 0;  // sleeps in a row beside the other side
  int64_t parted_ = 0;     // when it was moved last, ns
  bool server_ = false;
  int fd_ = -1, doorbell_ = -1;
  uint64_t nonce_ = 0;
  std::shared_ptr<char[]> copy_;  // of the last record, used again when nobody looks at it
  size_t copy_bytes_ = 0;
};

/// Tells the CPU that this is a spin loop.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace bessemer::wire
