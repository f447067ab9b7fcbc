#include "core/wire/server.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/wire/shm.h"

namespace bessemer::wire {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

Message error_message(Code code, std::string_view text) {
  Message message("error");
  message.fields.set("code", code_name(code));
  message.fields.set("message", text);
  return message;
}

/// One request of a session, from its arrival until the client said that it has the reply.
struct Slot {
  enum class State : uint8_t { held, running, done } state = State::held;
  bool by_ring = false;
  Message request;                   // held: waits for those before it
  std::optional<WireError> problem;  // held: it could not be read
  Packed reply;                      // done: to be sent again when asked
};

struct Open : Session {
  std::string peer, client;
  uint64_t hello = 0, next = 0, ack = 0;
  double lease = 5;
  Clock::time_point heard;
  std::map<uint64_t, Slot> slots;
  std::unique_ptr<ShmLink> link;
  int pidfd = -1;
  Message asked;  // the hello, while the service has not answered it
  Packed welcome;

  ~Open() {
    if (pidfd >= 0) close(pidfd);
  }
};

}  // namespace

struct Server::Impl {
  Server& server;
  Service& service;
  ServerOptions options;
  Socket socket;
  std::string incarnation = random_hex(16);
  std::unordered_map<std::string, std::unique_ptr<Open>> sessions;
  std::vector<Open*> linked;                    // those with shared memory
  std::map<std::string, std::string> by_hello;  // client and id of the hello -> session
  std::vector<Open*> dead;                      // their process ended
  int epoll = -1, bell[2] = {-1, -1};
  std::atomic<bool> stopping{false};
  std::atomic<double> drain_for{-1};
  bool draining = false;
  Clock::time_point drained_by, polled = Clock::now(), checked = polled, started = polled,
                                ring_used = polled, emptied = polled, events_read = polled;
  std::mutex mutex;
  std::vector<std::function<void()>> posted;
  std::atomic<bool> has_posted{false};
  uint64_t requests = 0, repeated = 0, errors = 0, malformed = 0, unsent = 0, opened = 0,
           expired = 0;

  Impl(Server& server_, Service& service_, const ServerOptions& options_)
      : server(server_),
        service(service_),
        options(options_),
        socket(Socket::Role::server, options_.socket) {
    BESSEMER_CHECK(pipe2(bell, O_CLOEXEC | O_NONBLOCK) == 0, IoError,
                   "[wire] pipe: ", strerror(errno));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    BESSEMER_CHECK(epoll >= 0, IoError, "[wire] epoll: ", strerror(errno));
    watch(bell[0], nullptr);
  }
  ~Impl() {
    for (auto& [key, session] : sessions) service.close(*session, "server");
    sessions.clear();
    for (int fd : {epoll, bell[0], bell[1]}) {
      if (fd >= 0) ::close(fd);
    }
  }

  void watch(int fd, Open* session) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = session;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  }
  void ring_bell() { [[maybe_unused]] const ssize_t n = write(bell[1], "", 1); }

  // Replies

  void answer(const std::string& peer, Message message, uint64_t id) {
    message.id = id;
    if (!socket.send(Packed(message), peer)) ++unsent;
  }
  void answer_error(const std::string& peer, uint64_t id, Code code, std::string_view text) {
    ++errors;
    Message message = error_message(code, text);
    message.fields.set("incarnation", incarnation);
    answer(peer, std::move(message), id);
  }

  void finish(Open& session, uint64_t id, Message message) {
    const auto found = session.slots.find(id);
    if (found == session.slots.end() || found->second.state != Slot::State::running) return;
    Slot& slot = found->second;
    message.id = id;
    if (draining) message.fields.set("draining", true);
    if (slot.by_ring && session.link && session.link->write(message)) {
      session.slots.erase(found);  // nothing is lost in a ring: it will not be asked for again
      return;
    }
    slot.state = Slot::State::done;
    slot.reply = Packed(message);
    if (slot.reply.bytes() > options.socket.limits.bytes) {
      slot.reply = Packed(with_id(error_message(Code::too_large, "[wire] reply is too large"), id));
    }
    send(session, slot.reply);
  }
  /// A reply that cannot be queued is kept: the client asks again.
  void send(Open& session, const Packed& packed) {
    if (!socket.send(packed, session.peer)) ++unsent;
    if (session.link) session.link->note_socket();
  }
  static Message with_id(Message message, uint64_t id) {
    message.id = id;
    return message;
  }
  void finish_error(Open& session, uint64_t id, Code code, std::string_view text) {
    ++errors;
    finish(session, id, error_message(code, text));
  }

  // Requests

  void deliver(Open& session, uint64_t id, Slot& slot) {
    slot.state = Slot::State::running;
    Message request = std::move(slot.request);
    slot.request = Message();
    ++requests;
    try {
      if (slot.problem) throw WireError(*slot.problem);
      if (std::optional<Message> reply = service.request(session, request)) {
        if (reply->type.empty()) reply->type = "reply";
        finish(session, id, std::move(*reply));
      }
    } catch (...) {
      const WireError error = current_error();
      finish_error(session, id, error.code(), error.what());
    }
  }

  void request(Open& session, Message message, bool by_ring,
               std::optional<WireError> problem = std::nullopt) {
    session.heard = Clock::now();
    if (message.ack >= session.next) {
      return answer_error(session.peer, message.id, Code::malformed,
                          "[wire] ack of a reply that was never sent");
    }
    if (message.ack > session.ack) {
      session.ack = message.ack;
      session.slots.erase(session.slots.begin(), session.slots.upper_bound(session.ack));
    }
    const uint64_t id = message.id;
    if (message.type == "again") return again(session, id);
    if (id <= session.ack) return;  // a late copy: its reply was received
    if (id < session.next) return again(session, id);
    if (id > session.ack + options.credits) {
      return answer_error(session.peer, id, Code::no_credit,
                          cat("[wire] request ", id, " goes beyond the ", options.credits,
                              " granted after ", session.ack));
    }
    Slot& slot = session.slots[id];
    slot.by_ring = by_ring;
    slot.request = std::move(message);
    slot.problem = std::move(problem);
    while (true) {
      const auto found = session.slots.find(session.next);
      if (found == session.slots.end() || found->second.state != Slot::State::held) break;
      deliver(session, session.next++, found->second);
    }
  }

  /// The reply once more; `working` while there is none, `lost` when the request never came.
  void again(Open& session, uint64_t id) {
    ++repeated;
    if (id <= session.ack) return;
    const auto found = session.slots.find(id);
    if (found != session.slots.end() && found->second.state == Slot::State::done) {
      send(session, found->second.reply);
    } else if (found != session.slots.end()) {
      send(session, Packed(with_id(Message("working"), id)));
    } else if (id >= session.next) {
      send(session, Packed(with_id(Message("lost"), id)));
    }  // else it lies in the ring
  }

  // Sessions

  void hello(const std::string& peer, const Message& message) {
    const std::string& client = message.fields.text("client");
    const std::string name = cat(client, '/', message.id);
    if (const auto known = by_hello.find(name); known != by_hello.end()) {
      Open& session = *sessions.at(known->second);
      session.peer = peer;
      if (session.opening) return answer(peer, Message("working"), message.id);
      if (!socket.send(session.welcome, peer)) ++unsent;
      return;
    }
    bool common = false;
    for (const Value& version : message.fields.list("protocol")) {
      common |= version.integer("protocol") == kProtocol;
    }
    if (!common) {
      refuse(Code::version, "[wire] this server speaks protocol version ", kProtocol,
             ", the client none that it knows");
    }
    if (draining) refuse(Code::draining, "[wire] the server is draining");
    if (sessions.size() >= options.max_sessions) {
      refuse(Code::capacity, "[wire] all ", options.max_sessions, " sessions are taken");
    }
    auto session = std::make_unique<Open>();
    session->key = random_hex(16);  // whoever knows it may use the session
    session->peer = peer;
    session->client = client;
    session->hello = session->ack = message.id;
    session->next = message.id + 1;
    session->lease =
        std::clamp(message.fields.number("lease", options.lease), 0.05, options.max_lease);
    session->heard = Clock::now();
    Message welcome("welcome");
    open_client(*session, message);
    service.open(*session, message, welcome);
    ++opened;
    by_hello[name] = session->key;
    Open& kept = *(sessions[session->key] = std::move(session));
    try {
      if (kept.pidfd >= 0) watch(kept.pidfd, &kept);
      kept.asked = message;
      if (!kept.opening) welcomed(kept, std::move(welcome));
    } catch (...) {
      close(kept, "refused");
      throw;
    }
  }

  void welcomed(Open& session, Message welcome) {
    const Message hello = std::move(session.asked);
    session.opening = false;
    session.heard = Clock::now();
    welcome.type = "welcome";
    welcome.session = session.key;
    welcome.id = session.hello;
    Map& fields = welcome.fields;
    fields.set("protocol", kProtocol);
    fields.set("incarnation", incarnation);
    fields.set("credits", options.credits);
    fields.set("lease", session.lease);
    fields.set("max_bytes", static_cast<uint64_t>(options.socket.limits.bytes));
    if (hello.fields.text("host", "") == host_name()) {
      fields.set("pid", static_cast<int64_t>(getpid()));
      try {
        share(session, hello, fields);
      } catch (const IoError&) {
        // No memory to share: the socket carries everything, and the welcome offers nothing.
      }
    }
    session.welcome = Packed(welcome);
    if (!socket.send(session.welcome, session.peer)) ++unsent;
  }

  /// A client that runs on this host: its death is seen at once. One that said hello and died is
  /// nobody: it must take no place from whoever came after it.
  void open_client(Open& session, const Message& hello) {
    if (hello.fields.text("host", "") != host_name()) return;
    if (const uint64_t pid = hello.fields.count("pid", 0)) {
      session.pidfd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
      if (session.pidfd < 0 && errno == ESRCH) {
        refuse(Code::no_session, "[wire] the client's process ", pid, " is gone");
      }
    }
  }

  void share(Open& session, const Message& hello, Map& fields) {
    const uint64_t wanted = hello.fields.count("shared", 0);
    if (wanted == 0 || options.shared_bytes == 0) return;
    session.link = ShmLink::create(std::min<size_t>(wanted, options.shared_bytes), bell[1]);
    fields.set("shared", session.link->offer());
    linked.push_back(&session);
  }

  void close(Open& session, std::string_view reason) {
    service.close(session, reason);
    std::erase(linked, &session);
    std::erase(dead, &session);
    by_hello.erase(cat(session.client, '/', session.hello));
    // Closing it is not enough: a process between fork and exec has it, too, and epoll goes on.
    if (session.pidfd >= 0) epoll_ctl(epoll, EPOLL_CTL_DEL, session.pidfd, nullptr);
    sessions.erase(session.key);
  }

  Open* find(const Message& message) {
    const auto found = sessions.find(message.session);
    return found == sessions.end() ? nullptr : found->second.get();
  }

  void handle(Incoming incoming) {
    Message& message = incoming.message;
    if (incoming.problem) {
      ++malformed;
      Open* session = find(message);
      if (!session || message.id == 0) {
        return answer_error(incoming.peer, message.id, incoming.problem->code(),
                            incoming.problem->what());
      }
      // A readable header with frames that do not fit it: answered in its turn, like any request.
      session->peer = incoming.peer;
      return request(*session, std::move(message), false, std::move(incoming.problem));
    }
    try {
      if (message.type == "hello") return hello(incoming.peer, message);
      if (message.session.empty()) {
        Message reply = service.info(message);
        if (reply.type.empty()) reply.type = "reply";
        return answer(incoming.peer, std::move(reply), message.id);
      }
      Open* session = find(message);
      if (!session) {
        return answer_error(incoming.peer, message.id, Code::no_session,
                            "[wire] no such session: it expired, was closed, or the server was "
                            "restarted");
      }
      if (message.type == "ping") {  // may come from another socket than the session's own
        session->heard = Clock::now();
        Message pong("pong");
        pong.session = session->key;
        if (draining) pong.fields.set("draining", true);
        return answer(incoming.peer, std::move(pong), message.id);
      }
      session->peer = incoming.peer;
      if (message.type == "bye") {
        answer(incoming.peer, Message("reply"), message.id);
        return close(*session, "bye");
      }
      request(*session, std::move(message), false);
    } catch (...) {
      const WireError error = current_error();
      answer_error(incoming.peer, message.id, error.code(), error.what());
    }
  }

  // The loop

  bool read_rings() {
    bool any = false;
    for (size_t i = 0; i < linked.size(); ++i) {
      Open* session = linked[i];
      if (!session->link->readable()) continue;
      any = true;
      try {
        for (uint64_t n = 0; n < options.credits; ++n) {
          std::optional<Incoming> incoming = session->link->read(options.socket.limits);
          if (!incoming) break;
          session->link->forget_offer();
          if (incoming->problem || incoming->message.session != session->key) ++malformed;
          if (incoming->message.session != session->key) continue;
          request(*session, std::move(incoming->message), true, std::move(incoming->problem));
        }
      } catch (const WireError& error) {
        ++malformed;
        answer_error(session->peer, 0, error.code(), error.what());
        close(*session, "broken");
        --i;
      }
    }
    if (any) ring_used = Clock::now();
    return any;
  }

  bool read_socket() {
    // A bounded number, so that rings and leases have their turn.
    for (int n = 0; n < 64; ++n) {
      std::optional<Incoming> incoming = socket.receive();
      if (!incoming) {
        emptied = Clock::now();
        return n > 0;
      }
      handle(std::move(*incoming));
    }
    return true;
  }

  void read_events(Clock::time_point now) {
    events_read = now;
    epoll_event events[64];
    const int count = epoll_wait(epoll, events, 64, 0);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.ptr) {
        dead.push_back(static_cast<Open*>(events[i].data.ptr));
      } else {
        char rung[512];
        [[maybe_unused]] const ssize_t n = read(bell[0], rung, sizeof rung);
      }
    }
    while (!dead.empty()) close(*dead.back(), "died");
  }

  /// What has arrived but was not read yet counts as heard: a busy server does not blame its
  /// clients.
  void check_leases(Clock::time_point now) {
    if (seconds_between(checked, now) < 0.02) return;
    const double gap = seconds_between(checked, now);
    checked = now;
    const double unread = std::max(0.0, seconds_between(emptied, now));
    std::vector<Open*> silent;
    for (auto& [key, session] : sessions) {
      // While this process was stopped or stepped something slow, nobody could be heard.
      // One that is being opened cannot say anything yet.
      if (gap > 0.5 || session->opening) session->heard = std::max(session->heard, now);
      // A lease that is no number has ended, too: nothing compares with it.
      if (!(seconds_between(session->heard, now) <= session->lease + unread)) {
        silent.push_back(session.get());
      }
    }
    for (Open* session : silent) {
      ++expired;
      close(*session, "lease");
    }
  }

  void run_posted() {
    if (!has_posted.exchange(false)) return;
    std::vector<std::function<void()>> work;
    {
      std::lock_guard lock(mutex);
      work.swap(posted);
    }
    for (auto& item : work) item();
  }

  bool spin() {
    if (linked.empty() || options.spin <= 0) return false;
    const auto end = ring_used + std::chrono::duration_cast<Clock::duration>(
                                     std::chrono::duration<double>(options.spin));
    while (Clock::now() < end) {
      for (int i = 0; i < 16; ++i) {
        bool friendly = false;
        for (Open* session : linked) {
          if (session->link->readable()) return true;
          friendly |= session->link->may_spin();
        }
        if (!friendly || has_posted.load(std::memory_order_relaxed)) return false;
        cpu_relax();
      }
    }
    return false;
  }

  void poll(double seconds) {
    run_posted();  // first: what was asked for before it was posted holds when it has run
    if (const double wanted = drain_for.exchange(-1); wanted >= 0 && !draining) {
      draining = true;
      drained_by = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(wanted));
    }
    // A ring in use is served without a look at the socket, but not for ever.
    const bool rings = read_rings();
    const auto now = Clock::now();
    if (rings && seconds_between(polled, now) < 200e-6) return;
    polled = now;
    const bool any = read_socket();
    check_leases(now);
    if (any || rings) {
      // Deaths and the doorbell of a busy server are looked for now and then.
      if (seconds_between(events_read, now) > 2e-3) read_events(now);
      if (rings || emptied < now) return;
    } else if (spin()) {
      return;
    }
    for (Open* session : linked) session->link->arm();
    bool ready = has_posted || stopping;
    for (Open* session : linked) ready |= session->link->readable();
    if (!ready) {
      const double wait = sessions.empty() ? seconds : std::min(seconds, 0.05);
      Socket* sockets[] = {&socket};
      const int fds[] = {epoll};
      ready = wait_readable(sockets, fds, wait).fd;
    }
    for (Open* session : linked) session->link->disarm();
    if (ready) read_events(Clock::now());
  }
};

Server::Server(Service& service, const ServerOptions& options)
    : impl_(std::make_unique<Impl>(*this, service, options)) {}
Server::~Server() { impl_->service.stop(); }

std::string Server::bind(const std::string& address) {
  BESSEMER_CHECK(is_local_address(address) || impl_->options.socket.keys, ValueError, "[wire] ",
                 address, " is not a loopback address: beyond it a server needs keys (CURVE)");
  return impl_->socket.bind(address);
}

void Server::poll(double seconds) { impl_->poll(seconds); }

void Server::run() {
  while (!impl_->stopping) {
    impl_->poll(0.1);
    if (impl_->draining && (impl_->sessions.empty() || Clock::now() >= impl_->drained_by)) {
      break;
    }
  }
}

void Server::stop() {
  impl_->stopping = true;
  impl_->ring_bell();
}
void Server::drain(double seconds) {
  impl_->drain_for = seconds;
  impl_->ring_bell();
}
void Server::post(std::function<void()> work) {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->posted.push_back(std::move(work));
  }
  impl_->has_posted = true;
  impl_->ring_bell();
}

void Server::welcome(const std::string& session, Message welcome) {
  const auto found = impl_->sessions.find(session);
  if (found == impl_->sessions.end()) return;  // it ended meanwhile
  impl_->welcomed(*found->second, std::move(welcome));
}
void Server::end(const std::string& session, std::string_view reason) {
  const auto found = impl_->sessions.find(session);
  if (found != impl_->sessions.end()) impl_->close(*found->second, reason);
}
void Server::deny(const std::string& session, Code code, const std::string& text) {
  const auto found = impl_->sessions.find(session);
  if (found == impl_->sessions.end()) return;
  impl_->answer_error(found->second->peer, found->second->hello, code, text);
  impl_->close(*found->second, "refused");
}

void Server::reply(const std::string& session, uint64_t id, Message message) {
  const auto found = impl_->sessions.find(session);
  if (found == impl_->sessions.end()) return;  // it ended meanwhile
  if (message.type.empty()) message.type = "reply";
  impl_->finish(*found->second, id, std::move(message));
}
void Server::reply_error(const std::string& session, uint64_t id, Code code,
                         const std::string& text) {
  ++impl_->errors;
  reply(session, id, error_message(code, text));
}

const std::string& Server::incarnation() const { return impl_->incarnation; }
uint64_t Server::sessions() const { return impl_->sessions.size(); }
Map Server::stats() const {
  const Impl& impl = *impl_;
  return {{
              "sessions",
              uint64_t{impl.sessions.size()},
          },
          {"opened", impl.opened},
          {"expired", impl.expired},
          {"requests", impl.requests},
          {"repeated", impl.repeated},
          {"errors", impl.errors},
          {"malformed", impl.malformed},
          {"unsent", impl.unsent},
          {"seconds", seconds_between(impl.started, Clock::now())}};
}

}  // namespace bessemer::wire
