#include "rollout/source.h"

#include <algorithm>

#include "core/base/error.h"

namespace bessemer {

Rollout make_rollout(const RolloutShape& shape) {
  const int64_t samples = shape.steps * shape.rows, states = samples + shape.rows;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  Rollout out;
  out.steps = shape.steps;
  out.rows = shape.rows;
  out.components = shape.components;
  out.obs.resize(size(states * shape.obs_bytes));
  out.action_mask.resize(size(states * shape.mask_width));
  out.actions.resize(size(samples * shape.components));
  for (auto* column : {&out.log_prob, &out.value, &out.raw_reward, &out.reward})
    column->resize(size(samples));
  out.ended.resize(size(samples));
  out.fault.resize(size(samples));
  out.starts.resize(size(states));
  out.version.resize(size(samples));
  out.state.resize(size(shape.rows * shape.state_size));
  out.last_value.resize(size(shape.rows));
  return out;
}

int64_t rollout_bytes(const Rollout& rollout) {
  size_t bytes = rollout.obs.size() + rollout.action_mask.size() + rollout.ended.size() +
                 rollout.fault.size() + rollout.starts.size() +
                 rollout.version.size() * sizeof(int64_t);
  for (const auto* column :
       {&rollout.actions, &rollout.log_prob, &rollout.value, &rollout.raw_reward, &rollout.reward,
        &rollout.state, &rollout.last_value})
    bytes += column->size() * sizeof(float);
  return static_cast<int64_t>(bytes);
}

int64_t rollout_bytes(const RolloutShape& s) {
  constexpr int64_t kFloat = sizeof(float);
  const int64_t a_state = s.obs_bytes + s.mask_width + 1,
                a_sample = (s.components + 4) * kFloat + 2 + static_cast<int64_t>(sizeof(int64_t)),
                a_row = (s.state_size + 1) * kFloat;
  return s.rows * ((s.steps + 1) * a_state + s.steps * a_sample + a_row);
}

void SourceState::append(const SourceState& next) {
  const auto add = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  add(counter, next.counter);
  add(starts, next.starts);
  add(states, next.states);
  add(envs, next.envs);
}

SourceState SourceState::slice(int64_t first, int64_t count) const {
  BESSEMER_CHECK(first >= 0 && count >= 0 && first + count <= rows(), IndexError, "rows ", first,
                 " to ", first + count, " of a state of ", rows());
  const auto cut = [&](const auto& column) {
    // entries a row; an environment may have several rows, but never part of one
    const auto begin = static_cast<int64_t>(column.size()) * first / std::max<int64_t>(rows(), 1);
    const auto end =
        static_cast<int64_t>(column.size()) * (first + count) / std::max<int64_t>(rows(), 1);
    return std::decay_t<decltype(column)>(column.begin() + begin, column.begin() + end);
  };
  SourceState out;
  out.counter = cut(counter);
  out.starts = cut(starts);
  out.states = cut(states);
  out.envs = cut(envs);
  return out;
}

}  // namespace bessemer
