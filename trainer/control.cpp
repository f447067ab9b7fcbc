#include "trainer/control.h"

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

class ControlActor : public Actor {
 public:
  ControlActor(const Policy& policy, const Normalizer& normalizer, const Channel& action,
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

EnvFactory registry_factory(const EnvConfig& env, double patience) {
  return [env, patience](const BatchOptions& wanted) {
    BatchOptions options = wanted;
    options.options = env.options;
    options.max_episode_steps = env.max_episode_steps;
    if (!env.address) return make_batch(env.id, options);
#ifdef BESSEMER_HAS_WIRE
    RemoteOptions remote;
    remote.reconnect = remote.silence = patience;
    read_credentials(env.keys.value_or(""), env.token.value_or(""), remote);
    return connect_batch(*env.address, env.id, options, remote);
#else
    (void)patience;
    fail<ValueError>(
        "env.address: this build has no wire: it was made without libzmq, cppzmq and "
        "msgpack");
#endif
  };
}

EnvFactory split_factory(EnvConfig env, const Spec& spec, const std::string& split) {
  const bool has_split = std::any_of(spec.options.begin(), spec.options.end(),
                                     [](const Option& option) { return option.name == "split"; });
  if (has_split) {
    std::erase_if(env.options, [](const auto& option) { return option.first == "split"; });
    env.options.emplace_back("split", split);
  }
  return registry_factory(env);
}

void check_control_spec(const Spec& spec, std::string_view algo) {
  BESSEMER_CHECK(spec.rows == 1, ValueError, algo, " trains one agent an environment; ", spec.id,
                 " has ", spec.rows);
  BESSEMER_CHECK(spec.observation.size() == 1, ValueError, algo, " reads one observation channel; ",
                 spec.id, " has ", spec.observation.size());
  BESSEMER_CHECK(spec.action.size() == 1, ValueError, algo, " acts in one action channel; ",
                 spec.id, " has ", spec.action.size());
}

std::unique_ptr<Policy> make_policy(const Spec& spec, const RunConfig& config) {
  return std::make_unique<Policy>(spec.observation[0], spec.action[0], policy_options(config.model),
                                  static_cast<uint64_t>(config.seed));
}

std::unique_ptr<Normalizer> make_normalizer(const Spec& spec, const RunConfig& config,
                                            int64_t rows) {
  NormalizerOptions options;
  options.normalize_obs = config.env.normalize_obs;
  options.normalize_reward = config.env.normalize_reward;
  options.clip_obs = config.env.clip_obs;
  options.clip_reward = config.env.clip_reward;
  options.gamma = config.trainer.gamma;
  options.scale_pixels = config.env.scale_pixels;
  const Channel& observation = spec.observation[0];
  return std::make_unique<Normalizer>(options, observation.dtype, observation.numel(), rows);
}

SamplerOptions sampler_options(const RunConfig& config) {
  SamplerOptions options;
  options.steps = config.rollout.steps;
  options.seed = static_cast<uint64_t>(config.seed);
  options.gamma = config.trainer.gamma;
  options.truncation_bootstrap = config.trainer.truncation_bootstrap;
  options.clip_actions = config.env.clip_actions;
  options.sde_sample_freq = config.model.sde_sample_freq;
  return options;
}

RolloutShape rollout_shape(const Spec& spec, const RunConfig& config, const Policy& policy,
                           const Normalizer& normalizer, int64_t rows) {
  return {config.rollout.steps,
          rows,
          policy.distribution().components(),
          static_cast<int64_t>(normalizer.observation_bytes()),
          spec.action_mask ? policy.distribution().outputs() : 0,
          policy.state_size()};
}

std::unique_ptr<Sampler> make_sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy,
                                      const Normalizer& normalizer, const RunConfig& config,
                                      int64_t first_row) {
  SamplerOptions options = sampler_options(config);
  options.first_row = first_row;
  return std::make_unique<Sampler>(std::move(envs), policy, normalizer, options);
}

std::unique_ptr<Actor> make_actor(const Policy& policy, const Normalizer& normalizer,
                                  const Channel& action, const RunConfig& config,
                                  bool deterministic, int64_t seed) {
  return std::make_unique<ControlActor>(policy, normalizer, action, config, deterministic, seed);
}

}  // namespace bessemer
