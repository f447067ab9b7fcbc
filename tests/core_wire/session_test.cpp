#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <random>

#include "service.h"

using namespace bessemer;
using namespace bessemer::wire;

namespace {

std::string ipc_address(const char* name) { return cat("ipc:///tmp/bes-", name, "-", getpid()); }

template <class Body>
Code code_of(Body body) {
  try {
    body();
  } catch (const WireError& error) {
    return error.code();
  }
  FAIL("no error");
  return Code::internal;
}

int64_t next_count(Client& client) { return client.call(Message("count")).fields.integer("value"); }

void check_echo(Client& client, size_t numbers) {
  std::vector<double> data(numbers);
  for (size_t i = 0; i < numbers; ++i) data[i] = 0.5 * static_cast<double>(i);
  Message message("echo");
  message.fields.set("word", "x");
  message.add("a", Dtype::f64, {static_cast<int64_t>(numbers)}, data.data());
  const uint8_t odd[5] = {1, 2, 3, 4, 5};
  message.add("b", Dtype::u8, {5}, odd);
  message.add("empty", Dtype::i64, {0, 3}, nullptr);
  const Message reply = client.call(std::move(message));
  CHECK_EQ(reply.fields.text("word"), "x");
  const auto back = reply.array("a").as<const double>();
  REQUIRE_EQ(back.size(), numbers);
  CHECK_EQ(memcmp(back.data(), data.data(), numbers * sizeof(double)), 0);
  CHECK_EQ(reply.array("b").as<const uint8_t>()[4], 5);
  CHECK_EQ(reply.array("empty").numel(), 0);
}

}  // namespace

TEST_CASE("wire: requests and arrays over inproc, ipc, tcp and shared memory") {
  for (const std::string& where :
       {std::string("inproc://echo"), ipc_address("echo"), std::string("tcp://127.0.0.1:*")}) {
    for (const bool shared : {false, true}) {
      CAPTURE(where);
      CAPTURE(shared);
      Running running(where);
      ClientOptions options;
      options.shared_bytes = shared ? 1 << 16 : 0;
      Client client(running.address, Message(), options);
      CHECK_EQ(client.welcome().fields.text("greeting"), "hello");
      CHECK_EQ(client.shared(), shared);
      check_echo(client, 3);
      check_echo(client, 1000);
      check_echo(client, 100000);  // does not fit the ring: goes through the socket
      for (int64_t i = 1; i <= 3000; ++i) REQUIRE_EQ(next_count(client), i);
      CHECK_EQ(running.stat("malformed"), 0);
      CHECK_EQ(running.stat("unsent"), 0);
    }
  }
}

TEST_CASE("wire: large and small messages in one pipeline keep their order through both paths") {
  Running running("tcp://127.0.0.1:*");
  ClientOptions options;
  options.shared_bytes = 1 << 15;
  Client client(running.address, Message(), options);
  REQUIRE(client.shared());
  const std::vector<double> large(8000, 1.0);
  std::vector<uint64_t> ids;
  std::mt19937 random(3);
  int64_t counted = 0;
  for (int round = 0; round < 300; ++round) {
    for (int i = 0; i < 8; ++i) {
      if (random() % 4 == 0) {
        Message message("echo");
        message.add("a", Dtype::f64, {8000}, large.data());
        ids.push_back(client.post(std::move(message)));
      } else {
        ids.push_back(client.post(Message("count")));
      }
    }
    for (const uint64_t id : ids) {
      const Message reply = client.take(id, 30);
      if (reply.arrays.empty()) REQUIRE_EQ(reply.fields.integer("value"), ++counted);
    }
    ids.clear();
  }
}

TEST_CASE("wire: errors come back typed, and the session goes on") {
  Running running("tcp://127.0.0.1:*");
  for (const size_t shared : {size_t{0}, size_t{1} << 16}) {
    ClientOptions options;
    options.shared_bytes = shared;
    Client client(running.address, Message(), options);
    const auto code = [&](const char* type) {
      return code_of([&] { client.call(Message(type)); });
    };
    CHECK_EQ(code("value"), Code::bad_value);
    CHECK_EQ(code("type"), Code::bad_type);
    CHECK_EQ(code("crash"), Code::internal);
    CHECK_EQ(code("nonsense"), Code::unknown_type);
    CHECK_EQ(next_count(client), 1);
  }
  CHECK_EQ(ask(running.address, Message("info")).fields.text("name"), "echo");
  CHECK_EQ(code_of([&] { ask(running.address, Message("nonsense")); }), Code::unknown_type);
}

TEST_CASE("wire: refusals: version, service, capacity, draining, address") {
  ServerOptions limited;
  limited.max_sessions = 1;
  Running running("tcp://127.0.0.1:*", limited);
  Message unwanted;
  unwanted.fields.set("want", "nothing");
  CHECK_EQ(code_of([&] { Client(running.address, unwanted); }), Code::unknown_name);

  Message stranger("hello");
  stranger.fields = {{"client", "x"}, {"protocol", List{Value(99)}}};
  CHECK_EQ(code_of([&] { ask(running.address, stranger); }), Code::version);
  {
    Client first(running.address, Message());
    CHECK_EQ(code_of([&] { Client(running.address, Message()); }), Code::capacity);
  }
  CHECK(running.until([&] { return running.echo.closed == 1; }));
  Client last(running.address, Message());
  running.server.drain(10);
  running.inside([] {});  // the server knows
  CHECK_EQ(code_of([&] { Client(running.address, Message()); }), Code::draining);

  CHECK_THROWS_AS(Running("tcp://0.0.0.0:*"), ValueError);
  CHECK_THROWS_AS(Running("tcp://127.evil.org:5555"), ValueError);
  CHECK(is_local_address("tcp://127.0.0.1:*"));
  CHECK(is_local_address("tcp://[::1]:80"));
  CHECK(is_local_address("tcp://localhost:80"));
  CHECK(!is_local_address("tcp://*:80"));
}

TEST_CASE("wire: an address in use and a dead one are clear errors in time") {
  Running tcp("tcp://127.0.0.1:*"), ipc(ipc_address("used"));
  CHECK_THROWS_WITH_AS(Running(tcp.address),
                       cat("[wire] cannot bind ", tcp.address, ": Address already in use").c_str(),
                       IoError);
  CHECK_THROWS_AS(Running(ipc.address), IoError);
  CHECK_EQ(Client(ipc.address, Message()).credits(), 16);  // the first still has it

  ClientOptions options;
  options.deadline = 0.3;
  const auto begin = std::chrono::steady_clock::now();
  CHECK_EQ(code_of([&] { Client("tcp://127.0.0.1:1", Message(), options); }), Code::deadline);
  CHECK_EQ(code_of([&] { ask("tcp://127.0.0.1:1", Message("info"), options); }), Code::deadline);
  CHECK_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(6));
  CHECK_THROWS_AS(Client("nonsense", Message(), options), IoError);
}

TEST_CASE("wire: late replies are matched by id; working keeps the client quiet") {
  Running running(ipc_address("late"));
  for (const size_t shared : {size_t{0}, size_t{1} << 16}) {
    ClientOptions options;
    options.shared_bytes = shared;
    options.resend = 0.02;
    Client client(running.address, Message(), options);
    const uint64_t slow = client.post(Message("later"));
    const uint64_t dropped = client.post(Message("later"));
    CHECK_EQ(next_count(client), 1);  // does not wait for those before it
    CHECK_EQ(code_of([&] { client.take(slow, 0.2); }), Code::deadline);
    client.forget(dropped);
    running.inside([&] {
      REQUIRE_EQ(running.echo.waiting.size(), 2);  // although asked for again and again
      for (const auto& [session, id] : running.echo.waiting) {
        Message reply;
        reply.fields.set("late", id);
        running.server.reply(session, id, std::move(reply));
      }
      running.echo.waiting.clear();
    });
    CHECK_EQ(next_count(client), 2);
    CHECK_EQ(client.take(slow).fields.count("late"), slow);
    CHECK_THROWS_AS(client.take(slow), ValueError);
    CHECK_EQ(client.in_flight(), 0);
  }
}

TEST_CASE("wire: credits bound what is in flight") {
  ServerOptions options;
  options.credits = 4;
  Running running("tcp://127.0.0.1:*", options);
  Client client(running.address, Message());
  CHECK_EQ(client.credits(), 4);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(client.post(Message("later")));
  CHECK_EQ(code_of([&] { client.post(Message("count"), 0.1); }), Code::deadline);
  size_t arrived = 0;
  CHECK(running.until([&] {
    running.inside([&] { arrived = running.echo.waiting.size(); });
    return arrived == 4;
  }));
  running.inside([&] {
    for (const auto& [session, id] : running.echo.waiting) {
      running.server.reply(session, id, Message());
    }
  });
  CHECK_EQ(next_count(client), 1);
  for (const uint64_t id : ids) CHECK_NOTHROW(client.take(id));
}

TEST_CASE("wire: leases free the slots of silent clients and are kept for quiet ones") {
  Running running("tcp://127.0.0.1:*");
  ClientOptions options;
  options.lease = 1.5;
  Client quiet(running.address, Message(), options);
  CHECK_EQ(next_count(quiet), 1);

  // One that opens a session and is never heard again.
  Message hello("hello");
  hello.fields = {{"client", "silent"}, {"protocol", List{Value(1)}}, {"lease", 0.2}};
  const Message welcome = ask(running.address, hello);
  CHECK_EQ(running.stat("opened"), 2);
  CHECK(running.until([&] { return running.echo.closed == 1; }));
  CHECK_EQ(running.echo.why, "lease");
  Message late("count");
  late.session = welcome.session;
  CHECK_EQ(code_of([&] { ask(running.address, late); }), Code::no_session);

  std::this_thread::sleep_for(std::chrono::milliseconds(4000));
  CHECK_EQ(next_count(quiet), 2);
  CHECK_EQ(running.stat("sessions"), 1);
}

TEST_CASE("wire: a restarted server knows no old session; a closed one answers so") {
  const std::string address = ipc_address("again");
  auto running = std::make_unique<Running>(address);
  Client client(running->address, Message());
  const std::string first = client.welcome().fields.text("incarnation");
  CHECK_EQ(next_count(client), 1);
  running.reset();
  running = std::make_unique<Running>(address);
  CHECK_EQ(code_of([&] { client.call(Message("count"), 20); }), Code::no_session);
  Client fresh(running->address, Message());
  CHECK_NE(fresh.welcome().fields.text("incarnation"), first);
  CHECK_EQ(next_count(fresh), 1);
}

TEST_CASE("wire: draining tells sessions, lets them finish and ends with the last") {
  Running running("tcp://127.0.0.1:*");
  {
    Client client(running.address, Message());
    running.server.drain(30);
    running.inside([] {});
    CHECK_EQ(next_count(client), 1);
    CHECK(client.draining());
  }
  running.thread.join();  // ends by itself
  running.thread = std::thread([] {});
}

TEST_CASE("wire: a message beyond the limit is refused before it is sent") {
  ServerOptions options;
  options.socket.limits.bytes = 1 << 16;
  Running running("tcp://127.0.0.1:*", options);
  Client client(running.address, Message());
  const std::vector<double> large(10000);
  Message message("echo");
  message.add("a", Dtype::f64, {10000}, large.data());
  CHECK_EQ(code_of([&] { client.call(message); }), Code::too_large);
  CHECK_EQ(next_count(client), 1);
}
