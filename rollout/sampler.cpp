#include "rollout/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/base/trace.h"

namespace bessemer {

Sampler::Sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy, const Normalizer& normalizer,
                 const SamplerOptions& options)
    : envs_(std::move(envs)),
      policy_(policy),
      normalizer_(normalizer),
      options_(options),
      runner_(policy, normalizer, envs_->rows(), {options.seed, Stream::action}, options.first_row),
      writer_(envs_->spec().action.at(0), options.clip_actions) {
  BESSEMER_CHECK(envs_->autoreset() == Autoreset::same_step, ValueError,
                 "[sampler] needs environments that reset in the same step");
  const int64_t rows = envs_->rows();
  const size_t obs_bytes = normalizer.observation_bytes();
  rollout_ = make_rollout(
      {options.steps, rows, policy.distribution().components(), static_cast<int64_t>(obs_bytes),
       envs_->spec().action_mask ? policy.distribution().outputs() : 0, policy.state_size()});
  slots_.resize(static_cast<size_t>(rows));
  std::iota(slots_.begin(), slots_.end(), 0);
  current_starts_.assign(static_cast<size_t>(rows), 1);
  for (auto* column : {&terminated_, &truncated_}) column->resize(static_cast<size_t>(rows));
  episode_return_.resize(static_cast<size_t>(rows));
  episode_length_.resize(static_cast<size_t>(rows));
  action_bytes_.resize(static_cast<size_t>(rows) * writer_.bytes());
  final_obs_.resize(static_cast<size_t>(rows) * obs_bytes);
  const size_t channels = envs_->spec().observation.size();
  buffers_.obs.assign(channels, nullptr);
  buffers_.final_obs.assign(channels, nullptr);
  buffers_.final_obs[0] = final_obs_.data();
  buffers_.terminated = terminated_.data();
  buffers_.truncated = truncated_.data();
  buffers_.episode_return = episode_return_.data();
  buffers_.episode_length = episode_length_.data();

  reset_all();
}

/// Seeds from a stream of their own, so that runs with neighbouring seeds share no episode; other
/// ones where a run goes on without the state of its environments.
void Sampler::reset_all() {
  std::vector<uint64_t> seeds(static_cast<size_t>(envs_->num_envs()));
  const Rng rng{options_.seed, Stream::environment};
  const auto first = static_cast<uint64_t>(options_.first_row / envs_->spec().rows);
  for (size_t i = 0; i < seeds.size(); ++i) {
    const PhiloxBlock block = rng.at(first + i, static_cast<uint64_t>(counter_));
    seeds[i] = (uint64_t{block.word[0]} << 32 | block.word[1]) >> 1;
  }
  buffers_.obs[0] = obs_at(options_.steps);
  buffers_.action_mask = mask_at(options_.steps);
  envs_->reset(seeds, {}, {}, buffers_);
}

std::byte* Sampler::obs_at(int64_t t) {
  return rollout_.obs.data() +
         static_cast<size_t>(t * rollout_.rows) * normalizer_.observation_bytes();
}

uint8_t* Sampler::mask_at(int64_t t) {
  if (rollout_.action_mask.empty()) return nullptr;
  return rollout_.action_mask.data() + t * rollout_.rows * policy_.distribution().outputs();
}

SourceState Sampler::state() const { return kept_ ? *kept_ : current_state(); }

SourceState Sampler::current_state() const {
  SourceState out;
  out.counter.assign(static_cast<size_t>(rollout_.rows), counter_);
  out.starts = current_starts_;
  out.states = runner_.states();
  if (envs_->can_save()) {
    out.envs = envs_->save_all();
  } else {
    out.envs.resize(static_cast<size_t>(envs_->num_envs()));  // empty: they begin anew
  }
  return out;
}

void Sampler::restore(const SourceState& state) {
  BESSEMER_CHECK(state.starts.size() == current_starts_.size() &&
                     state.counter.size() == current_starts_.size() &&
                     state.states.size() == runner_.states().size() &&
                     static_cast<int64_t>(state.envs.size()) == envs_->num_envs(),
                 ValueError, "[sampler] the saved state is of ", state.envs.size(),
                 " environments, here are ", envs_->num_envs());
  kept_.reset();
  // Rows that asynchronous workers left at different steps go on from the latest: no draw is taken
  // twice.
  counter_ = *std::max_element(state.counter.begin(), state.counter.end());
  current_starts_ = state.starts;
  runner_.states() = state.states;
  if (std::all_of(state.envs.begin(), state.envs.end(), [](auto& env) { return env.empty(); })) {
    reset_all();
    std::fill(current_starts_.begin(), current_starts_.end(), 1);
    return;
  }
  for (int64_t env = 0; env < envs_->num_envs(); ++env) envs_->load(env, state.envs[env]);
  StepBuffers out;
  out.obs = buffers_.obs;
  out.obs[0] = obs_at(rollout_.steps);
  out.action_mask = mask_at(rollout_.steps);
  envs_->observe(out);
}

void Sampler::collect(int64_t version, std::vector<EpisodeEnd>& episodes) {
  const trace::Span span("collect");
  if (envs_->remote() && !kept_) kept_ = current_state();
  Rollout& out = rollout_;
  const int64_t rows = out.rows;
  // What came next becomes the first observation (detail 1: environments run on).
  std::memcpy(obs_at(0), obs_at(out.steps), obs_at(1) - obs_at(0));
  if (mask_at(0)) std::memcpy(mask_at(0), mask_at(out.steps), mask_at(1) - mask_at(0));
  std::copy(current_starts_.begin(), current_starts_.end(), out.starts.begin());
  out.state = runner_.states();
  out.faults = 0;
  cut_samples_.clear();
  cut_obs_.clear();
  cut_states_.clear();
  std::fill(out.version.begin(), out.version.end(), version);

  for (int64_t t = 0; t < out.steps; ++t) {
    const bool again = options_.sde_sample_freq > 0 && t % options_.sde_sample_freq == 0;
    if (t == 0 || again) runner_.explore(static_cast<uint64_t>(counter_));
    const int64_t at = t * rows;
    ActRequest request;
    request.rows = rows;
    request.obs = obs_at(t);
    request.starts = out.starts.data() + at;
    request.action_mask = mask_at(t);
    request.slots = slots_;
    request.counter = static_cast<uint64_t>(counter_++);
    float* actions = out.actions.data() + at * out.components;
    runner_.act(request, {actions, out.log_prob.data() + at, out.value.data() + at});
    check_finite(t);
    writer_.write(rows, actions, action_bytes_.data());
    buffers_.obs[0] = obs_at(t + 1);
    buffers_.action_mask = mask_at(t + 1);
    buffers_.reward = out.raw_reward.data() + at;
    buffers_.fault = out.fault.data() + at;
    envs_->step({action_bytes_.data(), nullptr}, buffers_);
    finish_step(t, episodes);
  }
  std::copy(out.starts.end() - rows, out.starts.end(), current_starts_.begin());

  std::vector<float> states = runner_.states();
  const int64_t width = policy_.state_size();
  for (int64_t r = 0; r < rows && width > 0; ++r)
    if (current_starts_[r]) std::fill_n(states.begin() + r * width, width, 0.0f);
  runner_.values(rows, obs_at(out.steps), states.data(), out.last_value.data());
  bootstrap();
  if (envs_->remote()) kept_ = current_state();
}

/// Throws NotFiniteError where step t's log-probabilities or values are not finite.
void Sampler::check_finite(int64_t t) const {
  for (int64_t r = 0; r < rollout_.rows; ++r) {
    const int64_t i = t * rollout_.rows + r;
    if (std::isfinite(rollout_.log_prob[i]) && std::isfinite(rollout_.value[i])) continue;
    fail<NotFiniteError>(
        "[sampler] the policy's ", std::isfinite(rollout_.log_prob[i]) ? "value" : "log_prob",
        " is not finite for environment ", options_.first_row + r, " at its step ", counter_ - 1);
  }
}

/// Rewards, ends and statistics of the step just taken, in row order.
void Sampler::finish_step(int64_t t, std::vector<EpisodeEnd>& episodes) {
  Rollout& out = rollout_;
  const size_t obs_bytes = normalizer_.observation_bytes();
  const int64_t width = policy_.state_size();
  for (int64_t r = 0; r < out.rows; ++r) {
    const int64_t i = t * out.rows + r;
    const bool ended = terminated_[r] || truncated_[r] || out.fault[i];
    out.ended[i] = ended;
    out.starts[i + out.rows] = ended;
    out.reward[i] = normalizer_.reward(out.raw_reward[i]);
    if (out.fault[i]) {
      // No outcome to learn from: with the value as reward the sample's advantage is 0, and what
      // came before it is judged by its value.
      out.reward[i] = out.value[i];
      out.raw_reward[i] = 0;
      ++out.faults;
      out.fault_reason = envs_->fault_reason(r);
      continue;
    }
    if (!ended) continue;
    episodes.push_back({episode_return_[r], episode_length_[r]});
    if (truncated_[r] && !terminated_[r] && options_.truncation_bootstrap) {
      cut_samples_.push_back(i);
      const std::byte* last = final_obs_.data() + static_cast<size_t>(r) * obs_bytes;
      cut_obs_.insert(cut_obs_.end(), last, last + obs_bytes);
      const float* state = runner_.states().data() + r * width;
      cut_states_.insert(cut_states_.end(), state, state + width);
    }
  }
}

/// reward += gamma * V(final observation) where a time limit, not the task, ended the episode
/// (Pardo et al. 2018, "Time Limits in Reinforcement Learning").
void Sampler::bootstrap() {
  std::vector<float> values(cut_samples_.size());
  runner_.values(static_cast<int64_t>(values.size()), cut_obs_.data(), cut_states_.data(),
                 values.data());
  for (size_t i = 0; i < values.size(); ++i)
    rollout_.reward[cut_samples_[i]] += static_cast<float>(options_.gamma * values[i]);
}

}  // namespace bessemer
