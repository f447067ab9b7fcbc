// Environments and samples between processes, beside the same sockets carrying the same frames with
// nothing done to them, and beside spinning and copying memory. The other end is this program
// again, in a process of its own. A word (batches, trips, text, sessions, samples, faults) runs
// that part alone.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <zmq.hpp>

#include "bench/bench.h"
#include "core/base/child.h"
#include "core/wire/shm.h"
#include "envs/client/remote_batch.h"
#include "envs/server/env_service.h"
#include "tests/core_wire/fault_proxy.h"

using namespace bessemer;
using bench::Report;
using bench::seconds_now;
using bench::Subject;

namespace {

// The other ends

void say(const std::string& address) {
  std::printf("at %s\n", address.c_str());
  std::fflush(stdout);
}

/// Answers every message with `frames` frames of the given sizes, as an environment's reply has.
[[noreturn]] void serve_raw(const std::string& where, const std::vector<size_t>& sizes) {
  zmq::context_t context(1);
  zmq::socket_t socket(context, zmq::socket_type::router);
  socket.bind(where);
  say(socket.get(zmq::sockopt::last_endpoint));
  std::vector<std::string> reply;
  for (const size_t size : sizes) reply.emplace_back(size, 'x');
  zmq::message_t peer, frame;
  while (true) {
    if (!socket.recv(peer)) continue;
    do {
      if (!socket.recv(frame)) break;
    } while (frame.more());
    socket.send(peer, zmq::send_flags::sndmore);
    for (size_t i = 0; i < reply.size(); ++i) {
      const auto more = i + 1 < reply.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(reply[i]), more);
    }
  }
}

/// Takes what is sent and says so: where samples go.
class Sink : public wire::Service {
 public:
  void open(wire::Session&, const wire::Message&, wire::Message&) override {}
  std::optional<wire::Message> request(wire::Session&, wire::Message& message) override {
    const ArrayView& view = message.array("samples");
    if (room_.size() < view.bytes()) room_.resize(view.bytes());
    std::memcpy(room_.data(), view.data, view.bytes());
    return wire::Message();
  }
  void close(wire::Session&, std::string_view) override {}
  wire::Message info(const wire::Message&) override { return {}; }

 private:
  std::string room_;
};

void serve_sink(const std::string& where) {
  Sink sink;
  wire::Server server(sink);
  say(server.bind(where));
  server.run();
}

void serve_envs(const std::string& where) {
  ServeOptions options;
  options.instances = 1 << 20;
  serve_environments(options, {&where, 1},
                     [](std::span<const std::string> bound) { say(bound[0]); });
}

struct Balls {  // one cache line each way
  alignas(64) std::atomic<uint64_t> there;
  alignas(64) std::atomic<uint64_t> back;
};

/// Returns every number that appears in the shared page.
[[noreturn]] void spin_back(int fd) {
  auto* balls = static_cast<Balls*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  for (uint64_t seen = 0;;) {
    const uint64_t now = balls->there.load(std::memory_order_acquire);
    if (now != seen) balls->back.store(seen = now, std::memory_order_release);
    wire::cpu_relax();
  }
}

/// A child running one of the above.
struct Other {
  Child child;
  std::string address;
  explicit Other(std::vector<std::string> args, std::vector<int> fds = {}) {
    ChildOptions options;
    options.args = {"/proc/self/exe"};
    options.args.insert(options.args.end(), args.begin(), args.end());
    options.pass_fds = fds;
    options.errors = ChildOptions::Stream::inherit;
    child = Child::spawn(options);
    while (fds.empty() && address.empty()) {
      const std::string text = child.output().text;
      const size_t end = text.find('\n');
      if (end != std::string::npos) address = text.substr(3, end - 3);
      if (!child.running()) fail<Error>("[bench] the other end died: ", child.errors().text);
      usleep(2000);
    }
  }
  ~Other() {
    if (child) child.kill();
    if (address.starts_with("ipc://")) unlink(address.c_str() + 6);
  }
};

std::string address_for(const std::string& transport, const char* name) {
  return transport == "tcp" ? "tcp://127.0.0.1:*"
                            : cat("ipc:///tmp/bessemer-bench-", name, "-", getpid());
}

// This end

/// Raw frames there and back, `in_flight` messages at a time.
struct RawPing {
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
  std::vector<std::string> request;
  RawPing(const std::string& address, const std::vector<size_t>& sizes) {
    socket.set(zmq::sockopt::linger, 0);
    socket.connect(address);
    for (const size_t size : sizes) request.emplace_back(size, 'y');
  }
  void send() {
    for (size_t i = 0; i < request.size(); ++i) {
      const auto more = i + 1 < request.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(request[i]), more);
    }
  }
  void receive() {
    zmq::message_t frame;
    do {
      if (!socket.recv(frame)) break;
      bench::keep(frame.data());
    } while (frame.more());
  }
};

std::string joined(const std::vector<size_t>& sizes) {
  std::string text;
  for (const size_t size : sizes) text += cat(size, ' ');
  return text;
}

/// A batch over the wire with its buffers.
struct Remote {
  std::unique_ptr<EnvBatch> batch;
  std::vector<float> obs, reward;
  std::vector<uint8_t> terminated, truncated;
  std::vector<int64_t> actions;
  Ragged text, words;
  StepBuffers out;

  Remote(const std::string& address, const std::string& id, int64_t envs, bool shared) {
    BatchOptions options;
    options.num_envs = envs;
    RemoteOptions remote;
    remote.shared = shared;
    remote.reconnect = 0;  // no log of actions: what is measured is the wire
    batch = connect_batch(address, id, options, remote);
    const Channel& channel = batch->spec().observation[0];
    obs.resize(static_cast<size_t>(envs * channel.numel()));
    reward.resize(envs), terminated.resize(envs), truncated.resize(envs), actions.resize(envs);
    for (int64_t i = 0; i < envs; ++i) {
      actions[i] = i & 1;
      words.push("hello");
    }
    out.obs = {channel.ragged ? nullptr : obs.data()};
    out.ragged_obs = {channel.ragged ? &text : nullptr};
    out.reward = reward.data();
    out.terminated = terminated.data();
    out.truncated = truncated.data();
    const std::vector<uint64_t> seeds(static_cast<size_t>(envs), 1);
    batch->reset(seeds, {}, {}, out);
  }
  Actions action() const { return {actions.data(), &words}; }
  void step() { batch->step(action(), out); }
};

/// Frames of a step of CartPole and of its reply, header included, as they go through a socket.
std::vector<size_t> step_frames(size_t rows) { return {95, 8 * rows}; }
std::vector<size_t> reply_frames(size_t rows) { return {105, 16 * rows, 4 * rows, rows}; }

void batches(Report& report) {
  constexpr int64_t kRows = 1024;
  for (const std::string transport : {"ipc", "tcp"}) {
    Other envs({"--envs", address_for(transport, "envs")});
    Other raw({"--raw", address_for(transport, "raw"), joined(reply_frames(kRows))});
    RawPing ping(raw.address, step_frames(kRows));
    Remote one(envs.address, "CartPole-v1", kRows, false);
    Remote two(envs.address, "CartPole-v1", 2 * kRows, false);
    std::vector<int64_t> ids(2 * kRows), got(kRows);
    for (int64_t i = 0; i < 2 * kRows; ++i) ids[i] = i;
    const std::span<const int64_t> halves[] = {{ids.data(), kRows}, {ids.data() + kRows, kRows}};
    int turn = 0;
    two.batch->send(two.action(), halves[0]);
    ping.send();
    std::vector<Subject> subjects(4);
    subjects[0] = {"raw",
                   [&] {
                     ping.receive();
                     ping.send();
                   },
                   kRows};
    subjects[1] = {"step", [&] { one.step(); }, kRows};
    subjects[2] = {"raw, two in flight",
                   [&] {
                     ping.send();
                     ping.receive();
                   },
                   kRows};
    subjects[3] = {"two in flight",
                   [&] {
                     turn ^= 1;
                     two.batch->send(two.action(), halves[turn]);
                     two.batch->recv(kRows, two.out, got);
                   },
                   kRows};
    bench::measure(subjects);
    const std::string name = cat("CartPole x 1024 over ", transport);
    report.figure(name + ", lock-step", subjects[1].rate(), "steps/s", "raw ZeroMQ, same frames",
                  subjects[1].rate() / subjects[0].rate());
    report.figure(name + ", two batches in flight", subjects[3].rate(), "steps/s",
                  "raw ZeroMQ, same frames", subjects[3].rate() / subjects[2].rate());
  }
}

void round_trips(Report& report) {
  std::string address;
  for (const std::string transport : {"ipc", "tcp"}) {
    Other envs({"--envs", address_for(transport, "one")});
    Other raw({"--raw", address_for(transport, "ping"), joined(reply_frames(1))});
    RawPing ping(raw.address, step_frames(1));
    Remote one(envs.address, "CartPole-v1", 1, false);
    std::vector<Subject> subjects(2);
    subjects[0] = {"raw", [&] {
                     ping.send();
                     ping.receive();
                   }};
    subjects[1] = {"step", [&] { one.step(); }};
    bench::measure(subjects);
    report.figure(cat("one step over ", transport, ", round trip"), subjects[1].median() * 1e6,
                  "us", "raw ZeroMQ ping-pong", subjects[1].median() / subjects[0].median());
  }
  const int fd = memfd_create("bench", MFD_CLOEXEC);
  if (ftruncate(fd, 4096) != 0) fail<IoError>("[bench] ftruncate");
  auto* balls = new (mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) Balls{};
  uint64_t ball = 0;
  Subject spin{"spin", [&] {
                 balls->there.store(++ball, std::memory_order_release);
                 while (balls->back.load(std::memory_order_acquire) != ball) wire::cpu_relax();
               }};
  Other envs({"--envs", address_for("ipc", "shared")});
  Remote one(envs.address, "CartPole-v1", 1, true);
  Remote many(envs.address, "CartPole-v1", 1024, true);
  std::vector<Subject> ours(2);
  ours[0] = {"step", [&] { one.step(); }};
  ours[1] = {"step", [&] { many.step(); }, 1024};
  bench::measure(ours);
  {
    Other partner({"--spin"}, {fd});
    std::vector<Subject> alone{spin};
    bench::measure(alone);
    spin = alone[0];
  }
  close(fd);
  report.figure("one step through shared memory, round trip", ours[0].median() * 1e6, "us",
                "bare spinning", ours[0].median() / spin.median());
  report.figure("CartPole x 1024 through shared memory", ours[1].rate(), "steps/s");
}

void text(Report& report) {
  Other envs({"--envs", address_for("tcp", "text")});
  Other raw({"--raw", address_for("tcp", "words"), joined({170, 16, 12, 4, 1})});
  RawPing ping(raw.address, {150, 16, 5});
  Remote one(envs.address, "Echo-v0", 1, false);
  Remote shared(envs.address, "Echo-v0", 1, true);
  Remote many(envs.address, "Echo-v0", 256, false);
  Remote wide(envs.address, "Echo-v0", 16, false);
  Ragged word;
  word.push("hello");
  std::vector<int64_t> got(1);
  int64_t next = 0;
  for (int64_t i = 0; i < 15; ++i) wide.batch->send({nullptr, &word}, {&i, 1});
  std::vector<Subject> subjects(5);
  subjects[0] = {"raw", [&] {
                   ping.send();
                   ping.receive();
                 }};
  subjects[1] = {"lock-step", [&] { one.step(); }};
  subjects[2] = {"shared", [&] { shared.step(); }};
  subjects[3] = {"batched", [&] { many.step(); }, 256};
  subjects[4] = {"pipelined", [&] {
                   const int64_t id = (next++ + 15) % 16;
                   wide.batch->send({nullptr, &word}, {&id, 1});
                   wide.batch->recv(1, wide.out, got);
                 }};
  bench::measure(subjects);
  report.figure("text echo over tcp, lock-step", subjects[1].rate(), "steps/s",
                "raw ZeroMQ ping-pong", subjects[1].rate() / subjects[0].rate());
  report.figure("text echo through shared memory", subjects[2].rate(), "steps/s",
                "raw ZeroMQ ping-pong", subjects[2].rate() / subjects[0].rate());
  report.figure("text echo over tcp, 16 in flight", subjects[4].rate(), "steps/s",
                "raw ZeroMQ ping-pong", subjects[4].rate() / subjects[0].rate());
  report.figure("text echo over tcp, batches of 256", subjects[3].rate(), "steps/s",
                "raw ZeroMQ ping-pong", subjects[3].rate() / subjects[0].rate());
}

/// Every session keeps one step in flight. They share connections, as those of one client program
/// would: a session belongs to its key, and ids far apart tell the replies apart.
void sessions(Report& report) {
  constexpr int kSessions = 1000, kSockets = 20;
  Other envs({"--envs", address_for("tcp", "many")});
  std::vector<wire::Socket> sockets;
  for (int i = 0; i < kSockets; ++i) {
    sockets.emplace_back(wire::Socket::Role::client);
    sockets.back().connect(envs.address);
  }
  struct One {
    std::string key;
    uint64_t id;
    double sent = 0;
    int64_t done = 0;
  };
  std::vector<One> all(kSessions);
  const int64_t action = 1;
  const auto post = [&](int i, const char* type) {
    One& one = all[i];
    wire::Message message(type);
    if (one.key.empty()) {
      one.id = (static_cast<uint64_t>(i) << 32) + 1;
      message.fields = {{"protocol", wire::List{wire::Value(1)}},
                        {"client", cat("bench-", i)},
                        {"env", "CartPole-v1"},
                        {"lease", 120.0}};
    } else {
      message.session = one.key;
      message.ack = one.id++;
      if (*type == 's') message.add("action", Dtype::i64, {1}, &action);
    }
    message.id = one.id;
    one.sent = seconds_now();
    sockets[i % kSockets].send(wire::Packed(message));
  };
  /// Handles what is there; every socket in turn.
  const auto receive = [&](const std::function<void(int, const wire::Message&)>& take) {
    for (wire::Socket& socket : sockets) {
      while (const auto incoming = socket.receive()) {
        const wire::Message& message = incoming->message;
        if (incoming->problem || message.type == "error") {
          fail<Error>("[bench] ", message.fields.text("message", "unreadable reply"));
        }
        take(static_cast<int>(message.id >> 32), message);
      }
    }
  };
  int open = 0;
  for (int i = 0; i < kSessions; ++i) post(i, "hello");
  while (open < kSessions) {
    receive([&](int i, const wire::Message& message) {
      if (message.type == "welcome") {
        all[i].key = message.session;
        post(i, "reset");
      } else {
        ++open;
      }
    });
  }
  std::vector<double> latencies;
  const double begin = seconds_now();
  for (int i = 0; i < kSessions; ++i) post(i, "step");
  while (seconds_now() - begin < 2) {
    receive([&](int i, const wire::Message&) {
      latencies.push_back(seconds_now() - all[i].sent);
      ++all[i].done;
      post(i, "step");
    });
  }
  const double seconds = seconds_now() - begin;
  std::sort(latencies.begin(), latencies.end());
  const auto at = [&](double q) {
    return latencies[static_cast<size_t>(q * static_cast<double>(latencies.size() - 1))] * 1e3;
  };
  const std::string name = cat(kSessions, " sessions on one server");
  report.figure(name, static_cast<double>(latencies.size()) / seconds, "steps/s");
  report.figure(name + ", latency p50", at(0.5), "ms");
  report.figure(name + ", latency p99", at(0.99), "ms");
  const auto [least, most] = std::minmax_element(
      all.begin(), all.end(), [](const One& a, const One& b) { return a.done < b.done; });
  report.figure(name + ", steps of the slowest", static_cast<double>(least->done), "steps",
                "the fastest", static_cast<double>(least->done) / static_cast<double>(most->done));
}

void samples(Report& report) {
  constexpr size_t kBytes = size_t{1} << 20;
  constexpr size_t kRoom = size_t{1} << 26;  // copies go where no cache holds them, as a ring's do
  std::string chunk(kBytes, 'x'), room(kRoom, 'y');
  size_t at = 0;
  Other sink({"--sink", address_for("ipc", "sink")});
  wire::ClientOptions options;
  options.shared_bytes = size_t{1} << 24;
  wire::Client client(sink.address, wire::Message(), options);
  if (!client.shared()) fail<Error>("[bench] no shared memory with the sink");
  wire::ClientOptions plain;
  wire::Client socket(sink.address, wire::Message(), plain);
  wire::Message message("samples");
  message.add("samples", Dtype::u8, {static_cast<int64_t>(kBytes)}, chunk.data());
  std::deque<uint64_t> ids[2];
  const auto push = [&](wire::Client& to, std::deque<uint64_t>& sent) {
    sent.push_back(to.post(message));
    if (sent.size() > 6) {
      to.take(sent.front());
      sent.pop_front();
    }
  };
  std::vector<Subject> subjects(3);
  subjects[0] = {"copy",
                 [&] {
                   std::memcpy(room.data() + at, chunk.data(), kBytes);
                   at = (at + kBytes) % kRoom;
                   bench::keep(room[0]);
                 },
                 kBytes};
  subjects[1] = {"shared", [&] { push(client, ids[0]); }, kBytes};
  subjects[2] = {"ipc", [&] { push(socket, ids[1]); }, kBytes};
  bench::measure(subjects);
  report.figure("samples, 1 MiB each, through shared memory", subjects[1].rate() / 1e9, "GB/s",
                "one core's copy", subjects[1].rate() / subjects[0].rate());
  report.figure("samples, 1 MiB each, over ipc", subjects[2].rate() / 1e9, "GB/s",
                "one core's copy", subjects[2].rate() / subjects[0].rate());
}

/// A million steps over a link that loses, doubles, delays, reorders and reconnects, each compared
/// with the same step made here.
void faults(Report& report) {
  constexpr int64_t kRows = 64, kParts = 4, kBatches = 1'000'000 / kRows;
  Other envs({"--envs", address_for("tcp", "faults")});
  wire::FaultProxy proxy(
      envs.address, {.lose = 0.01, .twice = 0.02, .delay = 0.02, .reconnect = 0.001, .seed = 1});
  BatchOptions options;
  options.num_envs = kRows * kParts;
  RemoteOptions remote;
  remote.shared = false;
  remote.wire.resend = 0.005;
  const auto here = make_batch("CartPole-v1", options);
  const auto there = connect_batch(proxy.address, "CartPole-v1", options, remote);
  struct Side {
    std::vector<float> obs = std::vector<float>(kRows * kParts * 4);
    std::vector<float> reward = std::vector<float>(kRows * kParts);
    StepBuffers out;
    Side() {
      out.obs = {obs.data()};
      out.reward = reward.data();
    }
  } a, b;
  std::vector<uint64_t> seeds(kRows * kParts);
  std::vector<int64_t> ids(kRows * kParts), got(kRows), actions(kRows);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(seeds[i] = i);
  here->reset(seeds, {}, {}, a.out);
  there->reset(seeds, {}, {}, b.out);
  uint64_t draw = 1;
  const auto send = [&](int64_t part) {
    for (int64_t& action : actions) {
      draw = draw * 6364136223846793005u + 1442695040888963407u;
      action = static_cast<int64_t>(draw >> 63);
    }
    const std::span<const int64_t> some(ids.data() + part * kRows, kRows);
    here->send({actions.data(), nullptr}, some);
    there->send({actions.data(), nullptr}, some);
  };
  for (int64_t part = 0; part < kParts; ++part) send(part);
  int64_t wrong = 0;
  const double begin = seconds_now();
  for (int64_t batch = 0; batch < kBatches; ++batch) {
    here->recv(kRows, a.out, got);
    there->recv(kRows, b.out, got);
    wrong += std::memcmp(a.obs.data(), b.obs.data(), kRows * 4 * sizeof(float)) != 0 ||
             std::memcmp(a.reward.data(), b.reward.data(), kRows * sizeof(float)) != 0;
    send(batch % kParts);
  }
  report.figure("a million steps over a bad link", 1e6 / (seconds_now() - begin), "steps/s");
  report.figure("  messages lost", static_cast<double>(proxy.lost), "");
  report.figure("  messages doubled", static_cast<double>(proxy.doubled), "");
  report.figure("  messages delayed and overtaken", static_cast<double>(proxy.delayed), "");
  report.figure("  reconnects", static_cast<double>(proxy.reconnected), "");
  report.figure("  batches lost, doubled or shifted", static_cast<double>(wrong), "");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "--envs") return serve_envs(argv[2]), 0;
  if (mode == "--sink") return serve_sink(argv[2]), 0;
  if (mode == "--spin") spin_back(3);
  if (mode == "--raw") {
    std::vector<size_t> sizes;
    for (char* at = argv[3]; *at;) sizes.push_back(std::strtoull(at, &at, 10)), ++at;
    serve_raw(argv[2], sizes);
  }
  Report report(argc, argv);
  const std::pair<std::string_view, void (*)(Report&)> parts[] = {
      {"batches", batches},   {"trips", round_trips}, {"text", text},
      {"sessions", sessions}, {"samples", samples},   {"faults", faults}};
  for (const auto& [name, part] : parts) {
    if (mode.empty() || mode.starts_with('-') || mode == name) part(report);
  }
}
