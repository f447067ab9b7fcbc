#include "envs/server/hosted.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/wire/error.h"
#include "envs/render/canvas.h"

namespace bessemer {

using wire::Code;
using wire::Map;
using wire::Message;
using wire::Value;

namespace {

/// Below it a request stays on the thread that polls: handing it over and back takes about as long.
constexpr double kQuick = 50e-6;
/// Environments of a request that was never measured and is expected to be quick.
constexpr int64_t kQuickEnvs = 256;

std::string option_text(const Value& value, const std::string& name) {
  if (const auto* text = std::get_if<std::string>(&value.data())) return *text;
  if (const auto* flag = std::get_if<bool>(&value.data())) return *flag ? "true" : "false";
  if (const auto* whole = std::get_if<int64_t>(&value.data())) return cat(*whole);
  if (const auto* number = std::get_if<double>(&value.data())) return cat(*number);
  wire::refuse(Code::bad_type, "[env] option '", name, "' is a ", value.kind());
}

}  // namespace

Options options_of(const Map& fields, std::string_view key) {
  Options options;
  const Value* value = fields.find(key);
  if (!value || value->null()) return options;
  for (const auto& [name, item] : value->map(key).items) {
    options.emplace_back(name, option_text(item, name));
  }
  return options;
}

void Hosted::use(std::unique_ptr<EnvBatch> made) {
  batch_ = std::move(made);
  arrays_ =
      std::make_unique<StepArrays>(batch_->spec(), batch_->autoreset() == Autoreset::same_step);
}

Hosted::Kind Hosted::kind_of(const Message& message) {
  constexpr std::string_view names[] = {"step",    "reset", "observe", "snapshot",
                                        "restore", "fork",  "render"};
  for (size_t k = 0; k < kKinds; ++k) {
    if (message.type == names[k]) return static_cast<Kind>(k);
  }
  wire::refuse(Code::unknown_type, "[env] no request '", message.type, "'");
}

bool Hosted::quick(const Message& message) const {
  if (python) return false;
  const double cost = cost_[kind_of(message)];
  return cost < 0 ? envs <= kQuickEnvs : cost < kQuick;
}

Message Hosted::answer(const Message& message) {
  using Clock = std::chrono::steady_clock;
  const Kind kind = kind_of(message);
  const auto begin = Clock::now();
  Message reply = carry_out(kind, message);
  last_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  // One step that was interrupted by something else does not make the next ones slow.
  double& cost = cost_[kind];
  cost = cost < 0 ? last_seconds : 0.75 * cost + 0.25 * std::min(last_seconds, 4 * cost + 10e-6);
  return reply;
}

Message Hosted::carry_out(Kind kind, const Message& message) {
  if (python && (kind == snapshot || kind == restore || kind == fork)) {
    wire::refuse(Code::unsupported, "[env] ", id, " runs in processes of its own: no ",
                 message.type);
  }
  switch (kind) {
    case step:
      return do_step(message);
    case reset:
      return do_reset(message);
    case observe:
      return do_observe();
    case snapshot:
      return do_snapshot(message);
    case restore:
      return do_restore(message);
    case fork:
      return do_fork(message);
    default:
      return do_render(message);
  }
}

/// The ids of a request, in range and each once; empty where it has none.
std::span<const int64_t> Hosted::ids(const Message& message) const {
  const ArrayView* view = message.find("ids");
  if (!view) return {};
  if (view->dtype != Dtype::i64 || view->ndim != 1 || view->numel() == 0) {
    wire::refuse(Code::bad_type, "[env] ids are ", dtype_name(view->dtype), " ", view->dims(),
                 ", expected int64 (n,) with at least one");
  }
  const auto ids = view->as<const int64_t>();
  std::vector<uint8_t> seen(static_cast<size_t>(batch_->num_envs()));
  for (const int64_t id : ids) {
    if (id < 0 || id >= batch_->num_envs()) {
      wire::refuse(Code::bad_value, "[env] environment ", id, " of ", batch_->num_envs());
    }
    if (seen[id]++) wire::refuse(Code::bad_value, "[env] environment ", id, " appears twice");
  }
  return ids;
}

Message Hosted::do_reset(const Message& message) {
  const int64_t envs = batch_->num_envs();
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
  batch_->reset(seeds, options_of(message.fields, "options"), mask,
                arrays_->prepare(batch_->rows()));
  Message reply;
  arrays_->write(reply, *batch_, {}, false);
  return reply;
}

Message Hosted::do_step(const Message& message) {
  const auto chosen = ids(message);
  const int64_t envs = chosen.empty() ? batch_->num_envs() : static_cast<int64_t>(chosen.size());
  const int64_t rows = envs * agents();
  const Channel& channel = batch_->spec().action[0];
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
  const StepBuffers& buffers = arrays_->prepare(rows);
  if (chosen.empty()) {
    batch_->step(actions, buffers);
  } else {
    batch_->send(actions, chosen);
    std::vector<int64_t> back(chosen.size());
    batch_->recv(envs, buffers, back);
    if (!std::ranges::equal(back, chosen)) {
      wire::refuse(Code::internal, "[env] environments came back in another order");
    }
  }
  Message reply;
  arrays_->write(reply, *batch_, chosen, true);
  return reply;
}

Message Hosted::do_observe() {
  batch_->observe(arrays_->prepare(batch_->rows()));
  Message reply;
  arrays_->write(reply, *batch_, {}, false);
  return reply;
}

std::vector<int64_t> Hosted::chosen_or_all(const Message& message) const {
  const auto chosen = ids(message);
  std::vector<int64_t> all(chosen.begin(), chosen.end());
  for (int64_t env = 0; chosen.empty() && env < batch_->num_envs(); ++env) all.push_back(env);
  return all;
}

Message Hosted::do_snapshot(const Message& message) {
  text_.clear();
  for (const int64_t env : chosen_or_all(message)) text_.push(batch_->save(env));
  Message reply;
  add_ragged(reply, "state", text_);
  return reply;
}

/// All or nothing: where one state is refused, those already loaded are put back.
void Hosted::load_all(const std::vector<int64_t>& ids,
                      const std::function<std::string_view(size_t)>& state) {
  std::vector<std::string> before;
  try {
    for (size_t i = 0; i < ids.size(); ++i) {
      before.push_back(batch_->save(ids[i]));
      batch_->load(ids[i], state(i));
    }
  } catch (...) {
    for (size_t i = 0; i < before.size(); ++i) batch_->load(ids[i], before[i]);
    throw;
  }
}

Message Hosted::do_restore(const Message& message) {
  const std::vector<int64_t> chosen = chosen_or_all(message);
  const Ragged states = read_ragged(message, "state", static_cast<int64_t>(chosen.size()));
  load_all(chosen, [&](size_t i) { return states.row(static_cast<int64_t>(i)); });
  return Message();
}

Message Hosted::do_fork(const Message& message) {
  const int64_t from = message.fields.integer("from");
  if (from < 0 || from >= batch_->num_envs()) {
    wire::refuse(Code::bad_value, "[env] environment ", from, " of ", batch_->num_envs());
  }
  const std::string state = batch_->save(from);
  load_all(chosen_or_all(message), [&](size_t) { return std::string_view(state); });
  return Message();
}

Message Hosted::do_render(const Message& message) {
  const Spec& spec = batch_->spec();
  Canvas canvas(spec.render_width, spec.render_height);
  batch_->render(message.fields.integer("env"), canvas);
  const auto drawn = canvas.pixels();
  pixels_.assign(drawn.begin(), drawn.end());
  Message reply;
  reply.add("pixels", Dtype::u8, {spec.render_height, spec.render_width, 3}, pixels_.data());
  return reply;
}

}  // namespace bessemer
