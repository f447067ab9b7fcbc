#include "trainer/ppo.h"

#include <chrono>

#include "rollout/sampler.h"
#include "trainer/gae.h"

namespace bessemer {

Ppo::Ppo(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs,
         const SourceFactory& sources)
    : ActorCritic(config, pool, std::move(make_envs), sources.samples != nullptr) {
  if (sources.samples)
    source_ = sources.samples(source_request());
  else
    source_ = inline_sampler();
}

void Ppo::iterate(Metrics& metrics) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<EpisodeEnd> episodes;
  const Rollout& data = source_->rollout();
  try {
    source_->collect(updates(), episodes);
    check_rollout(data);
    keep_good();  // finite over a whole rollout
    advantage_.resize(data.reward.size());
    returns_.resize(data.reward.size());
    gae({data.steps, data.rows, data.reward.data(), data.value.data(), data.ended.data(),
         data.last_value.data(), config_.trainer.gamma, config_.trainer.gae_lambda},
        advantage_.data(), returns_.data());
    Totals totals;
    learn({data, data.log_prob, data.value, advantage_, returns_}, totals);
    normalizer_->update(data.steps, data.obs.data(), data.raw_reward.data(), data.ended.data());
    remember(episodes);
    const auto spent = std::chrono::steady_clock::now() - start;
    seconds_ += std::chrono::duration<double>(spent).count();
    const int64_t samples = data.steps * data.rows;
    timed_steps_ += samples;
    report(totals, samples, metrics);
    steps_ += samples;
    ++iterations_;
  } catch (const NotFiniteError&) {
    restore_good();
    throw;
  }
}

PpoLoss Ppo::loss(const PpoBatch& batch, PpoGradient& gradient) const {
  const TrainerConfig& config = config_.trainer;
  PpoLossOptions options;
  options.clip_range = clip_range();
  options.clip_range_vf = config.clip_range_vf;
  options.normalize_advantage = config.normalize_advantage;
  options.ent_coef = config.ent_coef;
  options.vf_coef = config.vf_coef;
  return ppo_loss(batch, options, gradient);
}

}  // namespace bessemer
