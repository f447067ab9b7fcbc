#include "rollout/episode_envs.h"

#include <algorithm>

namespace bessemer {

void check_text_spec(const Spec& spec) {
  const bool text = spec.rows == 1 && spec.observation.size() == 1 && spec.action.size() == 1 &&
                    spec.observation[0].kind == SpaceKind::text &&
                    spec.action[0].kind == SpaceKind::text;
  BESSEMER_CHECK(text, ValueError, "env.id ", spec.id,
                 " does not speak: language models need one text channel in and one out");
}

EpisodeTable::EpisodeTable(const EnvFactory& make_envs, int64_t rows, ThreadPool* pool) {
  BatchOptions options;
  options.num_envs = rows;
  options.autoreset = Autoreset::disabled;
  options.pool = pool;
  envs = make_envs(options);
  check_text_spec(envs->spec());
  const auto n = static_cast<size_t>(rows);
  reward.resize(n);
  terminated.resize(n);
  truncated.resize(n);
  fault.resize(n);
  components.assign(envs->spec().rewards.size(), std::vector<float>(n));
  out_.obs = {nullptr};
  out_.ragged_obs = {&text};
  out_.reward = reward.data();
  out_.terminated = terminated.data();
  out_.truncated = truncated.data();
  out_.fault = fault.data();
  for (std::vector<float>& column : components) out_.rewards.push_back(column.data());
}

void EpisodeTable::reset(std::span<const uint64_t> seeds, std::span<const Options> reset_options,
                         int64_t size) {
  const auto rows = static_cast<size_t>(envs->num_envs());
  std::vector<uint64_t> all(rows);
  for (size_t row = 0; row < rows; ++row) all[row] = seeds[row / static_cast<size_t>(size)];
  envs->reset(all, {}, {}, out_);
  if (reset_options.empty()) return;
  std::vector<uint8_t> mask(rows);
  for (size_t group = 0; group < reset_options.size(); ++group) {
    std::fill(mask.begin(), mask.end(), uint8_t{0});
    std::fill_n(mask.begin() + static_cast<int64_t>(group) * size, size, uint8_t{1});
    const std::vector<uint64_t> own(static_cast<size_t>(size), seeds[group]);
    envs->reset(own, reset_options[group], mask, {});
  }
  envs->observe(out_);
}

void EpisodeTable::step(const Ragged& replies, std::vector<int64_t>& ids) {
  envs->send({.data = nullptr, .ragged = &replies}, ids);
  envs->recv(static_cast<int64_t>(ids.size()), out_, ids);
  const auto rows = static_cast<int64_t>(ids.size());
  faulted |= std::any_of(fault.begin(), fault.begin() + rows, [](uint8_t f) { return f != 0; });
}

EpisodeEnvs::EpisodeEnvs(EnvFactory make_envs, ThreadPool* pool)
    : make_envs_(std::move(make_envs)), pool_(pool) {}

std::unique_ptr<EpisodeTable> EpisodeEnvs::take(std::span<const uint64_t> seeds,
                                                std::span<const Options> reset_options,
                                                int64_t size) {
  const int64_t rows = static_cast<int64_t>(seeds.size()) * size;
  const auto fits = [&](const auto& table) { return table->envs->num_envs() == rows; };
  if (const auto at = std::find_if(kept_.begin(), kept_.end(), fits); at != kept_.end()) {
    std::unique_ptr<EpisodeTable> table = std::move(*at);
    kept_.erase(at);
    try {
      table->reset(seeds, reset_options, size);
      return table;
    } catch (const IoError&) {
      // Their process or server went away between two plays.
    }
  }
  auto table = std::make_unique<EpisodeTable>(make_envs_, rows, pool_);
  table->reset(seeds, reset_options, size);
  return table;
}

void EpisodeEnvs::give(std::unique_ptr<EpisodeTable> table) {
  if (table->faulted) return;
  if (kept_.size() == kMost) kept_.erase(kept_.begin());
  kept_.push_back(std::move(table));
}

}  // namespace bessemer
