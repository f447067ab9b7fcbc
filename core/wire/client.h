// The asking half: a session with a server. Requests may overlap up to the granted credits; each is
// carried out exactly once, however often the link fails, and its reply is found by its id.
#pragma once

#include <memory>
#include <string>

#include "core/wire/socket.h"

namespace bessemer::wire {

struct ClientOptions {
  SocketOptions socket;
  double deadline = 5;   // seconds, for the hello and where a call names none
  double opening = 130;  // seconds for the hello while the server says that it works on it
  double resend = 0.2;   // seconds of silence before a request is sent again; doubles to 16 times
  double lease = 0;      // seconds that the session outlives silence; 0: as the server likes
  size_t shared_bytes = 0;  // ring in each direction when the server runs on this host; 0: none
  double spin = 50e-6;      // seconds of active waiting for a ring before sleeping
};

/// Used by one thread at a time; one background thread of the process keeps all leases.
class Client {
 public:
  /// Opens a session; `hello` carries the service's fields. Throws WireError: the server's refusal,
  /// or `deadline` when nobody answers.
  Client(std::string address, Message hello, const ClientOptions& options = {});
  /// Ends the session.
  ~Client();
  Client(const Client&) = delete;

  const Message& welcome() const;
  const std::string& address() const;
  uint64_t credits() const;
  /// True when messages go through shared memory.
  bool shared() const;
  /// True once the server said that it is draining.
  bool draining() const;

  /// Sends; the id to `take` the reply by. Waits for credit until the deadline in seconds.
  uint64_t post(Message message, double deadline = 0);
  /// The reply to `id`; an error reply is thrown as WireError with its code. After a `deadline`
  /// error the request is still under way and may be taken again.
  /// While the server says that it works on it, a reply may take `patience` seconds instead.
  Message take(uint64_t id, double deadline = 0, double patience = 0);
  /// True when the reply is here, without waiting.
  bool ready(uint64_t id);
  /// Lets the reply be dropped when it comes.
  void forget(uint64_t id);
  Message call(Message message, double deadline = 0, double patience = 0);
  /// Requests without a reply yet.
  uint64_t in_flight() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Asks without a session (`info`). Throws WireError.
Message ask(const std::string& address, Message message, const ClientOptions& options = {});

}  // namespace bessemer::wire
