#include "rollout/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace bessemer {

Sampler::Sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy, Normalizer& normalizer,
                 const SamplerOptions& options)
    : envs_(std::move(envs)),
      policy_(policy),
      normalizer_(normalizer),
      options_(options),
      runner_(policy, normalizer, envs_->rows(), {options.seed, Stream::action}),
      writer_(envs_->spec().action.at(0), options.clip_actions) {
  BESSEMER_CHECK(envs_->autoreset() == Autoreset::same_step, ValueError,
                 "[sampler] needs environments that reset in the same step");
  const int64_t rows = envs_->rows(), samples = options.steps * rows;
  const size_t obs_bytes = normalizer.observation_bytes();
  Rollout& out = rollout_;
  out.steps = options.steps;
  out.rows = rows;
  out.components = policy.distribution().components();
  out.obs.resize(static_cast<size_t>(samples + rows) * obs_bytes);
  if (envs_->spec().action_mask)
    out.action_mask.resize(static_cast<size_t>((samples + rows) * policy.distribution().outputs()));
  out.actions.resize(static_cast<size_t>(samples * out.components));
  for (auto* column : {&out.log_prob, &out.value, &out.raw_reward, &out.reward})
    column->resize(static_cast<size_t>(samples));
  out.ended.resize(static_cast<size_t>(samples));
  out.fault.resize(static_cast<size_t>(samples));
  out.starts.resize(static_cast<size_t>(samples + rows));
  out.version.resize(static_cast<size_t>(samples));
  out.last_value.resize(static_cast<size_t>(rows));

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

  // Seeds from a stream of their own, so that runs with neighbouring seeds share no episode.
  std::vector<uint64_t> seeds(static_cast<size_t>(envs_->num_envs()));
  const Rng rng{options.seed, Stream::environment};
  for (size_t i = 0; i < seeds.size(); ++i) {
    const PhiloxBlock block = rng.at(i);
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

void Sampler::restore(int64_t counter, std::vector<uint8_t> starts, std::vector<float> states) {
  BESSEMER_CHECK(
      starts.size() == current_starts_.size() && states.size() == runner_.states().size(),
      ValueError, "[sampler] the saved state is of ", starts.size(), " environments, here are ",
      current_starts_.size());
  counter_ = counter;
  current_starts_ = std::move(starts);
  runner_.states() = std::move(states);
  StepBuffers out;
  out.obs = buffers_.obs;
  out.obs[0] = obs_at(rollout_.steps);
  out.action_mask = mask_at(rollout_.steps);
  envs_->observe(out);
}

void Sampler::collect(int64_t version, std::vector<EpisodeEnd>& episodes) {
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
}

/// Throws NotFiniteError where step t's log-probabilities or values are not finite.
void Sampler::check_finite(int64_t t) const {
  for (int64_t r = 0; r < rollout_.rows; ++r) {
    const int64_t i = t * rollout_.rows + r;
    if (std::isfinite(rollout_.log_prob[i]) && std::isfinite(rollout_.value[i])) continue;
    fail<NotFiniteError>("[sampler] the policy's ",
                         std::isfinite(rollout_.log_prob[i]) ? "value" : "log_prob",
                         " is not finite for environment ", r, " at its step ", counter_ - 1);
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

void Sampler::update_statistics() {
  normalizer_.update(rollout_.steps, rollout_.obs.data(), rollout_.raw_reward.data(),
                     rollout_.ended.data());
}

int64_t Sampler::memory_bytes() const {
  const Rollout& r = rollout_;
  size_t bytes = r.obs.size() + r.action_mask.size() + r.ended.size() + r.fault.size() +
                 r.starts.size() + r.version.size() * sizeof(int64_t);
  for (const auto* column : {&r.actions, &r.log_prob, &r.value, &r.raw_reward, &r.reward, &r.state})
    bytes += column->size() * sizeof(float);
  return static_cast<int64_t>(bytes);
}

}  // namespace bessemer
