#include "envs/client/remote_batch.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>

#include "core/base/wait_check.h"
#include "envs/render/canvas.h"
#include "envs/wire/spec_map.h"
#include "envs/wire/step_arrays.h"

namespace bessemer {
namespace {

using wire::Code;
using wire::Map;
using wire::Message;
using wire::WireError;

/// Runs `body`; the server's complaints about arguments become what a local batch would throw.
template <class Body>
auto translated(Body body) {
  try {
    return body();
  } catch (const WireError& error) {
    if (error.code() == Code::bad_value || error.code() == Code::unknown_name) {
      throw ValueError(error.what());
    }
    if (error.code() == Code::bad_type) throw TypeError(error.what());
    throw;
  }
}

/// Makes `message` own its arrays, so that it can be sent again long after the caller's buffers
/// changed.
void own_arrays(Message& message) {
  size_t total = 0;
  for (const auto& array : message.arrays) total += (array.view.bytes() + 7) & ~size_t{7};
  auto copy = std::make_shared_for_overwrite<char[]>(total);
  char* to = copy.get();
  for (auto& array : message.arrays) {
    const size_t bytes = array.view.bytes();
    if (bytes) memcpy(to, array.view.data, bytes);
    array.view.data = to;
    to += (bytes + 7) & ~size_t{7};
  }
  message.storage = std::move(copy);
}

class RemoteBatch final : public EnvBatch {
 public:
  RemoteBatch(const std::string& address, const std::string& id, const BatchOptions& options,
              const RemoteOptions& remote)
      : address_(address),
        options_(options),
        remote_(remote),
        envs_(options.num_envs),
        autoreset_(options.autoreset) {
    hello_.fields = {{"env", id}, {"num_envs", options.num_envs}};
    Map env_options;
    for (const auto& [name, value] : options.options) env_options.set(name, value);
    hello_.fields.set("options", std::move(env_options));
    constexpr const char* names[] = {"next_step", "same_step", "disabled"};
    hello_.fields.set("autoreset", names[static_cast<int>(options.autoreset)]);
    if (options.max_episode_steps) {
      hello_.fields.set("max_episode_steps", *options.max_episode_steps);
    }
    hello_.fields.set("arithmetic", options.arithmetic == Arithmetic::plain ? "plain" : "lanes");
    if (!remote_.token.empty()) hello_.fields.set("token", remote_.token);
    BESSEMER_CHECK(envs_ >= 1, ValueError, "[env] num_envs is ", envs_, ", expected at least 1");
    // The ring has to be asked for before the channels are known: `info` tells them.
    if (remote_.shared) {
      const Map info = server_info(address, remote_.wire.deadline, remote_.wire.socket.keys);
      for (const wire::Value& value : info.list("envs")) {
        const Map& env = value.map("envs");
        if (env.text("id") != id) continue;
        const Spec spec = spec_from_map(env.map("spec"));
        const size_t bytes = step_bytes(spec, options.num_envs * spec.rows);
        remote_.wire.shared_bytes = std::clamp<size_t>(8 * bytes, 1 << 16, 1 << 26);
      }
    }
    open();
    spec_ = spec_from_map(client_->welcome().fields.map("spec"));
    // What can neither be saved nor played again cannot be had back.
    bool snapshot = false;
    for (const wire::Value& name : client_->welcome().fields.list("capabilities")) {
      snapshot |= name.text("capabilities") == "snapshot";
    }
    if (!snapshot) remote_.reconnect = 0;
    hello_.fields.set("spec_hash", client_->welcome().fields.text("spec_hash"));
    for (const wire::Value& name : client_->welcome().fields.list("capabilities")) {
      if (name.text("capabilities") == "snapshot") can_save_ = true;
    }
    reasons_.resize(static_cast<size_t>(rows()));
    in_flight_.resize(static_cast<size_t>(envs_));
  }

  const Spec& spec() const override { return spec_; }
  int64_t num_envs() const override { return envs_; }
  Autoreset autoreset() const override { return autoreset_; }

  void reset(std::span<const uint64_t> seeds, const Options& reset_options,
             std::span<const uint8_t> mask, const StepBuffers& out) override {
    check_idle("reset");
    BESSEMER_CHECK(mask.empty() || static_cast<int64_t>(mask.size()) == envs_, ValueError,
                   "[env] reset mask has ", mask.size(), " entries, expected ", envs_);
    const int64_t count = envs_ - std::ranges::count(mask, 0);
    BESSEMER_CHECK(seeds.empty() || static_cast<int64_t>(seeds.size()) == count, ValueError,
                   "[env] ", seeds.size(), " seeds for ", count, " environments to reset");
    Message message("reset");
    if (!seeds.empty()) {
      message.add("seeds", Dtype::i64, {static_cast<int64_t>(seeds.size())}, seeds.data());
    }
    if (!mask.empty()) {
      message.add("mask", Dtype::u8, {static_cast<int64_t>(mask.size())}, mask.data());
    }
    if (!reset_options.empty()) {
      Map values;
      for (const auto& [name, value] : reset_options) values.set(name, value);
      message.fields.set("options", std::move(values));
    }
    own_arrays(message);
    const bool whole = !seeds.empty() && mask.empty();
    Message reply = transact(message);
    if (whole) {
      log_.clear();
      base_.reset();
      anchored_ = true;
    }
    remember(std::move(message));
    if (!anchored_) {
      const int64_t before = rebuilt_;
      anchor();
      // Draws without a seed do not come again: what the snapshot holds is what counts.
      if (rebuilt_ != before) reply = transact(Message("observe"));
    }
    read(reply, ReplyKind::reset, mask, out);
  }

  void step(const Actions& actions, const StepBuffers& out) override {
    check_idle("step");
    Message message = action_message(actions, envs_);
    const Message reply = transact(message);
    remember(std::move(message));
    read(reply, ReplyKind::step, {}, out);
  }

  void send(const Actions& actions, std::span<const int64_t> ids) override {
    if (ids.empty()) return;
    for (size_t i = 0; i < ids.size(); ++i) {
      const int64_t id = ids[i];
      const bool known = id >= 0 && id < envs_;
      if (known && !in_flight_[id]) {
        in_flight_[id] = 1;
        continue;
      }
      for (size_t j = 0; j < i; ++j) in_flight_[ids[j]] = 0;
      BESSEMER_CHECK(known, IndexError, "[env] environment ", id, " of ", envs_);
      const bool twice = std::ranges::count(ids.first(i), id) > 0;
      fail<ValueError>("[env] environment ", id,
                       twice ? " appears twice in one send" : " was sent before and not received");
    }
    try {
      queue(actions, ids);
    } catch (...) {
      for (const int64_t id : ids) in_flight_[id] = 0;
      throw;
    }
  }

  int64_t recv(int64_t at_least, const StepBuffers& out, std::span<int64_t> ids) override {
    int64_t under_way = 0;
    for (const Sent& sent : sent_) under_way += static_cast<int64_t>(sent.ids.size());
    BESSEMER_CHECK(at_least >= 1 && at_least <= under_way, ValueError, "[env] recv of ", at_least,
                   " environments, ", under_way, " are sent");
    int64_t got = 0;
    while (got < at_least) {
      Sent& first = sent_.front();
      const auto count = static_cast<int64_t>(first.ids.size());
      BESSEMER_CHECK(got + count <= static_cast<int64_t>(ids.size()), ValueError,
                     "[env] recv into room for ", ids.size(), " ids: they come as they were sent, ",
                     count, " together");
      const Message reply = translated([&] { return take(first); });
      const int64_t row = got * spec_.rows;
      Faults faults;
      read_step(reply, spec_, count * spec_.rows, row, ReplyKind::step, {}, out, faults);
      for (auto& [at, reason] : faults) {
        const int64_t env = first.ids[(at - row) / spec_.rows];
        reasons_[env * spec_.rows + at % spec_.rows] = std::move(reason);
      }
      std::ranges::copy(first.ids, ids.begin() + got);
      for (const int64_t id : first.ids) in_flight_[id] = 0;
      got += count;
      Message done = std::move(first.message);
      sent_.pop_front();
      remember(std::move(done));
    }
    return got;
  }

  std::string save(int64_t env) const override {
    check_idle("save");
    Message message("snapshot");
    message.add("ids", Dtype::i64, {1}, &env);
    const Message reply = const_cast<RemoteBatch*>(this)->transact(message);
    return read_ragged(reply, "state", 1).bytes;
  }

  std::vector<std::string> save_all() const override {
    check_idle("save");
    const Message reply = const_cast<RemoteBatch*>(this)->transact(Message("snapshot"));
    const Ragged states = read_ragged(reply, "state", envs_);
    std::vector<std::string> out;
    for (int64_t env = 0; env < envs_; ++env) out.emplace_back(states.row(env));
    return out;
  }

  bool can_save() const override { return can_save_; }
  bool remote() const override { return true; }

  void load(int64_t env, std::string_view state) override {
    check_idle("load");
    Ragged states;
    states.push(state);
    Message message("restore");
    message.add("ids", Dtype::i64, {1}, &env);
    add_ragged(message, "state", states);
    own_arrays(message);
    transact(message);
    remember(std::move(message));
  }

  void render(int64_t env, Canvas& canvas) const override {
    Message message("render");
    message.fields.set("env", env);
    const Message reply = const_cast<RemoteBatch*>(this)->transact(message);
    const ArrayView& pixels = reply.array("pixels");
    if (pixels.dtype != Dtype::u8 || pixels.ndim != 3 || pixels.shape[2] != 3) {
      wire::refuse(Code::malformed, "[env] a picture is ", dtype_name(pixels.dtype), " ",
                   pixels.dims());
    }
    Canvas picture(static_cast<int>(pixels.shape[1]), static_cast<int>(pixels.shape[0]));
    memcpy(picture.writable_pixels().data(), pixels.data, pixels.bytes());
    canvas.blit(picture, 0, 0);
  }

  std::string fault_reason(int64_t row) const override {
    BESSEMER_CHECK(row >= 0 && row < rows(), IndexError, "[env] row ", row, " of ", rows());
    return reasons_[row];
  }

  void observe(const StepBuffers& out) const override {
    check_idle("observe");
    const Message reply = const_cast<RemoteBatch*>(this)->transact(Message("observe"));
    Faults faults;
    read_step(reply, spec_, rows(), 0, ReplyKind::observe, {}, out, faults);
  }

 private:
  struct Sent {
    std::vector<int64_t> ids;
    Message message;
    uint64_t request = 0;
  };

  void open() { client_ = std::make_unique<wire::Client>(address_, hello_, remote_.wire); }

  void queue(const Actions& actions, std::span<const int64_t> ids) {
    Sent sent;
    sent.ids.assign(ids.begin(), ids.end());
    sent.message = action_message(actions, static_cast<int64_t>(ids.size()));
    sent.message.add("ids", Dtype::i64, {static_cast<int64_t>(sent.ids.size())}, sent.ids.data());
    own_arrays(sent.message);
    sent_.push_back(std::move(sent));
    try {
      post(sent_.back());
    } catch (...) {
      sent_.pop_back();
      throw;
    }
  }

  void read(const Message& reply, ReplyKind kind, std::span<const uint8_t> mask,
            const StepBuffers& out) {
    Faults faults;
    read_step(reply, spec_, rows(), 0, kind, mask, out, faults);
    for (auto& [row, reason] : faults) reasons_[row] = std::move(reason);
  }

  void check_idle(std::string_view what) const {
    BESSEMER_CHECK(sent_.empty(), ValueError, "[env] ", what, " while ", sent_.size(),
                   " batches are sent and not received");
  }

  Message action_message(const Actions& actions, int64_t envs) {
    const Channel& channel = spec_.action[0];
    const int64_t rows = envs * spec_.rows;
    Message message("step");
    if (channel.ragged) {
      BESSEMER_CHECK(actions.ragged, ValueError, "[env] ", spec_.id, " takes text actions");
      BESSEMER_CHECK(actions.ragged->rows() == rows, ValueError, "[env] ", actions.ragged->rows(),
                     " text actions for ", rows, " rows");
      add_ragged(message, "action", *actions.ragged);
    } else {
      BESSEMER_CHECK(actions.data, ValueError, "[env] ", spec_.id, " takes ",
                     dtype_name(channel.dtype), " actions, got none");
      std::vector<int64_t> shape{rows};
      shape.insert(shape.end(), channel.shape.begin(), channel.shape.end());
      message.add("action", channel.dtype, std::span<const int64_t>(shape), actions.data);
    }
    if (remote_.reconnect > 0) own_arrays(message);  // it may have to be sent again
    return message;
  }

  // Requests that survive the server

  /// Seconds for one request of which the server does not say that it works on it.
  double silence() const {
    return remote_.silence > 0 ? std::min(remote_.silence, remote_.deadline) : remote_.deadline;
  }

  /// One request to its end; the session is rebuilt as often as it is lost in between.
  Message transact(const Message& message) {
    return translated([&] {
      while (true) {
        try {
          return client_->call(message, silence(), remote_.deadline);
        } catch (const WireError& error) {
          if (error.code() != Code::no_session) throw;
          rebuild(error);
        }
      }
    });
  }

  void post(Sent& sent) {
    while (true) {
      try {
        sent.request = client_->post(sent.message, remote_.deadline);
        return;
      } catch (const WireError& error) {
        if (error.code() != Code::no_session) throw;
        // All that was sent is sent again inside, this one included.
        rebuild(error);
        return;
      }
    }
  }

  Message take(Sent& sent) {
    while (true) {
      try {
        return client_->take(sent.request, silence(), remote_.deadline);
      } catch (const WireError& error) {
        if (error.code() == Code::no_session) {
          rebuild(error);
          continue;
        }
        // A refused batch did not step and is not to be received; one that is late still is.
        if (error.code() != Code::deadline) {
          for (const int64_t id : sent.ids) in_flight_[id] = 0;
          sent_.pop_front();
        }
        throw;
      }
    }
  }

  /// Keeps what changed the environments since the anchor. Too much of it gives way to a snapshot.
  void remember(Message message) {
    if (remote_.reconnect <= 0) return;
    log_.push_back(std::move(message));
    if (static_cast<int64_t>(log_.size()) > remote_.replay_steps && sent_.empty()) anchor();
  }

  /// From here on the whole state can be had again without what came before; where the server takes
  /// no snapshots, it can no longer be had at all.
  void anchor() {
    if (remote_.reconnect <= 0) return;
    if (!can_save_) {
      anchored_ = false;
      log_.clear();
      base_.reset();
      return;
    }
    base_ = transact(Message("snapshot"));
    log_.clear();
    anchored_ = true;
  }

  void rebuild(const WireError& cause) {
    if (remote_.reconnect <= 0) throw WireError(cause);
    if (!anchored_ && !log_.empty()) {
      wire::refuse(Code::no_session, "[env] ", address_, " lost the environments, and takes no ",
                   "snapshots from which they could be brought back");
    }
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(remote_.reconnect));
    while (true) {
      try {
        wire::ClientOptions wire = remote_.wire;
        wire.deadline = std::max(0.05, std::chrono::duration<double>(end - Clock::now()).count());
        client_ = std::make_unique<wire::Client>(address_, hello_, wire);
        replay();
        return;
      } catch (const WireError& error) {
        const Code code = error.code();
        const bool passing = code == Code::no_session || code == Code::draining ||
                             code == Code::capacity || code == Code::deadline;
        if (!passing || Clock::now() >= end) throw;
        wait_check();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
  }

  void replay() {
    ++rebuilt_;
    if (base_) {
      Message restore("restore");
      restore.arrays = base_->arrays;
      client_->call(restore, remote_.deadline);
    }
    std::deque<uint64_t> under_way;
    for (const Message& message : log_) {
      under_way.push_back(client_->post(message, remote_.deadline));
      if (under_way.size() >= client_->credits()) {
        client_->take(under_way.front(), remote_.deadline);
        under_way.pop_front();
      }
    }
    for (const uint64_t id : under_way) client_->take(id, remote_.deadline);
    for (Sent& sent : sent_) sent.request = client_->post(sent.message, remote_.deadline);
  }

  std::string address_;
  BatchOptions options_;
  RemoteOptions remote_;
  int64_t envs_;
  Autoreset autoreset_;
  Message hello_;
  std::unique_ptr<wire::Client> client_;
  Spec spec_;
  bool can_save_ = false;
  std::vector<std::string> reasons_;  // [rows], of the last fault
  std::deque<Sent> sent_;
  std::vector<uint8_t> in_flight_;  // [envs]
  // The anchor: a snapshot of all environments, or, without one, the log begins with a seeded
  // reset.
  bool anchored_ = false;
  int64_t rebuilt_ = 0;
  std::optional<Message> base_;
  std::vector<Message> log_;
};

}  // namespace

std::unique_ptr<EnvBatch> connect_batch(const std::string& address, const std::string& id,
                                        const BatchOptions& options, const RemoteOptions& remote) {
  return translated([&] { return std::make_unique<RemoteBatch>(address, id, options, remote); });
}

namespace {

Map asked(const std::string& address, Message message, double deadline, wire::Keys keys) {
  wire::ClientOptions options;
  options.deadline = deadline;
  options.socket.keys = std::move(keys);
  return wire::ask(address, std::move(message), options).fields;
}

}  // namespace

Map server_info(const std::string& address, double deadline, wire::Keys keys) {
  return asked(address, Message("info"), deadline, std::move(keys));
}

Map server_control(const std::string& address, const std::string& verb, Map fields, wire::Keys keys,
                   double deadline) {
  Message message("control");
  message.fields = std::move(fields);
  message.fields.set("verb", verb);
  return translated([&] { return asked(address, std::move(message), deadline, std::move(keys)); });
}

void read_credentials(const std::string& keys, const std::string& token, RemoteOptions& remote) {
  if (!keys.empty()) remote.wire.socket.keys = wire::read_client_keys(keys);
  if (!token.empty()) remote.token = wire::read_token(token);
}

}  // namespace bessemer
