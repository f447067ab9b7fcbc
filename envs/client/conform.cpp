#include "envs/client/conform.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>

#include "envs/client/remote_batch.h"
#include "envs/wire/spec_map.h"
#include "envs/wire/step_arrays.h"

namespace bessemer {
namespace {

using wire::List;
using wire::Map;
using wire::Message;
using wire::Value;

#define EXPECT(condition, ...) BESSEMER_CHECK(condition, ValueError, __VA_ARGS__)

/// The whole of a reply as bytes, to compare two.
std::string image(const Message& message) {
  std::string bytes = wire::pack(message.fields);
  for (const auto& array : message.arrays) {
    bytes += array.name;
    bytes.append(static_cast<const char*>(array.view.data), array.view.bytes());
  }
  return bytes;
}

/// A client that says exactly what it is told, every id and ack included.
class Bare {
 public:
  Bare(const std::string& address, double deadline)
      : socket_(wire::Socket::Role::client), deadline_(deadline) {
    socket_.connect(address);
  }

  void send(const Message& message) { socket_.send(wire::Packed(message)); }

  /// The next message; fails when none comes in time.
  Message receive() {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration<double>(deadline_);
    wire::Socket* sockets[] = {&socket_};
    while (true) {
      if (auto incoming = socket_.receive()) {
        EXPECT(!incoming->problem, "an unreadable reply: ", incoming->problem->what());
        return std::move(incoming->message);
      }
      const double left = std::chrono::duration<double>(end - Clock::now()).count();
      EXPECT(left > 0, "no answer within ", deadline_, " s");
      wait_readable(sockets, {}, left);
    }
  }
  /// The answer to `id`; older answers are let go.
  Message answer(uint64_t id) {
    while (true) {
      Message message = receive();
      if (message.id == id && message.type != "working") return message;
    }
  }
  Message ask(const Message& message) {
    send(message);
    return answer(message.id);
  }

 private:
  wire::Socket socket_;
  double deadline_;
};

class Tester {
 public:
  Tester(std::string address, std::string id, double deadline)
      : address_(std::move(address)), deadline_(deadline), bare_(address_, deadline) {
    info_ = server_info(address_, deadline);
    const List& envs = info_.list("envs");
    EXPECT(!envs.empty(), "[conform] ", address_, " serves no environment");
    const Map* chosen = nullptr;
    for (const Value& value : envs) {
      const Map& env = value.map("envs");
      if (!chosen && (id.empty() || env.text("id") == id)) chosen = &env;
    }
    EXPECT(chosen, "[conform] ", address_, " does not serve '", id, "'");
    id_ = chosen->text("id");
    hash_ = chosen->text("spec_hash");
    spec_ = spec_from_map(chosen->map("spec"));
    const Map& able = chosen->find("capabilities") ? *chosen : info_;
    for (const Value& value : able.list("capabilities")) {
      capabilities_.push_back(value.text("capabilities"));
    }
    make_actions();
  }

  std::vector<ConformCheck> run() {
    check("info names the protocol", [&] {
      const List& versions = info_.list("protocol");
      EXPECT(std::ranges::any_of(versions, [](const Value& v) { return v.integer("v") == 1; }),
             "version 1 is not among them");
    });
    check("the spec's hash is that of the spec", [&] {
      EXPECT(spec_hash(spec_) == hash_, "the server says ", hash_, ", it is ", spec_hash(spec_));
    });
    check("an unknown protocol version is refused", [&] {
      Message message = hello("version");
      message.fields.set("protocol", List{Value(999)});
      expect_error(bare_.ask(message), "version");
    });
    check("an unknown environment is refused", [&] {
      Message message = hello("unknown");
      message.fields.set("env", "No-Such-Environment-v0");
      expect_error(bare_.ask(message), "unknown_name");
    });
    check("another specification is refused", [&] {
      Message message = hello("mismatch");
      message.fields.set("spec_hash", "0000000000000000");
      expect_error(bare_.ask(message), "mismatch");
    });
    check("too many environments are refused", [&] {
      Message message = hello("capacity");
      message.fields.set("num_envs", int64_t{1} << 40);
      expect_error(bare_.ask(message), "capacity");
    });
    check("a hello opens a session, sent twice the same one", [&] {
      const Message message = hello("main");
      const Message first = bare_.ask(message), second = bare_.ask(message);
      EXPECT(first.type == "welcome", "answered '", first.type, "'");
      EXPECT(!first.session.empty() && first.session == second.session,
             "the second hello opened another session");
      EXPECT(first.fields.text("spec_hash") == hash_, "the welcome has another spec_hash");
      EXPECT(!first.fields.text("incarnation").empty(), "no incarnation");
      session_ = first.session;
      credits_ = first.fields.count("credits");
      EXPECT(credits_ >= 1, "no credits");
      first.fields.number("lease");
      first.fields.count("max_bytes");
    });
    if (session_.empty()) return std::move(checks_);
    check("a step before the reset is refused", [&] { expect_error(ask(step()), "bad_value"); });
    check("a seeded reset gives observations as the spec says", [&] {
      const Message reply = expect_reply(ask(reset(7)));
      const StepBuffers nothing;
      Faults faults;
      read_step(reply, spec_, kEnvs * spec_.rows, 0, ReplyKind::reset, {}, nothing, faults);
      first_ = image(reply);
    });
    check("the same seed gives the same observations",
          [&] { EXPECT(image(expect_reply(ask(reset(7)))) == first_, "they differ"); });
    check("a step gives arrays as the spec says", [&] {
      const Message reply = expect_reply(ask(step()));
      const StepBuffers nothing;
      Faults faults;
      read_step(reply, spec_, kEnvs * spec_.rows, 0, ReplyKind::step, {}, nothing, faults);
      stepped_ = image(reply);
    });
    check("a repeated request is answered and not done again", [&] {
      ask(reset(7));
      const Message request = step();
      const Message first = expect_reply(ask(request, false));
      const Message again = expect_reply(ask(request, false));
      EXPECT(image(first) == stepped_, "the step from the same seed differs");
      EXPECT(image(again) == stepped_, "the repeated step has another reply");
      ++done_;
    });
    check("a request before its turn waits for it", [&] {
      Message early = step(), due = reset(7);
      due.id = done_ + 1;
      early.id = done_ + 2;
      due.session = early.session = session_;
      due.ack = early.ack = done_;
      EXPECT(credits_ >= 2, "only one request may be in flight");
      bare_.send(early);
      bare_.send(due);
      bare_.answer(due.id);
      EXPECT(image(expect_reply(bare_.answer(early.id))) == stepped_, "it was not stepped second");
      done_ += 2;
    });
    check("an action of another shape is refused and nothing steps", [&] {
      ask(reset(7));
      Message wrong("step");
      const float number = 0;
      wrong.add("action", Dtype::f32, {1, 1, 1, 1}, &number);
      const std::string code = ask(wrong).fields.text("code", "");
      EXPECT(code == "bad_type" || code == "malformed", "answered '", code, "'");
      EXPECT(image(expect_reply(ask(step()))) == stepped_, "the state has changed");
    });
    check("an action outside its space is refused and nothing steps", [&] {
      if (bad_.empty()) return leave_out("the space has no outside");
      ask(reset(7));
      Message wrong("step");
      add_action(wrong, bad_);
      expect_error(ask(wrong), "bad_value");
      EXPECT(image(expect_reply(ask(step()))) == stepped_, "the state has changed");
    });
    check("some of the environments can be stepped", [&] {
      if (!can("ids")) return leave_out("no capability 'ids'");
      ask(reset(7));
      Message part("step");
      const int64_t ids[] = {1};
      add_action(part, good_, 1);
      part.add("ids", Dtype::i64, {1}, ids);
      const Message reply = expect_reply(ask(part));
      const int64_t shape[] = {spec_.rows};
      reply.array("outcome", Dtype::u8, shape);
      const int64_t twice[] = {1, 1};
      Message wrong("step");
      add_action(wrong, good_, 2);
      wrong.add("ids", Dtype::i64, {2}, twice);
      expect_error(ask(wrong), "bad_value");
    });
    check("snapshot and restore bring a state back", [&] {
      if (!can("snapshot")) return leave_out("no capability 'snapshot'");
      ask(reset(7));
      Message snapshot = expect_reply(ask(Message("snapshot")));
      expect_reply(ask(step()));
      expect_reply(ask(step()));
      Message restore("restore");
      restore.arrays = snapshot.arrays;
      expect_reply(ask(restore));
      EXPECT(image(expect_reply(ask(step()))) == stepped_, "the next step differs");
    });
    check("a damaged snapshot is refused and nothing changes", [&] {
      if (!can("snapshot")) return leave_out("no capability 'snapshot'");
      ask(reset(7));
      Ragged damaged;
      for (int64_t i = 0; i < kEnvs; ++i) damaged.push("damaged");
      Message restore("restore");
      add_ragged(restore, "state", damaged);
      expect_error(ask(restore), "bad_value");
      EXPECT(image(expect_reply(ask(step()))) == stepped_, "the state has changed");
    });
    check("fork copies one environment's state to another", [&] {
      if (!can("fork")) return leave_out("no capability 'fork'");
      ask(reset(7));
      Message fork("fork");
      fork.fields.set("from", 0);
      expect_reply(ask(fork));
      const Message seen = expect_reply(ask(Message("observe")));
      for (const auto& array : seen.arrays) {
        if (!array.name.starts_with("obs.") || array.name.ends_with(".offsets")) continue;
        const size_t half = array.view.bytes() / 2;
        const char* data = static_cast<const char*>(array.view.data);
        EXPECT(memcmp(data, data + half, half) == 0, "'", array.name, "' differs");
      }
    });
    check("an unknown request is refused",
          [&] { expect_error(ask(Message("no_such_request")), "unknown_type"); });
    check("a request beyond the credits is refused", [&] {
      Message message("observe");
      message.id = done_ + credits_ + 1;
      message.ack = done_;
      message.session = session_;
      expect_error(bare_.ask(message), "no_credit");
    });
    check("a frame that does not fit its header is answered", [&] {
      Message message("step");
      message.fields.set(
          "arrays", List{Value(List{Value("action"), Value("float32"), Value(List{Value(1000)})})});
      expect_error(ask(message), "malformed");
    });
    check("frames that are no message hurt nobody", [&] {
      Bare other(address_, deadline_);
      Message nonsense("");
      other.send(nonsense);
      expect_reply(ask(reset(7)));
    });
    check("a second connection goes on with the session", [&] {
      Bare other(address_, deadline_);
      Message message = step();
      message.id = done_ + 1;
      message.ack = done_;
      message.session = session_;
      EXPECT(image(expect_reply(other.ask(message))) == stepped_, "the step differs");
      ++done_;
    });
    check("a ping is answered", [&] {
      Message ping("ping");
      ping.id = 12345;
      ping.session = session_;
      EXPECT(bare_.ask(ping).type == "pong", "not with a pong");
    });
    check("after bye the session is gone", [&] {
      Message bye("bye");
      bye.id = done_ + 1;
      bye.ack = done_;
      bye.session = session_;
      expect_reply(bare_.ask(bye));
      expect_error(ask(step()), "no_session");
    });
    check("a silent session ends with its lease", [&] {
      Message message = hello("silent");
      message.fields.set("lease", 0.2);
      const Message welcome = bare_.ask(message);
      EXPECT(welcome.type == "welcome", "answered '", welcome.type, "'");
      const double lease = welcome.fields.number("lease");
      if (lease > 5) return leave_out(cat("the server's shortest lease is ", lease, " s"));
      std::this_thread::sleep_for(std::chrono::duration<double>(3 * lease + 0.5));
      Message late("observe");
      late.id = 2;
      late.ack = 1;
      late.session = welcome.session;
      expect_error(bare_.ask(late), "no_session");
    });
    return std::move(checks_);
  }

 private:
  static constexpr int64_t kEnvs = 2;

  bool can(std::string_view name) const {
    return std::ranges::find(capabilities_, name) != capabilities_.end();
  }
  void leave_out(const std::string& why) { left_out_ = cat("left out: ", why); }

  void check(std::string name, const std::function<void()>& body) {
    ConformCheck result{std::move(name), true, {}};
    left_out_.clear();
    try {
      body();
      result.text = left_out_;
    } catch (const std::exception& error) {
      result.passed = false;
      result.text = error.what();
    }
    checks_.push_back(std::move(result));
  }

  static void expect_error(const Message& message, std::string_view code) {
    EXPECT(message.type == "error", "answered '", message.type, "', expected error ", code);
    EXPECT(message.fields.text("code") == code, "error ", message.fields.text("code"),
           ", expected ", code);
    EXPECT(!message.fields.text("message").empty(), "the error has no message");
  }
  static Message expect_reply(Message message) {
    EXPECT(message.type == "reply", "answered '", message.type, "' ",
           message.fields.text("message", ""));
    return message;
  }

  Message hello(const std::string& name) const {
    Message message("hello");
    message.id = 1;
    message.fields = {{"protocol", List{Value(1)}},
                      {"client", cat("conform-", getpid(), "-", counter(), "-", name)},
                      {"env", id_},
                      {"num_envs", kEnvs},
                      {"lease", 60.0}};
    return message;
  }
  static int64_t counter() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

  /// Sends as the next request of the session; `done` false leaves the id to be used again.
  Message ask(Message message, bool done = true) {
    message.id = done_ + 1;
    message.ack = done_;
    message.session = session_;
    Message reply = bare_.ask(message);
    if (done) ++done_;
    return reply;
  }

  Message reset(int64_t seed) const {
    Message message("reset");
    message.fields.set("seed", seed);
    return message;
  }
  Message step() const {
    Message message("step");
    add_action(message, good_);
    return message;
  }
  void add_action(Message& message, const std::string& row, int64_t envs = kEnvs) const {
    const Channel& channel = spec_.action[0];
    const int64_t rows = envs * spec_.rows;
    if (channel.ragged) {
      message.add("action.offsets", Dtype::i64, {rows + 1}, offsets_.data());
      message.add("action.bytes", Dtype::u8, {rows}, letters_.data());
      return;
    }
    std::vector<int64_t> shape{rows};
    shape.insert(shape.end(), channel.shape.begin(), channel.shape.end());
    message.add("action", channel.dtype, std::span<const int64_t>(shape), row.data());
  }

  template <class T>
  static void append(std::string& bytes, double value) {
    const T element = static_cast<T>(value);
    bytes.append(reinterpret_cast<const char*>(&element), sizeof element);
  }
  static void append(std::string& bytes, Dtype dtype, double value) {
    switch (dtype) {
      case Dtype::f32:
        return append<float>(bytes, value);
      case Dtype::f64:
        return append<double>(bytes, value);
      case Dtype::i64:
        return append<int64_t>(bytes, value);
      case Dtype::i32:
        return append<int32_t>(bytes, value);
      default:
        return append<int8_t>(bytes, value);
    }
  }

  /// An action inside its space for every row, and one outside where there is an outside.
  void make_actions() {
    const Channel& channel = spec_.action[0];
    const int64_t rows = kEnvs * spec_.rows;
    for (int64_t row = 0; row <= rows; ++row) offsets_.push_back(row);
    letters_.assign(static_cast<size_t>(rows), 'a');
    if (channel.ragged) return;
    bool outside = false;
    for (int64_t i = 0; i < rows * channel.numel(); ++i) {
      const auto e = static_cast<size_t>(i % channel.numel());
      const auto pick = [&](const auto& values, auto none) {
        return values.empty() ? none : values[values.size() == 1 ? 0 : e];
      };
      double good = 0, bad = 0;
      if (channel.kind == SpaceKind::box) {
        const double low = pick(channel.low, -HUGE_VAL), high = pick(channel.high, HUGE_VAL);
        good = std::clamp(0.0, low, high);
        outside |= dtype_is_float(channel.dtype);
        bad = dtype_is_float(channel.dtype) ? std::numeric_limits<double>::quiet_NaN() : good;
      } else {
        good = static_cast<double>(channel.start);
        bad = good + static_cast<double>(pick(channel.n, int64_t{2}));
        outside = true;
      }
      append(good_, channel.dtype, good);
      append(bad_, channel.dtype, bad);
    }
    if (!outside) bad_.clear();
  }

  std::string address_, id_, hash_, session_, first_, stepped_, left_out_;
  double deadline_;
  Bare bare_;
  Map info_;
  Spec spec_;
  std::vector<std::string> capabilities_;
  std::string good_, bad_, letters_;
  std::vector<int64_t> offsets_;
  uint64_t done_ = 1, credits_ = 1;
  std::vector<ConformCheck> checks_;
};

}  // namespace

std::vector<ConformCheck> conform(const std::string& address, const std::string& id,
                                  double deadline) {
  return Tester(address, id, deadline).run();
}

}  // namespace bessemer
