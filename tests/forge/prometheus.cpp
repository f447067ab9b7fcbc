#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "forge/config.h"
#include "forge/sinks.h"

using namespace bessemer;

namespace {

/// A client that does as it is told, well-behaved or not.
struct Client {
  int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  explicit Client(int port) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
    const timeval patience{60, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Client() { ::close(fd); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool send(const std::string& text) const {
    return ::send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }
  std::string rest() const {
    std::string out;
    char block[4096];
    for (ssize_t got; (got = ::recv(fd, block, sizeof block, 0)) > 0;) {
      out.append(block, static_cast<size_t>(got));
    }
    return out;
  }
};

std::string ask(int port, const std::string& request) {
  const Client client(port);
  REQUIRE(client.send(request));
  return client.rest();
}

std::string get(int port) {
  const std::string text = ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  REQUIRE(text.starts_with("HTTP/1.1 200 OK\r\n"));
  const size_t body = text.find("\r\n\r\n") + 4;
  CHECK(text.find(cat("Content-Length: ", text.size() - body, "\r\n")) != std::string::npos);
  CHECK(text.find("Content-Type: text/plain; version=0.0.4") != std::string::npos);
  return text.substr(body);
}

/// Reads the format as its definition says: HELP and TYPE before each sample, one value a line.
std::map<std::string, double> samples(const std::string& body) {
  std::map<std::string, double> out;
  std::map<std::string, std::string> types;
  std::istringstream in(body);
  CHECK(body.back() == '\n');
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string first, second, third;
    words >> first >> second >> third;
    if (first == "#") {
      if (second == "TYPE") words >> types[third];
      CHECK((second == "TYPE" || second == "HELP"));
      continue;
    }
    const std::string name = line.substr(0, line.find_first_of("{ "));
    CHECK_MESSAGE((types[name] == "gauge" || types[name] == "counter"), line);
    CHECK(!out.contains(name));
    out[name] = std::stod(line.substr(line.rfind(' ') + 1));
  }
  return out;
}

struct Served {
  int port = 0;
  std::unique_ptr<Sink> sink =
      prometheus_sink("0", {{"env", "Lunar\"Lander\\-v3"}, {"algo", "ppo"}}, &port);

  void write(int64_t step, const Metrics& metrics) const {
    sink->write({step, step / 10, 0.5, metrics});
  }
};

}  // namespace

TEST_CASE("prometheus: the newest value of every metric, under its name") {
  const Served served;
  CHECK(get(served.port)
            .find("bessemer_info{version=\"" BESSEMER_VERSION
                  "\",env=\"Lunar\\\"Lander\\\\-v3\",algo=\"ppo\"} 1\n") != std::string::npos);
  Metrics metrics;
  metrics.mean("rollout/ep_rew_mean", 1.5);
  metrics.last("workers/worker-0_steps_per_second", 1e6);
  metrics.last("eval/mean_reward", std::numeric_limits<double>::infinity());
  served.write(10, metrics);
  Metrics next;
  next.mean("rollout/ep_rew_mean", -2);
  next.last("train/loss", std::nan(""));
  served.write(20, next);
  const auto all = samples(get(served.port));
  CHECK(all.at("rollout_ep_rew_mean") == -2);
  CHECK(all.at("workers_worker_0_steps_per_second") == 1e6);
  CHECK(std::isinf(all.at("eval_mean_reward")));
  CHECK(std::isnan(all.at("train_loss")));
  CHECK(all.at("step") == 20);
  CHECK(all.at("iteration") == 2);
  CHECK(all.size() == 7);
}

TEST_CASE("prometheus: other requests are answered as HTTP says") {
  const Served served;
  const auto status = [&](const std::string& request) {
    return ask(served.port, request).substr(9, 3);
  };
  CHECK(status("GET / HTTP/1.0\r\n\r\n") == "200");
  CHECK(status("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n") == "200");
  CHECK(status("GET /other HTTP/1.1\r\n\r\n") == "404");
  CHECK(status("POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc") == "405");
  CHECK(status("nonsense\r\n\r\n") == "400");
  CHECK(status(std::string("\0\xff\r\n\r\n", 6)) == "400");
  CHECK(status("GET / SPDY/9\r\n\r\n") == "400");
  const std::string head = ask(served.port, "HEAD /metrics HTTP/1.1\r\n\r\n");
  CHECK(head.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(head.ends_with("\r\n\r\n"));
  CHECK(ask(served.port, "GET /" + std::string(20'000, 'x')).starts_with("HTTP/1.1 431 "));
}

TEST_CASE("prometheus: idle, slow and rude clients do not keep others or the run waiting") {
  const Served served;
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 20; ++i) idle.push_back(std::make_unique<Client>(served.port));
  const Client slow(served.port);
  CHECK(slow.send("GET /met"));
  Client(served.port).send("GET /metrics HTTP/1.1\r\n\r\n");  // goes without waiting
  std::atomic<bool> enough{false};
  std::thread flood([&] {
    const Client client(served.port);
    const std::string block(1 << 16, 'x');
    while (!enough && client.send(block)) {
    }
  });
  const Metrics metrics;
  for (int i = 0; i < 50; ++i) {
    served.write(i, metrics);
    CHECK(samples(get(served.port)).at("step") == i);
  }
  enough = true;
  flood.join();
  CHECK(slow.send("rics HTTP/1.1\r\n\r\n"));
  CHECK(slow.rest().starts_with("HTTP/1.1 200 OK"));
}

TEST_CASE("prometheus: addresses that cannot be had are clear errors") {
  const Served served;
  const std::string taken = cat("127.0.0.1:", served.port);
  CHECK_THROWS_WITH_AS(prometheus_sink(taken, {}),
                       cat("cannot serve metrics at ", taken, ": Address already in use").c_str(),
                       IoError);
  CHECK_THROWS_AS(prometheus_sink("192.0.2.1:0", {}), IoError);
  CHECK_THROWS_AS(prometheus_sink("no.such.host.invalid:0", {}), IoError);
  for (const char* text : {"", "x", "1:", ":80", "70000", "-1", "9090x", "host:"}) {
    CHECK_THROWS_AS(parse_host_port(text), ValueError);
  }
  for (const char* text : {"0", "9090", "0.0.0.0:9090", "[::1]:9090", "localhost:1"}) {
    CHECK_NOTHROW(parse_host_port(text));
  }
}
