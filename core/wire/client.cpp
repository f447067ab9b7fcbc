#include "core/wire/client.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "core/base/wait_check.h"
#include "core/wire/shm.h"

namespace bessemer::wire {
namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
Time after(Time from, double seconds) {
  return from + std::chrono::duration_cast<Clock::duration>(
                    std::chrono::duration<double>(std::min(seconds, 1e8)));
}
double until(Time end) { return std::chrono::duration<double>(end - Clock::now()).count(); }

std::string random_name() {
  uint64_t words[2] = {};
  BESSEMER_CHECK(getrandom(words, sizeof words, 0) == sizeof words, IoError, "[wire] getrandom");
  return cat(words[0], '-', words[1]);
}

/// A session whose lease the keeper renews.
struct Lease {
  std::string address, session;
  Keys keys;
  double interval = 1;
  uint64_t id = 0;
  Time due;
  std::atomic<bool> lost{false}, draining{false};
};

/// One thread and one socket an address renew all leases of the process, so that a client may think
/// as long as it likes between two requests.
class Keeper {
 public:
  static Keeper& get() {
    static Keeper* keeper = new Keeper;  // its thread lasts as long as the process
    return *keeper;
  }
  void add(const std::shared_ptr<Lease>& lease) {
    std::lock_guard lock(mutex_);
    lease->id = ++last_id_;
    lease->due = after(Clock::now(), lease->interval);
    leases_[lease->id] = lease;
    changed_.notify_one();
  }
  void remove(const std::shared_ptr<Lease>& lease) {
    std::lock_guard lock(mutex_);
    leases_.erase(lease->id);
  }

 private:
  Keeper() {
    std::thread([this] { loop(); }).detach();
  }
  void loop() {
    std::map<std::string, Socket> sockets;
    std::unique_lock lock(mutex_);
    while (true) {
      Time next = after(Clock::now(), 1e6);
      for (const auto& [id, lease] : leases_) next = std::min(next, lease->due);
      changed_.wait_until(lock, next);
      std::set<std::string> used;
      for (const auto& [id, lease] : leases_) {
        const std::string link =
            lease->keys ? cat(lease->address, ' ', lease->keys->secret_key) : lease->address;
        used.insert(link);
        if (lease->due > Clock::now()) continue;
        lease->due = after(Clock::now(), lease->interval);
        auto found = sockets.find(link);
        if (found == sockets.end()) {
          SocketOptions options;
          options.keys = lease->keys;
          found = sockets.emplace(link, Socket(Socket::Role::client, options)).first;
          found->second.connect(lease->address);
        }
        Message ping("ping");
        ping.id = id;
        ping.session = lease->session;
        found->second.send(Packed(ping));  // one that finds no room is made up for by the next
      }
      std::erase_if(sockets, [&](const auto& item) { return !used.contains(item.first); });
      for (auto& [address, socket] : sockets) {
        while (const std::optional<Incoming> incoming = socket.receive()) {
          const auto lease = leases_.find(incoming->message.id);
          if (incoming->problem || lease == leases_.end()) continue;
          if (incoming->message.type == "error") lease->second->lost = true;
          if (incoming->message.fields.find("draining")) lease->second->draining = true;
        }
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, std::shared_ptr<Lease>> leases_;
  uint64_t last_id_ = 0;
};

void check_refused(Socket& socket, const std::string& address) {
  if (const std::string reason = socket.refused(); !reason.empty()) {
    refuse(Code::denied, "[wire] ", address, " refuses the connection: ", reason);
  }
}

struct Pending {
  Packed packed;
  bool by_ring = false, forgotten = false;
  Time resend;
  double interval = 0.2;
  Time working;  // when the server last said so
  std::optional<Message> reply;
};

}  // namespace

struct Client::Impl {
  std::string address;
  ClientOptions options;
  Socket socket;
  std::unique_ptr<ShmLink> link;
  int server_pidfd = -1;
  std::shared_ptr<Lease> lease;
  Message welcome;
  std::string session;
  uint64_t last = 0, ack = 0, credits = 1, max_bytes = 0;
  bool lost = false, draining = false;
  std::map<uint64_t, Pending> pending;

  Impl(std::string address_, const ClientOptions& options_)
      : address(std::move(address_)),
        options(options_),
        socket(Socket::Role::client, options_.socket) {
    socket.connect(address);
  }
  ~Impl() {
    if (lease) Keeper::get().remove(lease);
    if (server_pidfd >= 0) close(server_pidfd);
  }

  Time limit(double deadline) const {
    return after(Clock::now(), deadline > 0 ? deadline : options.deadline);
  }

  uint64_t send(Message message) {
    message.id = last + 1;
    message.session = session;
    message.ack = ack;
    Pending entry;
    entry.interval = options.resend;
    entry.by_ring = link && link->write(message);
    if (!entry.by_ring) {
      entry.packed = Packed(message);
      if (max_bytes && entry.packed.bytes() > max_bytes) {
        refuse(Code::too_large, "[wire] message of ", entry.packed.bytes(),
               " bytes, the server takes ", max_bytes);
      }
      socket.send(entry.packed);  // one that finds no room is sent again below
    }
    entry.resend = after(Clock::now(), entry.interval);
    pending.emplace(++last, std::move(entry));
    return last;
  }

  void receive(Message message) {
    if (message.fields.find("draining")) draining = true;
    const auto found = pending.find(message.id);
    if (message.type == "error" && message.fields.text("code", "") == "no_session") lost = true;
    if (found == pending.end() || found->second.reply) return;  // a second copy, or nobody's
    Pending& entry = found->second;
    if (message.type == "working") {
      entry.working = Clock::now();
      entry.resend = after(entry.working, entry.interval);
      return;
    }
    if (message.type == "lost") {  // what went into the ring will still be read there
      if (!entry.by_ring) entry.resend = Clock::now();
      return;
    }
    entry.reply = std::move(message);
    entry.packed = Packed();
    advance();
  }

  void advance() {
    ack = last;
    for (auto it = pending.begin(); it != pending.end();) {
      if (!it->second.reply) {
        ack = std::min(ack, it->first - 1);
        ++it;
      } else if (it->second.forgotten) {
        it = pending.erase(it);
      } else {
        ++it;
      }
    }
  }

  bool read_ring() {
    bool any = false;
    while (link && link->readable()) {
      std::optional<Incoming> incoming = link->read(options.socket.limits);
      if (!incoming) break;
      if (incoming->problem) throw WireError(*incoming->problem);
      receive(std::move(incoming->message));
      any = true;
    }
    return any;
  }
  /// One message: whoever waits for more comes again.
  bool read_socket() {
    std::optional<Incoming> incoming = socket.receive();
    if (!incoming) return false;
    if (!incoming->problem) receive(std::move(incoming->message));
    return true;
  }

  /// Sends again what was not answered; when the next of them is due.
  Time resend() {
    Time next = after(Clock::now(), 1);
    for (auto& [id, entry] : pending) {
      if (entry.reply) continue;
      if (entry.resend <= Clock::now()) {
        if (entry.by_ring) {
          Message again("again");
          again.id = id;
          again.session = session;
          again.ack = ack;
          socket.send(Packed(again));
        } else {
          socket.send(entry.packed);
        }
        entry.interval = std::min(2 * entry.interval, 16 * options.resend);
        entry.resend = after(Clock::now(), entry.interval);
      }
      next = std::min(next, entry.resend);
    }
    return next;
  }

  void check_alive() {
    if (server_pidfd >= 0) {
      pollfd ended{server_pidfd, POLLIN, 0};
      if (::poll(&ended, 1, 0) > 0) lost = true;
    }
    if (lease && lease->lost) lost = true;
  }

  /// Handles what arrives until something did or `end`.
  void pump(Time end) {
    if (read_ring()) return;
    if (link && options.spin > 0) {
      const Time stop = std::min(end, after(Clock::now(), options.spin));
      do {
        for (int i = 0; i < 32 && link->may_spin(); ++i) {
          if (link->readable()) {
            read_ring();
            return;
          }
          cpu_relax();
        }
      } while (link->may_spin() && Clock::now() < stop);
    }
    if (read_socket()) return;
    wait_check();
    const double wait = std::clamp(std::min(until(end), until(resend())), 0.0, kWaitSlice);
    Socket* sockets[] = {&socket};
    if (!link) {
      const std::span<const int> death(&server_pidfd, server_pidfd >= 0 ? 1 : 0);
      if (wait_readable(sockets, death, wait).socket) {
        read_socket();
      } else {
        check_alive();
      }
      return;
    }
    link->arm();
    bool noted = link->socket_noted();
    if (!noted && !link->readable()) {
      link->part_ways();
      link->sleep(std::min(wait, 0.05));
      noted = link->socket_noted();
    }
    link->disarm();
    if (noted) {  // the message is on its way
      wait_readable(sockets, {}, std::min(wait, 0.05));
      read_socket();
    }
    if (!read_ring() && !noted) check_alive();
  }

  /// While the server says that it works on it the reply may take `patience` seconds.
  Message take(uint64_t id, double deadline, double patience = 0) {
    Time end = limit(deadline);
    const Time last = after(Clock::now(), patience);
    while (true) {
      const auto found = pending.find(id);
      BESSEMER_CHECK(found != pending.end(), ValueError, "[wire] no request ", id,
                     " is waiting for its reply");
      if (found->second.reply) {
        Message reply = std::move(*found->second.reply);
        pending.erase(found);
        if (reply.type == "error") {
          throw WireError(code_parse(reply.fields.text("code", "")),
                          reply.fields.text("message", ""));
        }
        return reply;
      }
      if (lost) refuse(Code::no_session, "[wire] ", address, " no longer knows this session");
      if (session.empty()) check_refused(socket, address);
      if (Clock::now() >= end && found->second.working > after(end, -options.deadline)) {
        end = std::min(last, after(found->second.working, options.deadline));
      }
      if (Clock::now() >= end) {
        refuse(Code::deadline, "[wire] no answer from ", address, " within ",
               deadline > 0 ? deadline : options.deadline, " s");
      }
      pump(end);
    }
  }

  void begin(Message hello) {
    hello.type = "hello";
    hello.fields.set("protocol", List{Value(kProtocol)});
    hello.fields.set("client", random_name());
    hello.fields.set("host", host_name());
    hello.fields.set("pid", static_cast<int64_t>(getpid()));
    if (options.lease > 0) hello.fields.set("lease", options.lease);
    if (options.shared_bytes) {
      hello.fields.set("shared", static_cast<uint64_t>(options.shared_bytes));
    }
    welcome = take(send(std::move(hello)), options.deadline, options.opening);
    const Map& fields = welcome.fields;
    if (fields.integer("protocol") != kProtocol) {
      refuse(Code::version, "[wire] ", address, " answers with protocol version ",
             fields.integer("protocol"));
    }
    session = welcome.session;
    if (session.empty()) refuse(Code::malformed, "[wire] welcome without a session");
    credits = std::max<uint64_t>(1, fields.count("credits"));
    max_bytes = fields.count("max_bytes");
    if (const int64_t pid = fields.integer("pid", 0); pid > 0 && pid != getpid()) {
      server_pidfd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0));
      if (server_pidfd < 0 && errno == ESRCH) lost = true;  // it died after its welcome
    }
    if (const Value* offer = fields.find("shared")) {
      try {
        link = ShmLink::open(offer->map("shared"));
      } catch (const IoError&) {
        // Not reachable from here (another user, another namespace): the socket carries everything.
      }
    }
    lease = std::make_shared<Lease>();
    lease->address = address;
    lease->session = session;
    lease->keys = options.socket.keys;
    lease->interval = fields.number("lease") / 3;
    Keeper::get().add(lease);
  }
};

Client::Client(std::string address, Message hello, const ClientOptions& options)
    : impl_(std::make_unique<Impl>(std::move(address), options)) {
  impl_->begin(std::move(hello));
}

Client::~Client() {
  if (!impl_ || impl_->lost || impl_->session.empty()) return;
  Message bye("bye");
  bye.id = impl_->last + 1;
  bye.session = impl_->session;
  bye.ack = impl_->ack;
  impl_->socket.send(Packed(bye));  // if it does not arrive, the lease ends the session
}

const Message& Client::welcome() const { return impl_->welcome; }
const std::string& Client::address() const { return impl_->address; }
uint64_t Client::credits() const { return impl_->credits; }
bool Client::shared() const { return impl_->link != nullptr; }
bool Client::draining() const {
  return impl_->draining || (impl_->lease && impl_->lease->draining);
}

uint64_t Client::post(Message message, double deadline) {
  Impl& impl = *impl_;
  const Time end = impl.limit(deadline);
  while (impl.last + 1 > impl.ack + impl.credits) {
    if (impl.lost)
      refuse(Code::no_session, "[wire] ", impl.address, " no longer knows this session");
    if (Clock::now() >= end) {
      refuse(Code::deadline, "[wire] ", impl.address, " grants no credit: ", impl.credits,
             " requests are in flight");
    }
    impl.pump(end);
  }
  return impl.send(std::move(message));
}

Message Client::take(uint64_t id, double deadline, double patience) {
  return impl_->take(id, deadline, patience);
}

bool Client::ready(uint64_t id) {
  const auto found = impl_->pending.find(id);
  if (found == impl_->pending.end()) return false;
  if (!found->second.reply) impl_->pump(Clock::now());
  return found->second.reply.has_value() || impl_->lost;
}

void Client::forget(uint64_t id) {
  const auto found = impl_->pending.find(id);
  if (found == impl_->pending.end()) return;
  found->second.forgotten = true;
  impl_->advance();
}

Message Client::call(Message message, double deadline, double patience) {
  return take(post(std::move(message), deadline), deadline, patience);
}

uint64_t Client::in_flight() const {
  return static_cast<uint64_t>(
      std::ranges::count_if(impl_->pending, [](const auto& item) { return !item.second.reply; }));
}

Message ask(const std::string& address, Message message, const ClientOptions& options) {
  Socket socket(Socket::Role::client, options.socket);
  socket.connect(address);
  message.id = 1;
  const Packed packed(message);
  const Time end = after(Clock::now(), options.deadline);
  Socket* sockets[] = {&socket};
  for (double interval = options.resend; Clock::now() < end; interval *= 2) {
    socket.send(packed);
    const Time next = std::min(end, after(Clock::now(), interval));
    while (Clock::now() < next) {
      wait_check();
      check_refused(socket, address);
      if (!wait_readable(sockets, {}, std::min(until(next), kWaitSlice))) continue;
      std::optional<Incoming> incoming = socket.receive();
      if (!incoming || incoming->problem || incoming->message.id != 1) continue;
      if (incoming->message.type == "error") {
        throw WireError(code_parse(incoming->message.fields.text("code", "")),
                        incoming->message.fields.text("message", ""));
      }
      return std::move(incoming->message);
    }
  }
  refuse(Code::deadline, "[wire] no answer from ", address, " within ", options.deadline, " s");
}

}  // namespace bessemer::wire
