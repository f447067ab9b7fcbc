#include "envs/server/env_service.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "envs/render/canvas.h"
#include "envs/wire/spec_map.h"
#include "envs/wire/step_arrays.h"

namespace bessemer {

using wire::Code;
using wire::List;
using wire::Map;
using wire::Message;
using wire::Value;

namespace {

constexpr std::string_view kCapabilities[] = {"ids", "snapshot", "fork", "render", "replay"};

std::string option_text(const Value& value, const std::string& name) {
  if (const auto* text = std::get_if<std::string>(&value.data())) return *text;
  if (const auto* flag = std::get_if<bool>(&value.data())) return *flag ? "true" : "false";
  if (const auto* whole = std::get_if<int64_t>(&value.data())) return cat(*whole);
  if (const auto* number = std::get_if<double>(&value.data())) return cat(*number);
  wire::refuse(Code::bad_type, "[env] option '", name, "' is a ", value.kind());
}

/// The environment's options (text, numbers and booleans) of a header's map.
Options options_of(const Map& fields, std::string_view key) {
  Options options;
  const Value* value = fields.find(key);
  if (!value || value->null()) return options;
  for (const auto& [name, item] : value->map(key).items) {
    options.emplace_back(name, option_text(item, name));
  }
  return options;
}

Autoreset autoreset_of(const std::string& name) {
  if (name == "next_step") return Autoreset::next_step;
  if (name == "same_step") return Autoreset::same_step;
  if (name == "disabled") return Autoreset::disabled;
  wire::refuse(Code::bad_value, "[env] autoreset is '", name,
               "', expected next_step, same_step or disabled");
}

}  // namespace

struct EnvService::Hosted {
  std::unique_ptr<EnvBatch> batch;
  StepArrays arrays;
  double spent = 0;
  // What the last reply refers to.
  Ragged text;
  std::vector<uint8_t> pixels;

  Hosted(std::unique_ptr<EnvBatch> batch_)
      : batch(std::move(batch_)),
        arrays(batch->spec(), batch->autoreset() == Autoreset::same_step) {}

  int64_t agents() const { return batch->spec().rows; }

  /// The ids of a request, in range and each once; empty where it has none.
  std::span<const int64_t> ids(const Message& message) const {
    const ArrayView* view = message.find("ids");
    if (!view) return {};
    if (view->dtype != Dtype::i64 || view->ndim != 1 || view->numel() == 0) {
      wire::refuse(Code::bad_type, "[env] ids are ", dtype_name(view->dtype), " ", view->dims(),
                   ", expected int64 (n,) with at least one");
    }
    const auto ids = view->as<const int64_t>();
    std::vector<uint8_t> seen(static_cast<size_t>(batch->num_envs()));
    for (const int64_t id : ids) {
      if (id < 0 || id >= batch->num_envs()) {
        wire::refuse(Code::bad_value, "[env] environment ", id, " of ", batch->num_envs());
      }
      if (seen[id]++) wire::refuse(Code::bad_value, "[env] environment ", id, " appears twice");
    }
    return ids;
  }

  Message reset(const Message& message) {
    const int64_t envs = batch->num_envs();
    std::vector<uint8_t> mask;
    int64_t count = envs;
    if (message.find("mask")) {
      const int64_t shape[] = {envs};
      const ArrayView& view = message.array("mask", Dtype::u8, shape);
      const auto* bytes = static_cast<const uint8_t*>(view.data);
      mask.assign(bytes, bytes + envs);
      count = envs - std::ranges::count(mask, 0);
    }
    std::vector<uint64_t> seeds;
    if (message.find("seeds")) {
      const int64_t shape[] = {count};
      for (const int64_t seed : message.array("seeds", Dtype::i64, shape).as<const int64_t>()) {
        seeds.push_back(static_cast<uint64_t>(seed));
      }
    } else if (const Value* seed = message.fields.find("seed"); seed && !seed->null()) {
      for (int64_t i = 0; i < count; ++i) {
        seeds.push_back(seed->count("seed") + static_cast<uint64_t>(i));
      }
    }
    batch->reset(seeds, options_of(message.fields, "options"), mask, arrays.prepare(batch->rows()));
    Message reply;
    arrays.write(reply, *batch, {}, false);
    return reply;
  }

  Message step(const Message& message) {
    const auto chosen = ids(message);
    const int64_t envs = chosen.empty() ? batch->num_envs() : static_cast<int64_t>(chosen.size());
    const int64_t rows = envs * agents();
    const Channel& channel = batch->spec().action[0];
    Actions actions;
    Ragged words;
    if (channel.ragged) {
      words = read_ragged(message, "action", rows);
      actions.ragged = &words;
    } else {
      std::vector<int64_t> shape{rows};
      shape.insert(shape.end(), channel.shape.begin(), channel.shape.end());
      const ArrayView& view = message.array("action", channel.dtype, shape);
      if (channel.dtype == Dtype::boolean) {
        const auto* bytes = static_cast<const uint8_t*>(view.data);
        if (std::any_of(bytes, bytes + view.bytes(), [](uint8_t b) { return b > 1; })) {
          wire::refuse(Code::bad_value, "[env] a boolean action is neither 0 nor 1");
        }
      }
      actions.data = view.data;
    }
    const StepBuffers& buffers = arrays.prepare(rows);
    if (chosen.empty()) {
      batch->step(actions, buffers);
    } else {
      batch->send(actions, chosen);
      std::vector<int64_t> back(chosen.size());
      batch->recv(envs, buffers, back);
      if (!std::ranges::equal(back, chosen)) {
        wire::refuse(Code::internal, "[env] environments came back in another order");
      }
    }
    Message reply;
    arrays.write(reply, *batch, chosen, true);
    return reply;
  }

  Message observe() {
    batch->observe(arrays.prepare(batch->rows()));
    Message reply;
    arrays.write(reply, *batch, {}, false);
    return reply;
  }

  std::vector<int64_t> chosen_or_all(const Message& message) const {
    const auto chosen = ids(message);
    std::vector<int64_t> all(chosen.begin(), chosen.end());
    for (int64_t env = 0; chosen.empty() && env < batch->num_envs(); ++env) all.push_back(env);
    return all;
  }

  Message snapshot(const Message& message) {
    text.clear();
    for (const int64_t env : chosen_or_all(message)) text.push(batch->save(env));
    Message reply;
    add_ragged(reply, "state", text);
    return reply;
  }

  /// All or nothing: where one state is refused, those already loaded are put back.
  void load_all(const std::vector<int64_t>& ids,
                const std::function<std::string_view(size_t)>& state) {
    std::vector<std::string> before;
    try {
      for (size_t i = 0; i < ids.size(); ++i) {
        before.push_back(batch->save(ids[i]));
        batch->load(ids[i], state(i));
      }
    } catch (...) {
      for (size_t i = 0; i < before.size(); ++i) batch->load(ids[i], before[i]);
      throw;
    }
  }

  Message restore(const Message& message) {
    const std::vector<int64_t> chosen = chosen_or_all(message);
    const Ragged states = read_ragged(message, "state", static_cast<int64_t>(chosen.size()));
    load_all(chosen, [&](size_t i) { return states.row(static_cast<int64_t>(i)); });
    return Message();
  }

  Message fork(const Message& message) {
    const int64_t from = message.fields.integer("from");
    if (from < 0 || from >= batch->num_envs()) {
      wire::refuse(Code::bad_value, "[env] environment ", from, " of ", batch->num_envs());
    }
    const std::string state = batch->save(from);
    load_all(chosen_or_all(message), [&](size_t) { return std::string_view(state); });
    return Message();
  }

  Message render(const Message& message) {
    const Spec& spec = batch->spec();
    Canvas canvas(spec.render_width, spec.render_height);
    batch->render(message.fields.integer("env"), canvas);
    const auto drawn = canvas.pixels();
    pixels.assign(drawn.begin(), drawn.end());
    Message reply;
    reply.add("pixels", Dtype::u8, {spec.render_height, spec.render_width, 3}, pixels.data());
    return reply;
  }
};

EnvService::EnvService(const ServeOptions& options) : options_(options), ids_(options.ids) {
  if (ids_.empty()) ids_ = env_ids();
  for (const std::string& id : ids_) env_spec(id);
  if (options.threads != 1) pool_ = std::make_unique<ThreadPool>(options.threads);
}
EnvService::~EnvService() = default;

const std::string& EnvService::served(const std::string& id) const {
  const auto found = std::ranges::find(ids_, id);
  if (found == ids_.end()) {
    wire::refuse(Code::unknown_name, "[env] '", id, "' is not served here", did_you_mean(id, ids_));
  }
  return *found;
}

void EnvService::open(wire::Session& session, const Message& hello, Message& welcome) {
  const Map& fields = hello.fields;
  const std::string& id = served(fields.text("env"));
  const std::string hash = spec_hash(env_spec(id));
  if (const std::string wanted = fields.text("spec_hash", ""); !wanted.empty() && wanted != hash) {
    wire::refuse(Code::mismatch, "[env] ", id, " has specification ", hash,
                 " here, the client's is ", wanted);
  }
  const int64_t envs = fields.integer("num_envs", 1);
  if (envs < 1) wire::refuse(Code::bad_value, "[env] num_envs is ", envs);
  if (envs > options_.instances_per_session) {
    wire::refuse(Code::capacity, "[env] ", envs, " environments asked for, a session may have ",
                 options_.instances_per_session);
  }
  if (envs > options_.instances - instances_) {
    wire::refuse(Code::capacity, "[env] ", envs, " environments asked for, ",
                 options_.instances - instances_, " of ", options_.instances, " are free");
  }
  BatchOptions batch;
  batch.num_envs = envs;
  batch.options = options_of(fields, "options");
  batch.autoreset = autoreset_of(fields.text("autoreset", "next_step"));
  if (const Value* steps = fields.find("max_episode_steps"); steps && !steps->null()) {
    batch.max_episode_steps = steps->integer("max_episode_steps");
  }
  batch.pool = pool_.get();
  const std::string arithmetic = fields.text("arithmetic", "lanes");
  if (arithmetic != "lanes" && arithmetic != "plain") {
    wire::refuse(Code::bad_value, "[env] arithmetic is '", arithmetic,
                 "', expected lanes or plain");
  }
  batch.arithmetic = arithmetic == "plain" ? Arithmetic::plain : Arithmetic::lanes;
  auto hosted = std::make_shared<Hosted>(make_batch(id, batch));
  List capabilities;
  for (const std::string_view name : kCapabilities) capabilities.emplace_back(name);
  welcome.fields.set("server", "bessemer " BESSEMER_VERSION);
  welcome.fields.set("env", id);
  welcome.fields.set("num_envs", envs);
  welcome.fields.set("spec", spec_to_map(hosted->batch->spec()));
  welcome.fields.set("spec_hash", hash);
  welcome.fields.set("capabilities", std::move(capabilities));
  instances_ += envs;
  session.data = std::move(hosted);
}

std::optional<Message> EnvService::request(wire::Session& session, Message& message) {
  Hosted& hosted = *std::static_pointer_cast<Hosted>(session.data);
  if (options_.seconds_per_session > 0 && hosted.spent > options_.seconds_per_session) {
    wire::refuse(Code::capacity, "[env] this session has used its ", options_.seconds_per_session,
                 " s");
  }
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const std::string& type = message.type;
  Message reply;
  if (type == "step") {
    reply = hosted.step(message);
    const ArrayView* outcome = reply.find("outcome");
    steps_ += static_cast<uint64_t>(outcome->numel() / hosted.agents());
  } else if (type == "reset") {
    reply = hosted.reset(message);
  } else if (type == "observe") {
    reply = hosted.observe();
  } else if (type == "snapshot") {
    reply = hosted.snapshot(message);
  } else if (type == "restore") {
    reply = hosted.restore(message);
  } else if (type == "fork") {
    reply = hosted.fork(message);
  } else if (type == "render") {
    reply = hosted.render(message);
  } else {
    wire::refuse(Code::unknown_type, "[env] no request '", type, "'");
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  hosted.spent += seconds;
  if (type == "step") stepping_ += seconds;
  return reply;
}

void EnvService::close(wire::Session& session, std::string_view) {
  if (!session.data) return;
  instances_ -= std::static_pointer_cast<Hosted>(session.data)->batch->num_envs();
  session.data.reset();
}

Message EnvService::info(const Message& ask) {
  if (ask.type != "info") {
    wire::refuse(Code::unknown_type, "[env] '", ask.type, "' needs a session");
  }
  List envs;
  for (const std::string& id : ids_) {
    const Spec& spec = env_spec(id);
    envs.emplace_back(Map{{"id", id}, {"spec_hash", spec_hash(spec)}, {"spec", spec_to_map(spec)}});
  }
  List capabilities;
  for (const std::string_view name : kCapabilities) capabilities.emplace_back(name);
  Message reply;
  reply.fields = {{"server", "bessemer " BESSEMER_VERSION},
                  {"service", "env"},
                  {"protocol", List{Value(wire::kProtocol)}},
                  {"capabilities", std::move(capabilities)},
                  {"envs", std::move(envs)},
                  {"instances", instances_},
                  {"max_instances", options_.instances},
                  {"steps", steps_},
                  {"stepping_seconds", stepping_}};
  if (server_) {
    reply.fields.set("incarnation", server_->incarnation());
    reply.fields.set("wire", server_->stats());
  }
  return reply;
}

namespace {

std::atomic<wire::Server*> signalled{nullptr};
std::atomic<double> drain_seconds{10};
std::atomic<int> signals{0};

void on_signal(int) {
  wire::Server* server = signalled;
  if (!server) return;
  if (signals++ == 0) {
    server->drain(drain_seconds);
  } else {
    server->stop();
  }
}

}  // namespace

void serve_environments(const ServeOptions& options, std::span<const std::string> addresses,
                        const std::function<void(std::span<const std::string>)>& ready) {
  BESSEMER_CHECK(!addresses.empty(), ValueError, "[env] no address to serve on");
  EnvService service(options);
  wire::Server server(service, options.wire);
  service.attach(server);
  std::vector<std::string> bound;
  for (const std::string& address : addresses) bound.push_back(server.bind(address));
  signals = 0;
  drain_seconds = options.drain;
  signalled = &server;
  struct sigaction action {
  }, old_term{}, old_int{};
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, &old_term);
  sigaction(SIGINT, &action, &old_int);
  const auto restore = [&] {
    sigaction(SIGTERM, &old_term, nullptr);
    sigaction(SIGINT, &old_int, nullptr);
    signalled = nullptr;
  };
  try {
    ready(bound);
    server.run();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

}  // namespace bessemer
