// Construction, evaluation and acting, and the checks that stop a run at numbers that are not
// finite.
#include <cmath>

#include "rollout/sampler.h"
#include "trainer/actor_critic.h"
#include "trainer/control.h"

namespace bessemer {

ActorCritic::ActorCritic(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs,
                         bool elsewhere)
    : config_(config),
      make_envs_(make_envs ? std::move(make_envs)
                           : registry_factory(config.env, config.placement.lease)),
      pool_(pool) {
  config_.check();
  const int64_t rows = config_.env.num;
  BatchOptions options;
  options.num_envs = elsewhere ? 1 : rows;  // elsewhere: one, for what it says of itself
  options.autoreset = Autoreset::same_step;
  options.pool = &pool_;
  envs_ = make_envs_(options);
  spec_ = envs_->spec();
  exact_resume_ = envs_->can_save();
  check_control_spec(spec_, config_.trainer.algo);
  policy_ = make_policy(spec_, config_);
  normalizer_ = make_normalizer(spec_, config_, rows);
  if (elsewhere) envs_.reset();
  named_ = policy_->named_parameters();
  nn::AdamOptions adam;
  adam.beta1 = config_.trainer.adam_beta1;
  adam.beta2 = config_.trainer.adam_beta2;
  adam.eps = config_.trainer.adam_eps;
  adam.weight_decay = config_.trainer.weight_decay;
  adam_ = std::make_unique<nn::Adam>(policy_->parameters(), adam);
  keep_good();
}

std::unique_ptr<Sampler> ActorCritic::inline_sampler() {
  return make_sampler(std::move(envs_), *policy_, *normalizer_, config_);
}

SourceRequest ActorCritic::source_request() const {
  const int64_t rows = config_.env.num;
  return {*policy_, *normalizer_, rows, rollout_shape(spec_, config_, *policy_, *normalizer_, rows),
          sampler_options(config_)};
}

int64_t ActorCritic::parameters() const {
  int64_t n = 0;
  for (const Tensor& p : adam_->parameters()) n += p.numel();
  return n;
}

int64_t ActorCritic::memory_bytes() const {
  // Weights, gradients, two moments and the snapshot; buffers; what a minibatch keeps for its
  // gradient.
  int64_t widths = policy_->observation_size() + policy_->distribution().outputs() + 1;
  for (int64_t width : config_.model.hidden) widths += 2 * width * (config_.model.separate ? 2 : 1);
  const int64_t floats = 7 * parameters() + 2 * config_.rollout.steps * config_.env.num +
                         widths * config_.trainer.batch_size;
  return source_bytes() + floats * static_cast<int64_t>(sizeof(float));
}

EvalResult ActorCritic::evaluate(int64_t episodes, int64_t seed, bool deterministic) {
  EvaluateOptions options;
  options.episodes = episodes;
  options.seed = seed;
  options.deterministic = deterministic;
  options.clip_actions = config_.env.clip_actions;
  options.sde_sample_freq = config_.model.sde_sample_freq;
  // A server lends few instances; training has as many, so these are there.
  if (config_.env.address) options.at_once = config_.env.num;
  options.pool = &pool_;
  return evaluate_policy(make_envs_, *policy_, *normalizer_, options);
}

std::unique_ptr<Actor> ActorCritic::actor(bool deterministic, int64_t seed) const {
  return make_actor(*policy_, *normalizer_, spec_.action[0], config_, deterministic, seed);
}

void ActorCritic::keep_good() {
  good_.keep(named_, *adam_);
  good_epochs_done_ = epochs_done_;
}

void ActorCritic::restore_good() {
  good_.restore(named_, *adam_);
  epochs_done_ = good_epochs_done_;
}

void ActorCritic::check_finite(std::span<const float> column, const char* name) const {
  BESSEMER_CHECK(all_finite(column), NotFiniteError, "[", config_.trainer.algo, "] ", name,
                 " is not finite in the rollout after step ", steps_,
                 " (the weights are those of the last good iteration)");
}

void ActorCritic::check_rollout(const Rollout& data) const {
  check_finite(data.raw_reward, "the environment's reward");
  check_finite(data.reward, "reward with its bootstrap");
  check_finite(data.last_value, "value of the policy");
}

void ActorCritic::fail_loss(const PpoLoss& loss, const nn::ActionInputs& in,
                            const float* value) const {
  const size_t n = batch_.log_prob.size();
  const auto outputs = static_cast<size_t>(policy_->distribution().outputs());
  const char* name = nullptr;
  if (!all_finite(std::span(batch_.advantage).first(n)))
    name = "advantage";
  else if (!all_finite({in.outputs, n * outputs}))
    name = "output of policy_head";
  else if (!all_finite({value, n}))
    name = "output of value_head";
  else if (in.log_std && !all_finite(policy_->log_std().values<float>()))
    name = "log_std";
  else if (!all_finite(batch_.log_prob))
    name = "log_prob";
  else if (!std::isfinite(loss.value_loss))
    name = "value_loss";
  else if (!std::isfinite(loss.policy_gradient_loss))
    name = "policy_gradient_loss";
  else
    name = "entropy_loss";
  fail<NotFiniteError>("[", config_.trainer.algo, "] the loss is ", loss.loss, " at update ",
                       updates() + 1, " after step ", steps_,
                       ": the first tensor that is not finite is ", name,
                       " (the weights are those of the last good iteration)");
}

void ActorCritic::fail_gradient(const std::vector<Tensor>& gradients) const {
  const std::string_view name = first_not_finite(named_, gradients);
  fail<NotFiniteError>("[", config_.trainer.algo, "] the gradient of ",
                       name.empty() ? "global norm" : name, " is not finite at update ",
                       updates() + 1, " after step ", steps_,
                       " (the weights are those of the last good iteration)");
}

}  // namespace bessemer
