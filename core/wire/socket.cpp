#include "core/wire/socket.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>
#include <zmq.hpp>

#include "core/wire/zmq_context.h"

namespace bessemer::wire {
namespace {

/// One for the process, so that inproc addresses meet. Never ended: sockets may outlive statics.
zmq::context_t& context() {
  static auto* shared = [] {
    auto* made = new zmq::context_t(1);
    made->set(zmq::ctxopt::max_sockets, 16384);
    return made;
  }();
  return *shared;
}

/// What a client's connection fails of while the two ends agree on who they are.
constexpr int kHandshakeEvents = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                                 ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
/// A server that went away in the middle of a handshake does not do so again and again.
constexpr int kBrokenHandshakes = 3;

/// True when somebody accepts connections at a unix socket's path; ZeroMQ would take it over.
bool ipc_in_use(std::string_view path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return false;
  memcpy(name.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool used = fd >= 0 && ::connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0;
  if (fd >= 0) ::close(fd);
  return used;
}

constexpr int kBindAttempts = 50;  // in a second

struct OwnedFrames {
  std::vector<zmq::message_t> messages;
  std::vector<std::unique_ptr<char[]>> copies;
};

}  // namespace

void* zmq_shared_context() { return context().handle(); }

struct Packed::Frames {
  std::vector<zmq::message_t> messages;
};
Packed::Packed() = default;
Packed::~Packed() = default;
Packed::Packed(Packed&&) noexcept = default;
Packed& Packed::operator=(Packed&&) noexcept = default;
Packed::Packed(const Message& message) : frames_(std::make_unique<Frames>()) {
  std::string header;
  encode_header(message, header);
  frames_->messages.reserve(1 + message.arrays.size());
  frames_->messages.emplace_back(header.data(), header.size());
  for (const NamedArray& array : message.arrays) {
    frames_->messages.emplace_back(array.view.bytes());
    if (array.view.bytes()) {
      memcpy(frames_->messages.back().data(), array.view.data, array.view.bytes());
    }
  }
}
size_t Packed::bytes() const {
  size_t total = 0;
  if (frames_) {
    for (const auto& frame : frames_->messages) total += frame.size();
  }
  return total;
}

struct Socket::Impl {
  zmq::socket_t socket;
  Role role;
  Limits limits;
  Keys keys;
  std::string zap_domain;          // of a server with keys
  std::vector<std::string> paths;  // of bound unix sockets
  void* monitor = nullptr;         // of a client's handshakes
  int broken = 0;                  // handshakes that ended without a word

  Impl(Role r, const SocketOptions& options)
      : socket(context(), r == Role::server ? zmq::socket_type::router : zmq::socket_type::dealer),
        role(r),
        limits(options.limits),
        keys(options.keys) {
    if (!keys) return;
    BESSEMER_CHECK(curve_available(), IoError,
                   "[wire] this ZeroMQ has no CURVE: it was built without libsodium");
    socket.set(zmq::sockopt::curve_publickey, keys->public_key);
    socket.set(zmq::sockopt::curve_secretkey, keys->secret_key);
    if (role == Role::server) {
      zap_domain = zap_join(*keys);
      socket.set(zmq::sockopt::curve_server, true);
      socket.set(zmq::sockopt::zap_domain, zap_domain);
    } else {
      socket.set(zmq::sockopt::curve_serverkey, keys->server);
    }
  }
  ~Impl() {
    if (monitor) {
      zmq_socket_monitor(socket.handle(), nullptr, 0);
      zmq_close(monitor);
    }
    socket.close();
    if (!zap_domain.empty()) zap_leave(zap_domain);
    // ZeroMQ removes the files from its own thread; a process that ends may not let it come to
    // that, and one that binds the same path at once must not lose its file to it.
    for (const std::string& path : paths) {
      for (int i = 0; i < 2000 && access(path.c_str(), F_OK) == 0; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      if (access(path.c_str(), F_OK) == 0 && !ipc_in_use(path)) unlink(path.c_str());
    }
  }
};

Socket::Socket(Role role, const SocketOptions& options)
    : impl_(std::make_unique<Impl>(role, options)) {
  zmq::socket_t& socket = impl_->socket;
  socket.set(zmq::sockopt::linger, 200);
  socket.set(zmq::sockopt::sndhwm, options.high_water);
  socket.set(zmq::sockopt::rcvhwm, options.high_water);
  socket.set(zmq::sockopt::maxmsgsize, static_cast<int64_t>(options.limits.bytes));
  const int interval = static_cast<int>(std::lround(options.heartbeat * 1e3));
  socket.set(zmq::sockopt::heartbeat_ivl, interval);
  socket.set(zmq::sockopt::heartbeat_timeout, 3 * interval);
  socket.set(zmq::sockopt::heartbeat_ttl, 3 * interval);
  socket.set(zmq::sockopt::reconnect_ivl, 20);
  socket.set(zmq::sockopt::reconnect_ivl_max, 500);
  // Without it a message to a peer that is gone, or whose queue is full, would vanish.
  if (role == Role::server) socket.set(zmq::sockopt::router_mandatory, true);
}
Socket::~Socket() = default;
Socket::Socket(Socket&&) noexcept = default;
Socket& Socket::operator=(Socket&&) noexcept = default;

std::string Socket::bind(const std::string& address) {
  // ZeroMQ closes sockets behind our back: an address that was given up just now may need a moment.
  for (int attempt = 0;; ++attempt) {
    std::string problem;
    if (address.starts_with("ipc://") && ipc_in_use(std::string_view(address).substr(6))) {
      problem = "Address already in use";
    } else {
      try {
        impl_->socket.bind(address);
        break;
      } catch (const zmq::error_t& error) {
        problem = error.what();
        if (error.num() != EADDRINUSE) attempt = kBindAttempts;
      }
    }
    if (attempt >= kBindAttempts) fail<IoError>("[wire] cannot bind ", address, ": ", problem);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  std::string bound = impl_->socket.get(zmq::sockopt::last_endpoint);
  if (bound.starts_with("ipc://")) impl_->paths.push_back(bound.substr(6));
  return bound;
}

void Socket::connect(const std::string& address) {
  if (!impl_->monitor && (impl_->keys || address.starts_with("tcp://"))) watch_handshakes();
  try {
    impl_->socket.connect(address);
  } catch (const zmq::error_t& error) {
    fail<IoError>("[wire] cannot connect to ", address, ": ", error.what());
  }
}

void Socket::watch_handshakes() {
  static std::atomic<int> last{0};
  const std::string where = cat("inproc://bessemer-monitor-", ++last);
  if (zmq_socket_monitor(impl_->socket.handle(), where.c_str(), kHandshakeEvents) != 0) return;
  impl_->monitor = zmq_socket(context().handle(), ZMQ_PAIR);
  const int none = 0;
  zmq_setsockopt(impl_->monitor, ZMQ_LINGER, &none, sizeof none);
  zmq_connect(impl_->monitor, where.c_str());
}

std::string Socket::refused() {
  if (!impl_->monitor) return {};
  char frame[512];
  while (zmq_recv(impl_->monitor, frame, sizeof frame, ZMQ_DONTWAIT) >= 6) {
    uint16_t event;
    uint32_t value;
    memcpy(&event, frame, sizeof event);
    memcpy(&value, frame + sizeof event, sizeof value);
    zmq_recv(impl_->monitor, frame, sizeof frame, 0);  // the address
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) return "it does not know this client's key";
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL &&
        value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
      return impl_->keys ? "it uses no keys, this client has some"
                         : "it asks for keys (CURVE), this client has none";
    }
    ++impl_->broken;
  }
  if (impl_->keys && impl_->broken >= kBrokenHandshakes) {
    return "it ends every handshake: its key is another one than this client expects";
  }
  return {};
}

void Socket::disconnect(const std::string& address) {
  try {
    impl_->socket.disconnect(address);
  } catch (const zmq::error_t& error) {
    fail<IoError>("[wire] cannot disconnect from ", address, ": ", error.what());
  }
}

bool Socket::send(const Packed& packed, const std::string& peer) {
  using zmq::send_flags;
  const auto send_frame = [&](zmq::message_t& frame, bool more) {
    const auto flags = more ? send_flags::dontwait | send_flags::sndmore : send_flags::dontwait;
    return impl_->socket.send(frame, flags).has_value();
  };
  auto& frames = packed.frames_->messages;
  try {
    // Only a message's first frame can be refused; the others follow it into the same queue.
    if (impl_->role == Role::server) {
      zmq::message_t name(peer.data(), peer.size());
      if (!send_frame(name, true)) return false;
    }
    for (size_t i = 0; i < frames.size(); ++i) {
      zmq::message_t copy;
      copy.copy(frames[i]);
      if (!send_frame(copy, i + 1 < frames.size())) return false;
    }
    return true;
  } catch (const zmq::error_t& error) {
    if (error.num() == EHOSTUNREACH || error.num() == EAGAIN) return false;
    fail<IoError>("[wire] send: ", error.what());
  }
}

std::optional<Incoming> Socket::receive() {
  Incoming incoming;
  auto owned = std::make_shared<OwnedFrames>();
  zmq::message_t frame;
  bool first = true;
  size_t total = 0, count = 0;
  while (true) {
    try {
      if (!impl_->socket.recv(frame, zmq::recv_flags::dontwait)) return std::nullopt;
    } catch (const zmq::error_t& error) {
      if (error.num() == EINTR) continue;
      fail<IoError>("[wire] receive: ", error.what());
    }
    const bool more = frame.more();
    if (first && impl_->role == Role::server) {
      incoming.peer = frame.to_string();
    } else {
      ++count;
      total += frame.size();
      // The rest of a message that is too large is read and let go.
      if (count <= impl_->limits.arrays + 1 && total <= impl_->limits.bytes) {
        owned->messages.push_back(std::move(frame));
      }
    }
    first = false;
    if (!more) break;
  }
  try {
    if (count > impl_->limits.arrays + 1 || total > impl_->limits.bytes) {
      refuse(Code::too_large, "[wire] message of ", count, " frames and ", total,
             " bytes, at most ", impl_->limits.arrays + 1, " and ", impl_->limits.bytes);
    }
    if (owned->messages.empty()) refuse(Code::malformed, "[wire] message without frames");
    incoming.message = decode_header(owned->messages[0].to_string_view(), impl_->limits);
    std::vector<std::string_view> frames;
    for (size_t i = 1; i < owned->messages.size(); ++i) {
      std::string_view bytes = owned->messages[i].to_string_view();
      // A frame may lie anywhere in ZeroMQ's receive buffer; arrays are read as their type.
      if (reinterpret_cast<uintptr_t>(bytes.data()) % 8 != 0) {
        owned->copies.push_back(std::make_unique_for_overwrite<char[]>(bytes.size()));
        memcpy(owned->copies.back().get(), bytes.data(), bytes.size());
        bytes = {owned->copies.back().get(), bytes.size()};
      }
      frames.push_back(bytes);
    }
    attach_frames(incoming.message, frames);
    if (!frames.empty()) incoming.message.storage = std::move(owned);
  } catch (const WireError& error) {
    incoming.problem = error;
  }
  return incoming;
}

Ready wait_readable(std::span<Socket* const> sockets, std::span<const int> fds, double seconds) {
  zmq_pollitem_t items[4];
  int count = 0;
  BESSEMER_CHECK(sockets.size() + fds.size() <= std::size(items), ValueError,
                 "[wire] a wait for more than ", std::size(items), " things");
  for (Socket* socket : sockets) {
    items[count++] = {socket->impl_->socket.handle(), 0, ZMQ_POLLIN, 0};
  }
  for (int fd : fds) items[count++] = {nullptr, fd, ZMQ_POLLIN, 0};
  const long timeout = seconds < 0 ? -1 : static_cast<long>(std::ceil(seconds * 1e3));
  const int found = zmq_poll(items, count, timeout);
  if (found < 0 && errno != EINTR) fail<IoError>("[wire] poll: ", zmq_strerror(errno));
  Ready ready;
  for (int i = 0; found > 0 && i < count; ++i) {
    if (items[i].revents) (items[i].socket ? ready.socket : ready.fd) = true;
  }
  return ready;
}

bool is_local_address(std::string_view address) {
  if (address.starts_with("inproc://") || address.starts_with("ipc://")) return true;
  if (!address.starts_with("tcp://")) return false;
  address.remove_prefix(6);
  if (address.starts_with("[::1]:")) return true;
  const std::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost") return true;
  // 127.a.b.c and nothing that merely begins like it.
  if (!host.starts_with("127.")) return false;
  return host.find_first_not_of("0123456789.") == std::string_view::npos;
}

}  // namespace bessemer::wire
