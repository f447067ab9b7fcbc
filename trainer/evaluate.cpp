#include "trainer/evaluate.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "rollout/runner.h"

namespace bessemer {

EvalResult evaluate_policy(const EnvFactory& make_envs, const Policy& policy,
                           const Normalizer& normalizer, const EvaluateOptions& options) {
  EvalResult result;
  result.returns.resize(static_cast<size_t>(options.episodes));
  result.lengths.resize(static_cast<size_t>(options.episodes));
  const size_t obs_bytes = normalizer.observation_bytes();
  const Rng rng{static_cast<uint64_t>(options.seed), Stream::evaluation};
  PolicyRunner runner(policy, normalizer, options.episodes, rng);
  for (int64_t first = 0; first < options.episodes; first += options.at_once) {
    const int64_t wave = std::min(options.at_once, options.episodes - first);
    BatchOptions batch;
    batch.num_envs = wave;
    batch.autoreset = Autoreset::disabled;
    batch.pool = options.pool;
    const std::unique_ptr<EnvBatch> envs = make_envs(batch);
    const Channel& action = envs->spec().action.at(0);
    const ActionWriter writer(action, options.clip_actions);
    const int64_t outputs = envs->spec().action_mask ? policy.distribution().outputs() : 0;
    std::vector<std::byte> obs(static_cast<size_t>(wave) * obs_bytes),
        actions(static_cast<size_t>(wave) * writer.bytes());
    std::vector<float> chosen(static_cast<size_t>(wave * policy.distribution().components()));
    std::vector<uint8_t> terminated(wave), truncated(wave), fault(wave), starts(wave, 1);
    std::vector<uint8_t> mask(static_cast<size_t>(wave * outputs));
    std::vector<float> returns(wave);
    std::vector<int64_t> lengths(wave), ids(wave), slots(wave);
    std::vector<uint64_t> seeds(wave);
    StepBuffers buffers;
    buffers.obs.assign(envs->spec().observation.size(), nullptr);
    buffers.obs[0] = obs.data();
    buffers.terminated = terminated.data();
    buffers.truncated = truncated.data();
    buffers.fault = fault.data();
    buffers.action_mask = outputs ? mask.data() : nullptr;
    buffers.episode_return = returns.data();
    buffers.episode_length = lengths.data();
    for (int64_t i = 0; i < wave; ++i)
      seeds[i] = static_cast<uint64_t>(options.seed) + static_cast<uint64_t>(first + i);
    envs->reset(seeds, {}, {}, buffers);
    std::iota(ids.begin(), ids.end(), 0);

    int64_t active = wave;
    for (uint64_t step = 0; active > 0; ++step) {
      if (step > 0 && options.sde_sample_freq > 0 &&
          step % static_cast<uint64_t>(options.sde_sample_freq) == 0)
        runner.explore(step);
      for (int64_t i = 0; i < active; ++i) slots[i] = first + ids[i];
      ActRequest request;
      request.rows = active;
      request.obs = obs.data();
      request.starts = step == 0 ? starts.data() : nullptr;
      request.action_mask = buffers.action_mask;
      request.slots = slots;
      request.counter = step;
      request.deterministic = options.deterministic;
      runner.act(request, {.actions = chosen.data(), .log_prob = nullptr, .value = nullptr});
      writer.write(active, chosen.data(), actions.data());
      envs->send({actions.data(), nullptr}, std::span(ids).first(active));
      const int64_t received = envs->recv(active, buffers, ids);
      // Rows of episodes that go on move to the front.
      int64_t kept = 0;
      for (int64_t i = 0; i < received; ++i) {
        const int64_t episode = first + ids[i];
        BESSEMER_CHECK(!fault[i], Error, "[evaluate] episode ", episode,
                       " failed: ", envs->fault_reason(ids[i]));
        if (terminated[i] || truncated[i]) {
          result.returns[episode] = returns[i];
          result.lengths[episode] = lengths[i];
          continue;
        }
        if (kept != i) {
          std::memcpy(obs.data() + kept * obs_bytes, obs.data() + i * obs_bytes, obs_bytes);
          std::copy_n(mask.begin() + i * outputs, outputs, mask.begin() + kept * outputs);
          ids[kept] = ids[i];
        }
        ++kept;
      }
      active = kept;
    }
  }
  return result;
}

}  // namespace bessemer
