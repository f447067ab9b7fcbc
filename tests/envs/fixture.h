// A batch with its own output buffers, for tests.
#pragma once

#include <span>

#include "envs/env.h"

struct Stepped {
  explicit Stepped(std::unique_ptr<bessemer::EnvBatch> made) : batch(std::move(made)) {
    const int64_t rows = batch->rows();
    const auto& channel = batch->spec().observation[0];
    width = channel.ragged ? 0 : channel.numel();
    obs.assign(rows * width, -7);
    final_obs.assign(rows * width, -7);
    reward.assign(rows, -7);
    terminated.assign(rows, 7);
    truncated.assign(rows, 7);
    fault.assign(rows, 7);
    episode_return.assign(rows, -7);
    episode_length.assign(rows, -7);
    out.obs = {width ? obs.data() : nullptr};
    out.final_obs = {width ? final_obs.data() : nullptr};
    out.ragged_obs = {channel.ragged ? &text : nullptr};
    out.ragged_final_obs = {channel.ragged ? &final_text : nullptr};
    out.reward = reward.data();
    out.terminated = terminated.data();
    out.truncated = truncated.data();
    out.fault = fault.data();
    out.episode_return = episode_return.data();
    out.episode_length = episode_length.data();
  }
  Stepped(const std::string& id, const bessemer::BatchOptions& options)
      : Stepped(bessemer::make_batch(id, options)) {}

  void reset(std::vector<uint64_t> seeds = {}, const bessemer::Options& options = {},
             std::vector<uint8_t> mask = {}) {
    batch->reset(seeds, options, mask, out);
  }
  /// Seeds seed, seed + 1, ... as SyncVectorEnv.
  void reset_all(uint64_t seed) {
    std::vector<uint64_t> seeds;
    for (int64_t i = 0; i < batch->num_envs(); ++i) seeds.push_back(seed + i);
    reset(seeds);
  }
  template <class T>
  void step(const std::vector<T>& actions) {
    batch->step({.data = actions.data()}, out);
  }
  std::span<const float> row(int64_t i) const { return std::span(obs).subspan(i * width, width); }

  std::unique_ptr<bessemer::EnvBatch> batch;
  int64_t width;
  std::vector<float> obs, final_obs, reward, episode_return;
  std::vector<uint8_t> terminated, truncated, fault;
  std::vector<int64_t> episode_length;
  bessemer::Ragged text, final_text;
  bessemer::StepBuffers out;
};
