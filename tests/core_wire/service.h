// A service for tests: echoes, fails in every way, answers late, counts what it really did.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/wire/client.h"
#include "core/wire/server.h"

namespace bessemer::wire {

class Echo : public Service {
 public:
  void open(Session& session, const Message& hello, Message& welcome) override {
    if (hello.fields.text("want", "") == "nothing") refuse(Code::unknown_name, "not served here");
    session.data = std::make_shared<int64_t>(0);
    welcome.fields.set("greeting", "hello");
    ++opened;
  }

  std::optional<Message> request(Session& session, Message& message) override {
    int64_t& counter = *std::static_pointer_cast<int64_t>(session.data);
    if (message.type == "echo") {
      last = std::move(message);
      Message reply;
      reply.fields = last.fields;
      reply.arrays = last.arrays;
      return reply;
    }
    if (message.type == "count") {
      Message reply;
      reply.fields.set("value", ++counter);
      return reply;
    }
    if (message.type == "later") {
      waiting.push_back({session.key, message.id});
      return std::nullopt;
    }
    if (message.type == "value") fail<ValueError>("no good");
    if (message.type == "type") fail<TypeError>("no good");
    if (message.type == "crash") throw std::runtime_error("oh");
    refuse(Code::unknown_type, "no request '", message.type, "'");
  }

  void close(Session&, std::string_view reason) override {
    why = reason;  // read by who has seen the count
    ++closed;
  }

  Message info(const Message& ask) override {
    if (ask.type != "info") refuse(Code::unknown_type, "no request '", ask.type, "'");
    Message reply;
    reply.fields.set("name", "echo");
    return reply;
  }

  std::atomic<int> opened{0}, closed{0};
  std::string why;
  std::vector<std::pair<std::string, uint64_t>> waiting;
  Message last;
};

/// A server on its own thread.
struct Running {
  Echo echo;
  Server server;
  std::string address;
  std::thread thread;
  explicit Running(const std::string& where, const ServerOptions& options = {})
      : server(echo, options), address(server.bind(where)), thread([this] { server.run(); }) {}
  ~Running() {
    server.stop();
    thread.join();
  }
  /// Waits, up to some seconds, for something that the server's thread brings about.
  template <class Condition>
  bool until(Condition condition, int seconds = 10) {
    for (int i = 0; i < seconds * 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }
  /// Runs on the server's thread, to the end.
  void inside(const std::function<void()>& body) {
    std::atomic<bool> done{false};
    server.post([&] {
      body();
      done = true;
    });
    while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  int64_t stat(const std::string& name) {
    int64_t value = 0;
    inside([&] { value = server.stats().integer(name); });
    return value;
  }
};

}  // namespace bessemer::wire
