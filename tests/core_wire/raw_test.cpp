// What strangers, broken links and dishonest clients can do to a server.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <zmq.hpp>

#include "core/base/child.h"
#include "core/wire/shm.h"
#include "fault_proxy.h"
#include "service.h"

using namespace bessemer;
using namespace bessemer::wire;

namespace {

/// A client that speaks through bare frames.
struct Raw {
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
  explicit Raw(const std::string& address) {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::rcvtimeo, 10000);
    socket.connect(address);
  }
  void frames(const std::vector<std::string>& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      const auto more = i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(frames[i]), more);
    }
  }
  void send(const Message& message) {
    std::string header;
    encode_header(message, header);
    std::vector<std::string> frames{header};
    for (const NamedArray& array : message.arrays) {
      frames.emplace_back(static_cast<const char*>(array.view.data), array.view.bytes());
    }
    this->frames(frames);
  }
  Message receive() {
    zmq::message_t frame;
    REQUIRE(socket.recv(frame));
    Message message = decode_header(frame.to_string_view());
    while (frame.more()) REQUIRE(socket.recv(frame));
    return message;
  }
  Message hello(Map more = {}) {
    Message message("hello");
    message.id = 1;
    message.fields = std::move(more);
    message.fields.set("client", "raw");
    message.fields.set("protocol", List{Value(1)});
    send(message);
    return receive();
  }
};

Message request(const std::string& session, uint64_t id, uint64_t ack, const char* type = "count") {
  Message message(type);
  message.id = id;
  message.ack = ack;
  message.session = session;
  return message;
}

}  // namespace

TEST_CASE("raw: copies, gaps and late requests are carried out once and in order") {
  Running running("tcp://127.0.0.1:*");
  Raw raw(running.address);
  const std::string session = raw.hello().session;
  CHECK_EQ(raw.hello().session, session);  // the same hello, the same session
  CHECK_EQ(running.stat("sessions"), 1);

  for (const uint64_t id : {4, 3, 3, 2, 2, 4}) raw.send(request(session, id, 1));
  std::map<uint64_t, int64_t> values;
  for (int i = 0; i < 5; ++i) {  // 2, 3, 4 when 2 came; then 2 and 4 again
    const Message reply = raw.receive();
    CHECK_EQ(reply.type, "reply");
    const auto [at, fresh] = values.emplace(reply.id, reply.fields.integer("value"));
    CHECK_EQ(at->second, reply.fields.integer("value"));
  }
  CHECK_EQ(values, std::map<uint64_t, int64_t>{{2, 1}, {3, 2}, {4, 3}});

  raw.send(request(session, 2, 4));   // acknowledged: nothing to say
  raw.send(request(session, 25, 4));  // beyond the credits
  CHECK_EQ(raw.receive().fields.text("code"), "no_credit");
  raw.send(request(session, 5, 9));  // acknowledges what was never sent
  CHECK_EQ(raw.receive().fields.text("code"), "malformed");
  raw.send(request(session, 5, 4, "again"));
  CHECK_EQ(raw.receive().type, "lost");
  raw.send(request(session, 5, 4));
  CHECK_EQ(raw.receive().fields.integer("value"), 4);
  raw.send(request("another", 5, 4));
  CHECK_EQ(raw.receive().fields.text("code"), "no_session");
}

TEST_CASE("raw: frames that do not fit their header are answered in turn") {
  Running running("tcp://127.0.0.1:*");
  Raw raw(running.address);
  const std::string session = raw.hello().session;
  Message bad = request(session, 2, 1, "echo");
  const float numbers[4] = {};
  bad.add("a", Dtype::f32, {4}, numbers);
  std::string header;
  encode_header(bad, header);
  raw.frames({header, "short"});
  Message reply = raw.receive();
  CHECK_EQ(reply.id, 2);
  CHECK_EQ(reply.fields.text("code"), "malformed");
  raw.frames({header});  // the copy gets the same answer
  CHECK_EQ(raw.receive().fields.text("code"), "malformed");
  raw.send(request(session, 3, 2));
  CHECK_EQ(raw.receive().fields.integer("value"), 1);
}

TEST_CASE("raw: foreign, damaged and oversized frames are answered or dropped; others go on") {
  ServerOptions options;
  options.socket.limits = {.header_bytes = 4096, .bytes = 1 << 16, .arrays = 8};
  Running running("tcp://127.0.0.1:*", options);
  Client client(running.address, Message());
  Raw raw(running.address);
  const std::string session = raw.hello().session;
  Message good = request(session, 2, 1, "echo");
  const float numbers[4] = {};
  good.add("a", Dtype::f32, {4}, numbers);
  std::string header;
  encode_header(good, header);

  std::mt19937 random(11);
  const auto noise = [&](size_t size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
  };
  int64_t count = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = header;
    switch (random() % 6) {
      case 0:
        raw.frames({noise(random() % 200)});
        break;
      case 1:
        raw.frames({bytes.substr(0, random() % bytes.size()), noise(16)});
        break;
      case 2:
        bytes[random() % bytes.size()] = static_cast<char>(random());
        raw.frames({bytes, noise(16)});
        break;
      case 3:
        raw.frames({bytes, noise(random() % 64)});
        break;
      case 4:
        raw.frames(std::vector<std::string>(1 + random() % 20, noise(random() % 8)));
        break;
      default:
        raw.frames({"", "\x81\xa4type\xa4step", noise(3)});
        break;
    }
    if (round % 100 == 0) {
      REQUIRE_EQ(client.call(Message("count"), 30).fields.integer("value"), ++count);
    }
    // Read what came, or the answers of the server would fill its queue.
    zmq::message_t frame;
    while (raw.socket.recv(frame, zmq::recv_flags::dontwait)) {
    }
  }
  raw.frames({header, std::string(1 << 17, 'x')});  // larger than the limit: the link is cut
  raw.frames({std::string(60000, 'x')});            // a header larger than its limit
  CHECK_EQ(client.call(Message("count"), 30).fields.integer("value"), ++count);
  CHECK_GT(running.stat("malformed"), 300);
}

TEST_CASE("raw: a peer that does not speak ZeroMQ disturbs nobody") {
  Running running("tcp://127.0.0.1:*");
  Client client(running.address, Message());
  const int port = std::stoi(running.address.substr(running.address.rfind(':') + 1));
  for (const char* text : {"GET / HTTP/1.1\r\n\r\n", "\xff", ""}) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), static_cast<ssize_t>(strlen(text)));
    close(fd);
  }
  CHECK_EQ(client.call(Message("count")).fields.integer("value"), 1);
}

TEST_CASE("raw: a client that never reads costs its own replies only") {
  ServerOptions options;
  options.socket.high_water = 8;
  Running running("tcp://127.0.0.1:*", options);
  Client client(running.address, Message());
  Raw raw(running.address);
  const std::string session = raw.hello().session;
  const std::vector<double> large(200000);
  for (uint64_t id = 2; id < 60; ++id) {  // more than credits, queues and buffers together hold
    Message message = request(session, id, 1, "echo");
    message.add("a", Dtype::f64, {200000}, large.data());
    raw.send(message);
  }
  for (int64_t i = 1; i <= 200; ++i) {
    REQUIRE_EQ(client.call(Message("count"), 30).fields.integer("value"), i);
  }
  CHECK_EQ(running.stat("sessions"), 2);
  // What did not fit was kept: when it reads at last, asking again brings every granted reply.
  std::map<uint64_t, int> seen;
  for (int round = 0; round < 100 && seen.size() < 16; ++round) {
    for (uint64_t id = 2; id < 18; ++id) {
      if (!seen.contains(id)) raw.send(request(session, id, 1, "again"));
    }
    raw.socket.set(zmq::sockopt::rcvtimeo, 200);
    zmq::message_t frame;
    while (raw.socket.recv(frame)) {
      const Message reply = decode_header(frame.to_string_view());
      if (reply.type == "reply") ++seen[reply.id];
      while (frame.more() && raw.socket.recv(frame)) {
      }
    }
  }
  CHECK_EQ(seen.size(), 16);
}

TEST_CASE("raw: a link that loses, doubles, delays, reorders and reconnects shifts nothing") {
  Running running("tcp://127.0.0.1:*");
  FaultProxy proxy(running.address,
                   {.lose = 0.03, .twice = 0.05, .delay = 0.05, .reconnect = 0.003, .seed = 5});
  ClientOptions options;
  options.resend = 0.01;
  options.deadline = 60;
  Client client(proxy.address, Message(), options);
  std::deque<uint64_t> ids;
  int64_t expected = 0;
  for (int i = 0; i < 10000; ++i) {
    ids.push_back(client.post(Message("count")));
    if (ids.size() == 8) {
      REQUIRE_EQ(client.take(ids.front()).fields.integer("value"), ++expected);
      ids.pop_front();
    }
  }
  while (!ids.empty()) {
    REQUIRE_EQ(client.take(ids.front()).fields.integer("value"), ++expected);
    ids.pop_front();
  }
  CHECK_EQ(expected, 10000);
  CHECK_EQ(running.stat("requests"), 10000);
  CHECK_GT(proxy.lost, 100);
  CHECK_GT(proxy.doubled, 100);
  CHECK_GT(proxy.delayed, 100);
  CHECK_GT(proxy.reconnected, 10);
}

TEST_CASE("raw: a client that scribbles over the shared memory ends its own session only") {
  Running running("tcp://127.0.0.1:*");
  Client client(running.address, Message());
  std::mt19937 random(13);
  for (int round = 0; round < 60; ++round) {
    Raw raw(running.address);
    const Message welcome = raw.hello({{"host", host_name()}, {"shared", 8192}, {"lease", 2.0}});
    const Map& offer = welcome.fields.map("shared");
    const std::string path = cat("/proc/", offer.integer("pid"), "/fd/", offer.integer("fd"));
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE_GE(fd, 0);
    CHECK_NE(ftruncate(fd, 0), 0);  // sealed
    const size_t size = 4096 + 2 * offer.count("bytes");
    char* memory =
        static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    REQUIRE_NE(static_cast<void*>(memory), MAP_FAILED);
    close(fd);
    // Positions in the first page, records behind it.
    for (int i = 0; i < 2000; ++i) {
      memory[16 + random() % (size - 16)] = static_cast<char>(random() % 3 ? random() : 8);
    }
    Message poke = request(welcome.session, 2, 1);
    raw.send(poke);
    REQUIRE_EQ(client.call(Message("count"), 30).fields.integer("value"), round + 1);
    munmap(memory, size);
  }
}

TEST_CASE("raw: helper that opens a session and hangs" * doctest::skip()) {
  ClientOptions options;
  options.shared_bytes = 1 << 16;
  options.lease = 600;
  Client client(std::getenv("BESSEMER_TEST_ADDRESS"), Message(), options);
  client.call(Message("count"));
  pause();
}

TEST_CASE("raw: the death of a client on this host is seen long before its lease ends") {
  Running running("tcp://127.0.0.1:*");
  ChildOptions options;
  options.args = {"/proc/self/exe", "--no-skip",
                  "--test-case=raw: helper that opens a session and hangs"};
  options.env = {{"BESSEMER_TEST_ADDRESS", running.address}};
  Child child = Child::spawn(options);
  REQUIRE(running.until([&] { return running.echo.opened == 1; }));
  CHECK_EQ(running.echo.closed, 0);
  child.kill();
  CHECK(running.until([&] { return running.echo.closed == 1; }, 5));
  CHECK_EQ(running.echo.why, "died");
}

TEST_CASE("raw: a dead client's session ends once, though another process holds its descriptor") {
  Running running("tcp://127.0.0.1:*");
  ChildOptions options;
  options.args = {"/proc/self/exe", "--no-skip",
                  "--test-case=raw: helper that opens a session and hangs"};
  options.env = {{"BESSEMER_TEST_ADDRESS", running.address}};
  Child child = Child::spawn(options);
  REQUIRE(running.until([&] { return running.echo.opened == 1; }));
  // As a process does that is being started: between fork and exec it has every descriptor.
  const pid_t holder = fork();
  if (holder == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) pause();
  }
  child.kill();
  CHECK(running.until([&] { return running.echo.closed == 1; }));
  Client client(running.address, Message());  // the server goes on
  for (int i = 1; i <= 20; ++i) {
    CHECK_EQ(client.call(Message("count"), 30).fields.integer("value"), i);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK_EQ(running.echo.closed, 1);
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
}

TEST_CASE("raw: a lease that is no number keeps no place") {
  Running running("tcp://127.0.0.1:*");
  Raw raw(running.address);
  raw.hello({{"lease", std::numeric_limits<double>::quiet_NaN()}});
  CHECK(running.until([&] { return running.echo.closed == 1; }));
  CHECK_EQ(running.echo.why, "lease");
}
