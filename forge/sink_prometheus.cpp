// Metrics for Prometheus: a small HTTP/1.1 responder on a thread of its own. The run only swaps a
// text under a lock; whatever clients do (nonsense, slowness, floods) stays in that thread, which
// holds a bounded number of connections for a bounded time.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "forge/config.h"
#include "forge/json.h"
#include "forge/sinks.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostConnections = 32;
constexpr size_t kLargestRequest = 8192;
constexpr auto kPatience = std::chrono::seconds(5);  // from the connection to the last byte

struct Socket {
  int fd;
  explicit Socket(int value) : fd(value) {}
  Socket(Socket&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (fd >= 0) ::close(fd);
  }
};

std::string response(std::string_view status, std::string_view body, bool with_body,
                     std::string_view more = "") {
  return cat("HTTP/1.1 ", status, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n",
             "Content-Length: ", body.size(), "\r\nConnection: close\r\n", more, "\r\n",
             with_body ? body : "");
}

/// What to answer to the head of a request (up to the empty line).
std::string answer(std::string_view head, std::string_view metrics) {
  const std::string_view line = head.substr(0, head.find("\r\n"));
  const size_t first = line.find(' ');
  const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos || !line.substr(second + 1).starts_with("HTTP/1.")) {
    return response("400 Bad Request", "this is no HTTP request\n", true);
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, second - first - 1);
  const std::string_view path = target.substr(0, target.find('?'));
  if (method != "GET" && method != "HEAD") {
    return response("405 Method Not Allowed", "GET or HEAD\n", true, "Allow: GET, HEAD\r\n");
  }
  const bool body = method == "GET";
  if (path == "/metrics") return response("200 OK", metrics, body);
  if (path == "/") return response("200 OK", "a run of Bessemer; its metrics: /metrics\n", body);
  return response("404 Not Found", "there is /metrics\n", body);
}

struct Connection {
  Socket socket;
  Clock::time_point end;
  std::string in, out;
  size_t sent = 0;
  bool answered = false;

  /// Reads or writes what can be; false once it is done with.
  bool go_on(const std::string& metrics) {
    char block[4096];
    while (!answered) {
      const ssize_t got = ::recv(socket.fd, block, sizeof block, 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      in.append(block, static_cast<size_t>(got));
      const size_t head = in.find("\r\n\r\n");
      if (head != std::string::npos) {
        out = answer(std::string_view(in).substr(0, head), metrics);
        answered = true;
      } else if (in.size() > kLargestRequest) {
        out = response("431 Request Header Fields Too Large", "too long\n", true);
        answered = true;
      }
    }
    while (sent < out.size()) {
      const ssize_t count = ::send(socket.fd, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
      if (count < 0) return errno == EAGAIN || errno == EINTR;
      sent += static_cast<size_t>(count);
    }
    // What is still coming is read, so that the answer is not lost to a reset; a bit at a time, so
    // that a flood cannot keep others waiting.
    ::shutdown(socket.fd, SHUT_WR);
    const ssize_t got = ::recv(socket.fd, block, sizeof block, 0);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
  }
};

Socket listen_at(const std::string& text) {
  const auto [host, port] = parse_host_port(text);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int problem = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  BESSEMER_CHECK(problem == 0, IoError, "cannot serve metrics at ", text, ": ",
                 ::gai_strerror(problem));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> guard(found, ::freeaddrinfo);
  Socket socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  ::setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const bool good = socket.fd >= 0 && ::bind(socket.fd, found->ai_addr, found->ai_addrlen) == 0 &&
                    ::listen(socket.fd, 16) == 0;
  BESSEMER_CHECK(good, IoError, "cannot serve metrics at ", text, ": ", std::strerror(errno));
  return socket;
}

class PrometheusSink final : public Sink {
 public:
  PrometheusSink(const std::string& address, const PrometheusLabels& labels)
      : socket_(listen_at(address)),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        info_(cat("# HELP bessemer_info What runs.\n# TYPE bessemer_info gauge\nbessemer_info{",
                  "version=\"" BESSEMER_VERSION "\"")) {
    for (const auto& [name, value] : labels) {
      info_ += cat(",", prometheus_name(name), "=", json_text(value));
    }
    info_ += "} 1\n";
    text_ = info_;
    thread_ = std::thread([this] { loop(); });
  }
  ~PrometheusSink() override {
    stop_ = true;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(wake_.fd, &one, sizeof one);
    thread_.join();
  }

  void write(const MetricsRow& row) override {
    std::string text = info_;
    const auto add = [&](std::string_view name, std::string_view type, std::string_view help,
                         double value) {
      const std::string known = prometheus_name(name);
      text += cat("# HELP ", known, " ", help, "\n# TYPE ", known, " ", type, "\n", known, " ",
                  prometheus_number(value), "\n");
    };
    add("step", "counter", "Environment steps so far.", static_cast<double>(row.step));
    add("iteration", "counter", "Rollouts so far.", static_cast<double>(row.iteration));
    for (const auto& [name, value] : row.metrics.values()) {
      latest_.add(name, value.value(), Reduction::last);
    }
    for (const auto& [name, value] : latest_.values()) add(name, "gauge", name, value.value());
    std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  void flush() override {}

  int port() const {
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    ::getsockname(socket_.fd, reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.ss_family == AF_INET6
                     ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                     : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
  }

 private:
  void loop() {
    std::list<Connection> connections;
    while (!stop_) {
      std::vector<pollfd> fds{{wake_.fd, POLLIN, 0}};
      auto next = Clock::now() + std::chrono::hours(1);
      for (const Connection& connection : connections) {
        const bool writing = connection.answered && connection.sent < connection.out.size();
        fds.push_back({connection.socket.fd, static_cast<short>(writing ? POLLOUT : POLLIN), 0});
        next = std::min(next, connection.end);
      }
      // Whoever comes while all places are taken waits in the kernel's queue.
      if (connections.size() < kMostConnections) fds.push_back({socket_.fd, POLLIN, 0});
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(std::max(next - Clock::now(), {}));
      ::poll(fds.data(), fds.size(), static_cast<int>(left.count()));
      accept_all(connections);
      std::string metrics;
      {
        std::lock_guard lock(mutex_);
        metrics = text_;
      }
      const auto now = Clock::now();
      std::erase_if(connections, [&](Connection& connection) {
        return now >= connection.end || !connection.go_on(metrics);
      });
    }
  }
  void accept_all(std::list<Connection>& connections) {
    while (connections.size() < kMostConnections) {
      const int fd = ::accept4(socket_.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd < 0) return;
      connections.push_back({Socket(fd), Clock::now() + kPatience, {}, {}, 0, false});
    }
  }

  Socket socket_, wake_;
  std::string info_;
  Metrics latest_;  // evaluations are not in every row
  std::mutex mutex_;
  std::string text_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

std::string prometheus_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    const bool digit = c >= '0' && c <= '9';
    if (digit && out.empty()) out += '_';
    out += letter || digit ? c : '_';
  }
  return out;
}

std::string prometheus_number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return json_number(value);
}

std::unique_ptr<Sink> prometheus_sink(const std::string& address, const PrometheusLabels& labels,
                                      int* port) {
  auto sink = std::make_unique<PrometheusSink>(address, labels);
  if (port) *port = sink->port();
  return sink;
}

}  // namespace bessemer
