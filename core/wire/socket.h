// ZeroMQ sockets that carry messages: one for a client, one for a server. Nothing here waits
// without a limit, and nothing is dropped in silence: a message that cannot be queued is reported.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/wire/curve.h"
#include "core/wire/message.h"

namespace bessemer::wire {

/// A message as frames that may be sent again: one copy is made when packing, none when sending.
class Packed {
 public:
  Packed();
  explicit Packed(const Message& message);
  ~Packed();
  Packed(Packed&&) noexcept;
  Packed& operator=(Packed&&) noexcept;
  size_t bytes() const;

 private:
  friend class Socket;
  struct Frames;
  std::unique_ptr<Frames> frames_;
};

/// What came in: from whom (a server's peers are told apart by it) and the message, or why its
/// bytes were none.
struct Incoming {
  std::string peer;
  Message message;
  std::optional<WireError> problem;
};

struct SocketOptions {
  Limits limits;
  int high_water = 4096;  // messages queued a peer
  double heartbeat = 2;   // seconds between ZMTP pings; a link silent for three is dropped
  Keys keys;              // none: neither encrypted nor authenticated
};

class Socket {
 public:
  enum class Role : uint8_t { client, server };
  explicit Socket(Role role, const SocketOptions& options = {});
  ~Socket();
  Socket(Socket&&) noexcept;
  Socket& operator=(Socket&&) noexcept;

  /// Returns the address with `*` resolved. Throws IoError when it is in use or not an address.
  std::string bind(const std::string& address);
  void connect(const std::string& address);
  void disconnect(const std::string& address);
  /// Why a client's connections are refused for good ("it does not know this client's key"); "" as
  /// far as is known they are not.
  std::string refused();

  /// False when the peer's queue is full or the peer is gone; the message is then not sent.
  bool send(const Packed& packed, const std::string& peer = {});
  /// The next message that is there; never waits.
  std::optional<Incoming> receive();

 private:
  friend struct Ready wait_readable(std::span<Socket* const>, std::span<const int>, double);
  void watch_handshakes();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a wait found.
struct Ready {
  bool socket = false, fd = false;  // one of them can be read
  explicit operator bool() const { return socket || fd; }
};
/// Waits until one of the sockets or descriptors can be read or `seconds` passed.
Ready wait_readable(std::span<Socket* const> sockets, std::span<const int> fds, double seconds);

/// True for inproc, ipc and the loopback addresses of tcp.
bool is_local_address(std::string_view address);

}  // namespace bessemer::wire
