#include "trainer/actor_critic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/engine.h"
#include "core/base/trace.h"
#include "trainer/schedule.h"

namespace bessemer {

int64_t ActorCritic::learn(const Experience& experience, Totals& totals) {
  const trace::Span span("learn");
  const Rollout& data = experience.data;
  ++totals.rollouts;
  totals.faults += data.faults;
  totals.explained_variance += explained_variance(experience.old_value, experience.returns);
  const bool recurrent = policy_->state_size() > 0;
  const auto usable = [&](int64_t unit) {
    if (!recurrent) return !data.fault[unit];
    for (int64_t t = 0; t < data.steps; ++t)
      if (data.fault[t * data.rows + unit]) return false;
    return true;
  };
  std::vector<int64_t> order, samples;
  for (int64_t i = 0; i < (recurrent ? data.rows : data.steps * data.rows); ++i)
    if (data.faults == 0 || usable(i)) order.push_back(i);
  const int64_t used = static_cast<int64_t>(order.size()) * (recurrent ? data.steps : 1);
  const auto size = static_cast<size_t>(recurrent ? config_.trainer.batch_size / data.steps
                                                  : config_.trainer.batch_size);

  for (int64_t epoch = 0; epoch < config_.trainer.epochs; ++epoch) {
    if (config_.trainer.shuffle) shuffle(order);
    totals.epoch_kl = 0;
    totals.epoch_batches = 0;
    for (size_t first = 0; first < order.size(); first += size) {
      const auto units = std::span(order).subspan(first, std::min(size, order.size() - first));
      samples.clear();
      for (int64_t t = 0; t < (recurrent ? data.steps : 1); ++t)
        for (int64_t unit : units) samples.push_back(t * data.rows + unit);
      if (!update(experience, samples, static_cast<int64_t>(units.size()), totals)) return used;
    }
  }
  return used;
}

bool ActorCritic::update(const Experience& experience, std::span<const int64_t> samples,
                         int64_t sequences, Totals& totals) {
  const auto n = static_cast<int64_t>(samples.size());
  gather(experience, samples);
  const std::vector<Policy::Outputs> outputs = forward(experience.data, samples, sequences);

  const nn::ActionDistribution& distribution = policy_->distribution();
  nn::ActionInputs in;
  in.rows = n;
  in.outputs = join(outputs, &Policy::Outputs::action, batch_.outputs);
  in.features = join(outputs, &Policy::Outputs::features, batch_.features);
  in.mask = batch_.mask.empty() ? nullptr : batch_.mask.data();
  if (policy_->log_std()) in.log_std = policy_->log_std().data<float>();
  const float* value = join(outputs, &Policy::Outputs::value, batch_.new_value);
  batch_.log_prob.resize(samples.size());
  batch_.entropy.resize(samples.size());
  distribution.prepare(in, scratch_);
  distribution.evaluate(in, scratch_, batch_.actions.data(), batch_.log_prob.data(),
                        batch_.entropy.data());

  const TrainerConfig& config = config_.trainer;
  const PpoLoss loss = this->loss({batch_.log_prob,
                                   batch_.entropy,
                                   {value, samples.size()},
                                   batch_.old_log_prob,
                                   batch_.old_value,
                                   batch_.advantage,
                                   batch_.returns,
                                   batch_.weight},
                                  gradient_);
  if (!std::isfinite(loss.loss)) fail_loss(loss, in, value);
  totals.epoch_kl += loss.approx_kl;
  ++totals.epoch_batches;
  if (config.target_kl && loss.approx_kl > 1.5 * *config.target_kl) return false;

  // From the derivatives of the loss to those of the parameters.
  batch_.d_outputs.resize(static_cast<size_t>(n * distribution.outputs()));
  Tensor d_log_std;
  if (policy_->log_std()) d_log_std = Tensor::empty(policy_->log_std().sizes());
  distribution.gradient(in, scratch_, batch_.actions.data(), gradient_.log_prob.data(),
                        gradient_.entropy.data(), batch_.d_outputs.data(),
                        d_log_std ? d_log_std.data<float>() : nullptr);
  const std::vector<Tensor> gradients = backpropagate(outputs, d_log_std);

  const double norm = nn::grad_norm(gradients);  // detail 11
  if (!std::isfinite(norm)) fail_gradient(gradients);
  adam_->step(gradients, learning_rate(), nn::clip_scale(norm, config.max_grad_norm));

  totals.last = loss;
  totals.sum.policy_gradient_loss += loss.policy_gradient_loss;
  totals.sum.value_loss += loss.value_loss;
  totals.sum.entropy_loss += loss.entropy_loss;
  totals.sum.clip_fraction += loss.clip_fraction;
  totals.grad_norm += norm;
  ++totals.batches;
  return true;
}

/// The samples' columns, one after the other.
void ActorCritic::gather(const Experience& experience, std::span<const int64_t> samples) {
  const Rollout& data = experience.data;
  const auto gather = [&](const auto& from, int64_t width, auto& to) {
    to.resize(samples.size() * static_cast<size_t>(width));
    auto* out = to.data();
    for (int64_t sample : samples)
      for (int64_t c = 0; c < width; ++c) *out++ = from[sample * width + c];
  };
  gather(experience.old_log_prob.data(), 1, batch_.old_log_prob);
  gather(experience.old_value.data(), 1, batch_.old_value);
  gather(experience.advantage.data(), 1, batch_.advantage);
  gather(experience.returns.data(), 1, batch_.returns);
  if (!experience.weight.empty()) gather(experience.weight.data(), 1, batch_.weight);
  gather(data.actions.data(), data.components, batch_.actions);
  if (!data.action_mask.empty())
    gather(data.action_mask.data(), policy_->distribution().outputs(), batch_.mask);
}

/// Network inputs of samples.
Tensor ActorCritic::inputs(const Rollout& data, std::span<const int64_t> samples) const {
  Tensor x = Tensor::empty({static_cast<int64_t>(samples.size()), policy_->observation_size()});
  normalizer_->gather_inputs(samples, data.obs.data(), x.data<float>());
  return x;
}

/// One forward pass; for recurrent policies one a step, from the state that the rollout began with,
/// reset where episodes begin (details 34 and 36).
std::vector<Policy::Outputs> ActorCritic::forward(const Rollout& data,
                                                  std::span<const int64_t> samples,
                                                  int64_t sequences) const {
  std::vector<Policy::Outputs> outputs;
  const int64_t width = policy_->state_size();
  if (width == 0) {
    outputs.push_back(policy_->forward(inputs(data, samples), {}));
    return outputs;
  }
  Tensor state = Tensor::empty({sequences, width});
  for (int64_t i = 0; i < sequences; ++i)
    std::copy_n(data.state.begin() + samples[i] * width, width, state.data<float>() + i * width);
  for (size_t first = 0; first < samples.size(); first += static_cast<size_t>(sequences)) {
    const auto rows = samples.subspan(first, static_cast<size_t>(sequences));
    if (std::any_of(rows.begin(), rows.end(), [&](int64_t i) { return data.starts[i]; })) {
      Tensor keep = Tensor::empty({sequences, 1});
      for (int64_t i = 0; i < sequences; ++i)
        keep.data<float>()[i] = data.starts[rows[i]] ? 0.0f : 1.0f;
      state = state * keep;
    }
    outputs.push_back(policy_->forward(inputs(data, rows), state));
    state = outputs.back().state;
  }
  return outputs;
}

/// The elements of one output over all steps: in place for a single step, else copied to `buffer`.
const float* ActorCritic::join(const std::vector<Policy::Outputs>& outputs,
                               Tensor Policy::Outputs::*member, std::vector<float>& buffer) {
  if (!(outputs[0].*member)) return nullptr;
  if (outputs.size() == 1) return (outputs[0].*member).data<float>();
  buffer.clear();
  for (const Policy::Outputs& step : outputs) {
    const auto values = (step.*member).values<float>();
    buffer.insert(buffer.end(), values.begin(), values.end());
  }
  return buffer.data();
}

void ActorCritic::appraise(const Rollout& data, Appraisal& out) {
  NoGrad no_grad;
  const nn::ActionDistribution& distribution = policy_->distribution();
  const int64_t n = data.steps * data.rows, all = n + data.rows;
  out.log_prob.resize(static_cast<size_t>(n));
  out.value.resize(static_cast<size_t>(all));
  // Recurrent policies need a whole sequence; for others pieces bound the memory.
  constexpr int64_t kPiece = 4096;
  const int64_t piece = policy_->state_size() > 0 ? all : kPiece;
  std::vector<int64_t> samples(static_cast<size_t>(std::min(piece, all)));
  for (int64_t first = 0; first < all; first += piece) {
    const int64_t count = std::min(piece, all - first);
    std::iota(samples.begin(), samples.begin() + count, first);
    const auto outputs =
        forward(data, std::span(samples).first(static_cast<size_t>(count)), data.rows);
    std::copy_n(join(outputs, &Policy::Outputs::value, batch_.new_value), count,
                out.value.data() + first);
    nn::ActionInputs in;
    in.rows = std::min(count, n - first);  // nobody acted on the last observations
    if (in.rows <= 0) continue;
    in.outputs = join(outputs, &Policy::Outputs::action, batch_.outputs);
    in.features = join(outputs, &Policy::Outputs::features, batch_.features);
    if (!data.action_mask.empty())
      in.mask = data.action_mask.data() + first * distribution.outputs();
    if (policy_->log_std()) in.log_std = policy_->log_std().data<float>();
    distribution.prepare(in, scratch_);
    distribution.evaluate(in, scratch_, data.actions.data() + first * data.components,
                          out.log_prob.data() + first, nullptr);
  }
  out.last_value.assign(out.value.begin() + n, out.value.end());
  out.value.resize(static_cast<size_t>(n));
}

/// Gradients of all parameters, in their order; undefined where the loss does not depend on one.
std::vector<Tensor> ActorCritic::backpropagate(const std::vector<Policy::Outputs>& outputs,
                                               const Tensor& d_log_std) {
  std::vector<Tensor> roots, seeds;
  const float* d_action = batch_.d_outputs.data();
  const float* d_value = gradient_.value.data();
  for (const Policy::Outputs& step : outputs) {
    for (auto& [root, from] :
         {std::pair{step.action, &d_action}, std::pair{step.value, &d_value}}) {
      roots.push_back(root);
      seeds.push_back(Tensor::from(std::span(*from, root.numel()), root.sizes()));
      *from += root.numel();
    }
  }
  backward(roots, seeds);
  if (d_log_std) set_grad(policy_->log_std(), d_log_std);
  std::vector<Tensor> out;
  for (const Tensor& p : adam_->parameters()) {
    out.push_back(grad(p));
    clear_grad(p);
  }
  return out;
}

/// Fisher-Yates; epoch e of the run always gives the same order.
void ActorCritic::shuffle(std::vector<int64_t>& order) {
  const Rng rng{static_cast<uint64_t>(config_.seed), Stream::shuffle};
  const auto epoch = static_cast<uint64_t>(epochs_done_++);
  PhiloxBlock block{};
  for (size_t i = order.size(); i > 1; --i) {
    const size_t draw = order.size() - i;
    if (draw % 4 == 0) block = rng.at(epoch, draw / 4);
    const uint64_t j = uint64_t{block.word[draw % 4]} * i >> 32;
    std::swap(order[i - 1], order[j]);
  }
}

void ActorCritic::remember(std::span<const EpisodeEnd> episodes) {
  for (const EpisodeEnd& episode : episodes) recent_.push_back(episode);
  while (recent_.size() > 100) recent_.pop_front();
}

double ActorCritic::progress() const {
  const double done =
      static_cast<double>(steps_) / static_cast<double>(config_.trainer.total_steps);
  return std::min(done, 1.0);
}

double ActorCritic::learning_rate() const {
  return config_.trainer.lr * schedule_factor(config_.trainer.lr_schedule, progress());
}

double ActorCritic::clip_range() const {
  return config_.trainer.clip_range *
         (config_.trainer.clip_schedule == "linear" ? 1 - progress() : 1);
}

void ActorCritic::report(const Totals& totals, int64_t samples, Metrics& metrics) const {
  if (!recent_.empty()) {
    double total = 0, length = 0;
    for (const EpisodeEnd& episode : recent_) {
      total += episode.total;
      length += static_cast<double>(episode.length);
    }
    metrics.last("rollout/ep_rew_mean", total / static_cast<double>(recent_.size()));
    metrics.last("rollout/ep_len_mean", length / static_cast<double>(recent_.size()));
  }
  if (totals.faults > 0)
    metrics.add("rollout/faults", static_cast<double>(totals.faults), Reduction::sum);
  metrics.last("time/fps", static_cast<double>(timed_steps_) / seconds_);
  metrics.last("time/iterations", static_cast<double>(iterations_ + 1));
  metrics.last("time/total_timesteps", static_cast<double>(steps_ + samples));
  if (totals.batches > 0) {
    const auto n = static_cast<double>(totals.batches);
    metrics.last("train/entropy_loss", totals.sum.entropy_loss / n);
    metrics.last("train/policy_gradient_loss", totals.sum.policy_gradient_loss / n);
    metrics.last("train/value_loss", totals.sum.value_loss / n);
    metrics.last("train/clip_fraction", totals.sum.clip_fraction / n);
    metrics.last("train/grad_norm", totals.grad_norm / n);
    metrics.last("train/loss", totals.last.loss);
  }
  // As SB3: the mean over the last epoch.
  metrics.last("train/approx_kl", totals.epoch_kl / static_cast<double>(totals.epoch_batches));
  metrics.last("train/explained_variance",
               totals.explained_variance / static_cast<double>(totals.rollouts));
  metrics.last("train/learning_rate", learning_rate());
  metrics.last("train/clip_range", clip_range());
  if (config_.trainer.clip_range_vf)
    metrics.last("train/clip_range_vf", *config_.trainer.clip_range_vf);
  metrics.last("train/n_updates", static_cast<double>(updates()));
  if (policy_->log_std()) {
    double sum = 0;
    for (float x : policy_->log_std().values<float>()) sum += std::exp(static_cast<double>(x));
    metrics.last("train/std", sum / static_cast<double>(policy_->log_std().numel()));
  }
}

}  // namespace bessemer
