#include "rollout/sample_message.h"

#include <algorithm>
#include <cstring>

namespace bessemer {

using wire::Code;
using wire::Message;

namespace {

/// Calls visit(name, column, entries of a row, numbers of an entry) for every column that a rollout
/// of this shape has.
template <class R, class Visit>
void each_column(R& r, const RolloutShape& s, const Visit& call) {
  const auto visit = [&](const char* name, auto& column, int64_t times, int64_t width) {
    if (width > 0) call(name, column, times, width);
  };
  visit("obs", r.obs, s.steps + 1, s.obs_bytes);
  visit("action_mask", r.action_mask, s.steps + 1, s.mask_width);
  visit("actions", r.actions, s.steps, s.components);
  visit("log_prob", r.log_prob, s.steps, 1);
  visit("value", r.value, s.steps, 1);
  visit("raw_reward", r.raw_reward, s.steps, 1);
  visit("reward", r.reward, s.steps, 1);
  visit("ended", r.ended, s.steps, 1);
  visit("fault", r.fault, s.steps, 1);
  visit("starts", r.starts, s.steps + 1, 1);
  visit("state", r.state, 1, s.state_size);
  visit("last_value", r.last_value, 1, 1);
}

template <class T>
constexpr Dtype column_dtype(const Column<T>&) {
  return sizeof(T) == 1 ? Dtype::u8 : Dtype::f32;
}

RolloutShape shape_of(const Rollout& r) {
  const int64_t states = (r.steps + 1) * r.rows;
  const auto of = [](size_t size, int64_t rows) {
    return rows > 0 ? static_cast<int64_t>(size) / rows : 0;
  };
  return {r.steps,
          r.rows,
          r.components,
          of(r.obs.size(), states),
          of(r.action_mask.size(), states),
          of(r.state.size(), r.rows)};
}

}  // namespace

RolloutMessage::RolloutMessage(const Rollout& rollout_, const std::vector<EpisodeEnd>& episodes)
    : rollout(rollout_) {
  for (const EpisodeEnd& episode : episodes) {
    totals.push_back(episode.total);
    lengths.push_back(episode.length);
  }
}

void RolloutMessage::write(Message& message) const {
  message.fields.set("kind", "control");
  message.fields.set("faults", rollout.faults);
  if (rollout.faults > 0) message.fields.set("fault_reason", rollout.fault_reason);
  each_column(
      rollout, shape_of(rollout),
      [&](const char* name, const auto& column, int64_t times, int64_t width) {
        message.add(name, column_dtype(column), {times, rollout.rows, width}, column.data());
      });
  const auto episodes = static_cast<int64_t>(totals.size());
  message.add("episodes.total", Dtype::f64, {episodes}, totals.data());
  message.add("episodes.length", Dtype::i64, {episodes}, lengths.data());
}

void check_rollout_message(const Message& message, const RolloutShape& shape) {
  if (const std::string& kind = message.fields.text("kind"); kind != "control") {
    wire::refuse(Code::bad_value, "[samples] rows of kind '", kind, "', expected control");
  }
  const Rollout none;
  each_column(none, shape, [&](const char* name, const auto& column, int64_t times, int64_t width) {
    const int64_t wanted[] = {times, shape.rows, width};
    (void)message.array(name, column_dtype(column), wanted);
  });
  (void)message.fields.count("faults");
  const int64_t episodes[] = {message.array("episodes.total").numel()};
  (void)message.array("episodes.total", Dtype::f64, episodes);
  (void)message.array("episodes.length", Dtype::i64, episodes);
}

void read_rollout_rows(const Message& message, const RolloutShape& shape, int64_t first_row,
                       Rollout& into) {
  each_column(into, shape, [&](const char* name, auto& column, int64_t times, int64_t width) {
    const auto* from = static_cast<const char*>(message.array(name).data);
    const size_t row = static_cast<size_t>(width) * sizeof(column[0]),
                 some = row * static_cast<size_t>(shape.rows),
                 all = row * static_cast<size_t>(into.rows);
    char* to = reinterpret_cast<char*>(column.data()) + row * static_cast<size_t>(first_row);
    if (some == all) {
      std::memcpy(to, from, all * static_cast<size_t>(times));
    } else {
      for (int64_t t = 0; t < times; ++t, to += all, from += some) std::memcpy(to, from, some);
    }
  });
  into.faults += static_cast<int64_t>(message.fields.count("faults"));
}

Rollout read_rollout(const Message& message, const RolloutShape& shape) {
  Rollout out;
  out.steps = shape.steps;
  out.rows = shape.rows;
  out.components = shape.components;
  out.version.resize(static_cast<size_t>(shape.steps * shape.rows));
  each_column(out, shape,
              [&]<class T>(const char* name, Column<T>& column, int64_t times, int64_t width) {
                auto* data = static_cast<T*>(message.array(name).data);
                const auto size = static_cast<size_t>(times * shape.rows * width);
                if (reinterpret_cast<uintptr_t>(data) % alignof(T) == 0) {
                  column = Column<T>::view(data, size, message.storage);
                } else {  // small frames of a socket may lie anywhere
                  column.resize(size);
                  std::memcpy(column.data(), data, size * sizeof(T));
                }
              });
  out.faults = static_cast<int64_t>(message.fields.count("faults"));
  out.fault_reason = message.fields.text("fault_reason", "");
  return out;
}

std::vector<EpisodeEnd> read_episodes(const Message& message) {
  const auto totals = message.array("episodes.total").as<const double>();
  const auto lengths = message.array("episodes.length").as<const int64_t>();
  std::vector<EpisodeEnd> out;
  for (size_t i = 0; i < totals.size(); ++i) out.push_back({totals[i], lengths[i]});
  return out;
}

StateMessage::StateMessage(const SourceState& state_) : state(state_) {
  for (const std::string& env : state.envs) {
    bytes.insert(bytes.end(), env.begin(), env.end());
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
}

void StateMessage::write(Message& message) const {
  const int64_t rows = state.rows();
  message.add("state.counter", Dtype::i64, {rows}, state.counter.data());
  message.add("state.starts", Dtype::u8, {rows}, state.starts.data());
  const int64_t width = rows > 0 ? static_cast<int64_t>(state.states.size()) / rows : 0;
  message.add("state.states", Dtype::f32, {rows, width}, state.states.data());
  message.add("state.envs.offsets", Dtype::i64, {static_cast<int64_t>(offsets.size())},
              offsets.data());
  message.add("state.envs.bytes", Dtype::u8, {static_cast<int64_t>(bytes.size())}, bytes.data());
}

std::optional<SourceState> read_state(const Message& message, int64_t rows) {
  if (!message.find("state.counter")) return std::nullopt;
  const int64_t one[] = {rows};
  const auto values = [](const auto& from, auto& to) { to.assign(from.begin(), from.end()); };
  SourceState state;
  values(message.array("state.counter", Dtype::i64, one).as<const int64_t>(), state.counter);
  values(message.array("state.starts", Dtype::u8, one).as<const uint8_t>(), state.starts);
  const ArrayView& states = message.array("state.states");
  if (states.dtype != Dtype::f32 || states.ndim != 2 || states.shape[0] != rows) {
    wire::refuse(Code::bad_type, "[samples] 'state.states' is ", dtype_name(states.dtype), " ",
                 states.dims(), ", expected float32 (", rows, ", n)");
  }
  values(states.as<const float>(), state.states);
  const ArrayView& offsets = message.array("state.envs.offsets");
  const ArrayView& bytes = message.array("state.envs.bytes");
  if (offsets.dtype != Dtype::i64 || offsets.ndim != 1 || bytes.dtype != Dtype::u8) {
    wire::refuse(Code::bad_type, "[samples] the environments' states are ",
                 dtype_name(offsets.dtype), " ", offsets.dims(), " and ", dtype_name(bytes.dtype));
  }
  const auto at = offsets.as<const int64_t>();
  if (at.empty() || at.front() != 0 || at.back() != bytes.numel() || !std::ranges::is_sorted(at)) {
    wire::refuse(Code::malformed, "[samples] 'state.envs.offsets' do not rise from 0 to ",
                 bytes.numel());
  }
  for (size_t i = 0; i + 1 < at.size(); ++i)
    state.envs.emplace_back(static_cast<const char*>(bytes.data) + at[i],
                            static_cast<size_t>(at[i + 1] - at[i]));
  return state;
}

}  // namespace bessemer
