// Construction, evaluation and acting of PPO, and the checks that stop it at numbers that are not
// finite.
#include <cmath>

#include "trainer/ppo.h"
#ifdef BESSEMER_HAS_WIRE
#include "envs/client/remote_batch.h"
#endif

namespace bessemer {

namespace {

PolicyOptions policy_options(const ModelConfig& model) {
  using Kind = PolicyOptions::Kind;
  PolicyOptions options;
  options.kind = model.kind == "gru" ? Kind::gru : model.kind == "cnn" ? Kind::cnn : Kind::mlp;
  options.hidden = model.hidden;
  options.activation = model.activation == "relu"   ? cpu::Activation::relu
                       : model.activation == "silu" ? cpu::Activation::silu
                       : model.activation == "gelu" ? cpu::Activation::gelu
                                                    : cpu::Activation::tanh;
  options.separate = model.separate;
  options.orthogonal = model.orthogonal;
  options.policy_gain = model.policy_gain;
  options.value_gain = model.value_gain;
  options.log_std_init = model.log_std_init;
  options.sde = model.sde;
  options.recurrent_size = model.recurrent_size;
  return options;
}

EnvFactory registry_factory(const EnvConfig& env) {
  return [env](const BatchOptions& wanted) {
    BatchOptions options = wanted;
    options.options = env.options;
    options.max_episode_steps = env.max_episode_steps;
    if (!env.address) return make_batch(env.id, options);
#ifdef BESSEMER_HAS_WIRE
    return connect_batch(*env.address, env.id, options);
#else
    fail<ValueError>(
        "env.address: this build has no wire: it was made without libzmq, cppzmq and "
        "msgpack");
#endif
  };
}

void check_spec(const Spec& spec) {
  BESSEMER_CHECK(spec.rows == 1, ValueError, "ppo trains one agent an environment; ", spec.id,
                 " has ", spec.rows);
  BESSEMER_CHECK(spec.observation.size() == 1, ValueError, "ppo reads one observation channel; ",
                 spec.id, " has ", spec.observation.size());
  BESSEMER_CHECK(spec.action.size() == 1, ValueError, "ppo acts in one action channel; ", spec.id,
                 " has ", spec.action.size());
}

bool finite(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(x[i])) return false;
  return true;
}

class PpoActor : public Actor {
 public:
  PpoActor(const Policy& policy, const Normalizer& normalizer, const Channel& action,
           const RunConfig& config, bool deterministic, int64_t seed)
      : policy_(policy),
        normalizer_(normalizer),
        writer_(action, config.env.clip_actions),
        sde_sample_freq_(config.model.sde_sample_freq),
        rng_{static_cast<uint64_t>(seed), Stream::evaluation},
        deterministic_(deterministic) {}

  void act(const void* obs, const uint8_t* starts, const uint8_t* action_mask, int64_t rows,
           void* actions) override {
    if (static_cast<int64_t>(slots_.size()) != rows) {
      runner_ = std::make_unique<PolicyRunner>(policy_, normalizer_, rows, rng_);
      slots_.resize(static_cast<size_t>(rows));
      for (int64_t i = 0; i < rows; ++i) slots_[i] = i;
      chosen_.resize(static_cast<size_t>(rows * policy_.distribution().components()));
    }
    if (sde_sample_freq_ > 0 && step_ % static_cast<uint64_t>(sde_sample_freq_) == 0)
      runner_->explore(step_);
    ActRequest request;
    request.rows = rows;
    request.obs = obs;
    request.starts = starts;
    request.action_mask = action_mask;
    request.slots = slots_;
    request.counter = step_++;
    request.deterministic = deterministic_;
    runner_->act(request, {.actions = chosen_.data(), .log_prob = nullptr, .value = nullptr});
    writer_.write(rows, chosen_.data(), actions);
  }

 private:
  Policy policy_;  // shares the weights, outlives the algorithm
  Normalizer normalizer_;
  ActionWriter writer_;
  int64_t sde_sample_freq_;
  Rng rng_;
  bool deterministic_;
  std::unique_ptr<PolicyRunner> runner_;
  std::vector<int64_t> slots_;
  std::vector<float> chosen_;
  uint64_t step_ = 0;
};

}  // namespace

Ppo::Ppo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs)
    : config_(config),
      make_envs_(make_envs ? std::move(make_envs) : registry_factory(config.env)),
      pool_(pool) {
  config_.check();
  BatchOptions options;
  options.num_envs = config_.env.num;
  options.autoreset = Autoreset::same_step;
  options.pool = &pool_;
  std::unique_ptr<EnvBatch> envs = make_envs_(options);
  const Spec& spec = envs->spec();
  check_spec(spec);
  const Channel& observation = spec.observation[0];
  const auto seed = static_cast<uint64_t>(config_.seed);
  policy_ =
      std::make_unique<Policy>(observation, spec.action[0], policy_options(config_.model), seed);
  NormalizerOptions normalizer;
  normalizer.normalize_obs = config_.env.normalize_obs;
  normalizer.normalize_reward = config_.env.normalize_reward;
  normalizer.clip_obs = config_.env.clip_obs;
  normalizer.clip_reward = config_.env.clip_reward;
  normalizer.gamma = config_.trainer.gamma;
  normalizer.scale_pixels = config_.env.scale_pixels;
  normalizer_ = std::make_unique<Normalizer>(normalizer, observation.dtype, observation.numel(),
                                             envs->rows());
  SamplerOptions sampler;
  sampler.steps = config_.rollout.steps;
  sampler.seed = seed;
  sampler.gamma = config_.trainer.gamma;
  sampler.truncation_bootstrap = config_.trainer.truncation_bootstrap;
  sampler.clip_actions = config_.env.clip_actions;
  sampler.sde_sample_freq = config_.model.sde_sample_freq;
  sampler_ = std::make_unique<Sampler>(std::move(envs), *policy_, *normalizer_, sampler);
  named_ = policy_->named_parameters();
  nn::AdamOptions adam;
  adam.beta1 = config_.trainer.adam_beta1;
  adam.beta2 = config_.trainer.adam_beta2;
  adam.eps = config_.trainer.adam_eps;
  adam.weight_decay = config_.trainer.weight_decay;
  adam_ = std::make_unique<nn::Adam>(policy_->parameters(), adam);
  advantage_.resize(static_cast<size_t>(config_.rollout.steps * sampler_->rows()));
  returns_.resize(advantage_.size());
  good_.keep(*this);
}

int64_t Ppo::parameters() const {
  int64_t n = 0;
  for (const Tensor& p : adam_->parameters()) n += p.numel();
  return n;
}

int64_t Ppo::memory_bytes() const {
  // Weights, gradients, two moments and the snapshot; buffers; what a minibatch keeps for its
  // gradient.
  int64_t widths = policy_->observation_size() + policy_->distribution().outputs() + 1;
  for (int64_t width : config_.model.hidden) widths += 2 * width * (config_.model.separate ? 2 : 1);
  const int64_t floats = 7 * parameters() + 2 * static_cast<int64_t>(advantage_.size()) +
                         widths * config_.trainer.batch_size;
  return sampler_->memory_bytes() + floats * static_cast<int64_t>(sizeof(float));
}

EvalResult Ppo::evaluate(int64_t episodes, int64_t seed, bool deterministic) {
  EvaluateOptions options;
  options.episodes = episodes;
  options.seed = seed;
  options.deterministic = deterministic;
  options.clip_actions = config_.env.clip_actions;
  options.sde_sample_freq = config_.model.sde_sample_freq;
  options.pool = &pool_;
  return evaluate_policy(make_envs_, *policy_, *normalizer_, options);
}

std::unique_ptr<Actor> Ppo::actor(bool deterministic, int64_t seed) const {
  return std::make_unique<PpoActor>(*policy_, *normalizer_, spec().action[0], config_,
                                    deterministic, seed);
}

void Ppo::Snapshot::keep(const Ppo& ppo) {
  nn::NamedTensors tensors = ppo.named_;
  ppo.adam_->collect("", tensors);
  values.resize(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto from = tensors[i].second.values<float>();
    values[i].assign(from.begin(), from.end());
  }
  adam_steps = ppo.adam_->steps();
  epochs_done = ppo.epochs_done_;
}

void Ppo::Snapshot::restore(Ppo& ppo) const {
  nn::NamedTensors tensors = ppo.named_;
  ppo.adam_->collect("", tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::copy(values[i].begin(), values[i].end(), tensors[i].second.data<float>());
    tensors[i].second.bump();
  }
  ppo.adam_->set_steps(adam_steps);
  ppo.epochs_done_ = epochs_done;
}

void Ppo::check_rollout() const {
  const Rollout& data = sampler_->rollout();
  const auto check = [&](const std::vector<float>& column, const char* name) {
    BESSEMER_CHECK(finite(column.data(), static_cast<int64_t>(column.size())), NotFiniteError,
                   "[ppo] ", name, " is not finite in the rollout after step ", steps_,
                   " (the weights are those of the last good iteration)");
  };
  check(data.raw_reward, "the environment's reward");
  check(data.reward, "reward with its bootstrap");
  check(data.last_value, "value of the policy");
}

void Ppo::fail_loss(const PpoLoss& loss, const nn::ActionInputs& in, const float* value) const {
  const auto n = static_cast<int64_t>(batch_.log_prob.size());
  const char* name = nullptr;
  if (!finite(batch_.advantage.data(), n))
    name = "advantage";
  else if (!finite(in.outputs, n * policy_->distribution().outputs()))
    name = "output of policy_head";
  else if (!finite(value, n))
    name = "output of value_head";
  else if (in.log_std && !finite(in.log_std, policy_->log_std().numel()))
    name = "log_std";
  else if (!finite(batch_.log_prob.data(), n))
    name = "log_prob";
  else if (!std::isfinite(loss.value_loss))
    name = "value_loss";
  else if (!std::isfinite(loss.policy_gradient_loss))
    name = "policy_gradient_loss";
  else
    name = "entropy_loss";
  fail<NotFiniteError>("[ppo] the loss is ", loss.loss, " at update ", updates() + 1,
                       " after step ", steps_, ": the first tensor that is not finite is ", name,
                       " (the weights are those of the last good iteration)");
}

void Ppo::fail_gradient(const std::vector<Tensor>& gradients) const {
  std::string name = "global norm";
  for (size_t i = 0; i < gradients.size() && name == "global norm"; ++i) {
    if (!gradients[i]) continue;
    const Tensor dense = contiguous(gradients[i]);
    if (!finite(dense.data<float>(), dense.numel())) name = named_[i].first;
  }
  fail<NotFiniteError>("[ppo] the gradient of ", name, " is not finite at update ", updates() + 1,
                       " after step ", steps_,
                       " (the weights are those of the last good iteration)");
}

}  // namespace bessemer
