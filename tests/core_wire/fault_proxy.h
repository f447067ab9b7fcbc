// A link that misbehaves: loses, doubles, delays and reorders messages both ways and reconnects,
// all from one seed.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

namespace bessemer::wire {

struct Faults {
  double lose = 0, twice = 0, delay = 0, reconnect = 0;  // probabilities of a message
  uint64_t seed = 1;
};

class FaultProxy {
 public:
  FaultProxy(std::string server, const Faults& faults)
      : server_(std::move(server)), faults_(faults), random_(faults.seed) {
    front_ = zmq::socket_t(context_, zmq::socket_type::router);
    front_.set(zmq::sockopt::linger, 0);
    front_.bind("tcp://127.0.0.1:*");
    address = front_.get(zmq::sockopt::last_endpoint);
    thread_ = std::thread([this] { loop(); });
  }
  ~FaultProxy() {
    stop_ = true;
    thread_.join();
  }
  std::string address;
  std::atomic<int64_t> lost{0}, doubled{0}, delayed{0}, reconnected{0}, passed{0};

 private:
  using Frames = std::vector<std::string>;
  struct Held {
    std::chrono::steady_clock::time_point due;
    std::string peer;
    bool to_server;
    Frames frames;
  };

  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }

  static bool receive(zmq::socket_t& socket, Frames& frames) {
    frames.clear();
    zmq::message_t frame;
    do {
      if (!socket.recv(frame, zmq::recv_flags::dontwait)) return false;
      frames.push_back(frame.to_string());
    } while (frame.more());
    return true;
  }

  zmq::socket_t& back(const std::string& peer) {
    auto& socket = backs_[peer];
    if (!socket) {
      socket = zmq::socket_t(context_, zmq::socket_type::dealer);
      socket.set(zmq::sockopt::linger, 0);
      socket.connect(server_);
    }
    return socket;
  }

  void send(const std::string& peer, bool to_server, const Frames& frames) {
    zmq::socket_t& socket = to_server ? back(peer) : front_;
    if (!to_server) socket.send(zmq::buffer(peer), zmq::send_flags::sndmore);
    for (size_t i = 0; i < frames.size(); ++i) {
      const auto more = i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(frames[i]), more);
    }
    ++passed;
  }

  void pass(const std::string& peer, bool to_server, const Frames& frames) {
    if (chance(faults_.reconnect)) {
      ++reconnected;
      backs_[peer] = zmq::socket_t();  // what it had not delivered is gone with it
    }
    if (chance(faults_.lose)) {
      ++lost;
      return;
    }
    const int copies = chance(faults_.twice) ? 2 : 1;
    doubled += copies - 1;
    for (int i = 0; i < copies; ++i) {
      if (chance(faults_.delay)) {
        ++delayed;
        const auto later = std::chrono::microseconds(200 + random_() % 8000);
        held_.push_back({std::chrono::steady_clock::now() + later, peer, to_server, frames});
      } else {
        send(peer, to_server, frames);
      }
    }
  }

  void loop() {
    Frames frames;
    while (!stop_) {
      std::vector<zmq_pollitem_t> items{{front_.handle(), 0, ZMQ_POLLIN, 0}};
      for (auto& [peer, socket] : backs_) {
        if (socket) items.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
      }
      zmq_poll(items.data(), static_cast<int>(items.size()), held_.empty() ? 20 : 1);
      while (receive(front_, frames)) {
        const std::string peer = frames[0];
        frames.erase(frames.begin());
        pass(peer, true, frames);
      }
      std::vector<std::string> peers;
      for (auto& [peer, socket] : backs_) peers.push_back(peer);
      for (const std::string& peer : peers) {
        while (backs_[peer] && receive(backs_[peer], frames)) pass(peer, false, frames);
      }
      const auto now = std::chrono::steady_clock::now();
      for (size_t i = 0; i < held_.size();) {
        if (held_[i].due > now) {
          ++i;
          continue;
        }
        const Held held = std::move(held_[i]);
        held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(i));
        send(held.peer, held.to_server, held.frames);
      }
    }
  }

  zmq::context_t context_{1};
  zmq::socket_t front_;
  std::map<std::string, zmq::socket_t> backs_;
  std::string server_;
  Faults faults_;
  std::mt19937_64 random_;
  std::deque<Held> held_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace bessemer::wire
