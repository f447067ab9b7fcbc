// The serving half: sessions with leases, requests in order and exactly once, replies that can be
// asked for again, over sockets and shared memory alike. What requests mean is the Service's
// affair.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/wire/socket.h"

namespace bessemer::wire {

/// One client's standing with the server. `data` belongs to the service.
struct Session {
  std::string key;
  std::shared_ptr<void> data;
  /// Set by `Service::open`: Server::welcome or Server::deny is called later.
  bool opening = false;
};

class Service {
 public:
  virtual ~Service() = default;
  /// Somebody wants a session: fill `welcome`, or throw WireError to refuse, or set
  /// `session.opening` and answer later.
  virtual void open(Session& session, const Message& hello, Message& welcome) = 0;
  /// One request; each comes once, in the order of its id. The reply, or nothing when
  /// Server::reply is to be called later. An exception becomes an error reply: WireError with its
  /// code, ValueError and IndexError as bad_value, TypeError as bad_type, others as internal.
  /// Arrays of the reply are read before anything else is asked of the service.
  virtual std::optional<Message> request(Session& session, Message& message) = 0;
  /// The session ended; `reason` is "bye", "lease", "died" or "server".
  virtual void close(Session& session, std::string_view reason) = 0;
  /// Answers a request that needs no session.
  virtual Message info(const Message& ask) = 0;
  /// The server ends: when this returns, nothing calls it from other threads any more.
  virtual void stop() {}
};

struct ServerOptions {
  SocketOptions socket;
  uint64_t max_sessions = 4096;
  uint64_t credits = 16;  // requests in flight a session
  double lease = 5;       // seconds of silence, unless the client asks for another
  double max_lease = 600;
  size_t shared_bytes = size_t{1} << 26;  // most of a ring that a client may ask for; 0: none
  double spin = 50e-6;  // seconds of active waiting while a shared memory session is busy
};

class Server {
 public:
  Server(Service& service, const ServerOptions& options = {});
  ~Server();
  Server(const Server&) = delete;

  /// inproc, ipc, or tcp on a loopback address (with keys on any); returns the address with `*`
  /// resolved.
  std::string bind(const std::string& address);
  /// Handles what there is, waiting up to `seconds` for it.
  void poll(double seconds);
  /// Polls until stop(), or, after drain(), until the last session is gone or its time is up.
  void run();

  /// From any thread and from signal handlers.
  void stop();
  /// Takes no new session; replies say `draining`. From any thread and from signal handlers.
  void drain(double seconds);
  /// Calls `work` on the thread that polls. From any thread.
  void post(std::function<void()> work);

  /// The answer to a hello that `Service::open` left open. On the thread that polls.
  void welcome(const std::string& session, Message welcome);
  void deny(const std::string& session, Code code, const std::string& text);
  /// Ends a session. On the thread that polls.
  void end(const std::string& session, std::string_view reason);
  /// The reply to a request that `Service::request` left open. On the thread that polls.
  void reply(const std::string& session, uint64_t id, Message message);
  void reply_error(const std::string& session, uint64_t id, Code code, const std::string& text);

  const std::string& incarnation() const;
  uint64_t sessions() const;
  /// requests, repeated, errors, malformed, unsent, opened, expired, sessions, seconds.
  Map stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bessemer::wire
