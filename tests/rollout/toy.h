// A batch of environments whose every number is known: an episode is a cue (a word drawn from seed
// and episode number) and a length; observation, reward and mask are functions of cue and time.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "envs/env.h"

namespace bessemer::test {

struct Toy {
  Spec spec;
  int64_t length = 1;
  bool truncates = false;  // what ends an episode
  int64_t fault_at = -1;   // environment 0 fails in this step of its life
  std::function<void(uint32_t cue, int64_t t, void* obs)> observe;
  std::function<float(uint32_t cue, int64_t t, const void* action)> reward;
  std::function<void(uint32_t cue, int64_t t, uint8_t* mask)> mask;
  std::function<bool(uint32_t cue, int64_t t)> fault;  // it fails in this step
};

inline Channel box(std::string name, std::vector<int64_t> shape, Dtype dtype = Dtype::f32) {
  Channel channel;
  channel.name = std::move(name);
  channel.shape = std::move(shape);
  channel.dtype = dtype;
  channel.low = {-1};
  channel.high = {1};
  return channel;
}

inline Channel choices(std::vector<int64_t> n) {
  Channel channel;
  channel.name = "action";
  channel.kind = n.size() == 1 ? SpaceKind::discrete : SpaceKind::multi_discrete;
  channel.dtype = Dtype::i64;
  if (n.size() > 1) channel.shape = {static_cast<int64_t>(n.size())};
  channel.n = std::move(n);
  return channel;
}

class ToyBatch : public EnvBatch {
 public:
  ToyBatch(const Toy& toy, const BatchOptions& options)
      : toy_(toy), options_(options), states_(static_cast<size_t>(options.num_envs)) {
    obs_bytes_ = bytes(toy.spec.observation[0]);
    action_bytes_ = bytes(toy.spec.action[0]);
    for (int64_t n : toy.spec.action[0].n) mask_bytes_ += static_cast<size_t>(n);
  }

  const Spec& spec() const override { return toy_.spec; }
  int64_t num_envs() const override { return options_.num_envs; }
  Autoreset autoreset() const override { return options_.autoreset; }

  void reset(std::span<const uint64_t> seeds, const Options&, std::span<const uint8_t>,
             const StepBuffers& out) override {
    for (int64_t i = 0; i < num_envs(); ++i)
      states_[i] = {seeds.empty() ? states_[i].seed : seeds[i], 0, 0, 0, 0};
    observe(out);
  }

  void step(const Actions& actions, const StepBuffers& out) override {
    for (int64_t i = 0; i < num_envs(); ++i) step_one(i, i, actions, out);
  }

  void send(const Actions& actions, std::span<const int64_t> ids) override {
    const auto* data = static_cast<const char*>(actions.data);
    sent_.assign(ids.begin(), ids.end());
    sent_actions_.assign(data, data + ids.size() * action_bytes_);
  }

  int64_t recv(int64_t, const StepBuffers& out, std::span<int64_t> ids) override {
    const Actions actions{sent_actions_.data(), nullptr};
    for (size_t i = 0; i < sent_.size(); ++i) {
      ids[i] = sent_[i];
      step_one(sent_[i], static_cast<int64_t>(i), actions, out);
    }
    return static_cast<int64_t>(sent_.size());
  }

  std::string save(int64_t env) const override {
    return {reinterpret_cast<const char*>(&states_[env]), sizeof(State)};
  }
  void load(int64_t env, std::string_view state) override {
    BESSEMER_CHECK(state.size() == sizeof(State), ValueError, "[toy] damaged state");
    std::memcpy(&states_[env], state.data(), sizeof(State));
  }
  void render(int64_t, Canvas&) const override {}
  std::string fault_reason(int64_t) const override { return "the toy broke"; }
  void observe(const StepBuffers& out) const override {
    for (int64_t i = 0; i < num_envs(); ++i) show(i, i, out.obs[0], out.action_mask);
  }

 private:
  struct State {
    uint64_t seed = 0;
    int64_t episode = 0, t = 0, life = 0;
    double total = 0;
  };

  static size_t bytes(const Channel& channel) {
    return static_cast<size_t>(channel.numel()) * dtype_size(channel.dtype);
  }
  static uint32_t cue(uint64_t seed, int64_t episode) {
    return Rng{seed, Stream::environment}.at(static_cast<uint64_t>(episode)).word[0];
  }

  void show(int64_t env, int64_t row, void* obs, uint8_t* mask) const {
    const State& s = states_[env];
    const uint32_t word = cue(s.seed, s.episode);
    toy_.observe(word, s.t, static_cast<char*>(obs) + static_cast<size_t>(row) * obs_bytes_);
    if (mask && toy_.mask) toy_.mask(word, s.t, mask + static_cast<size_t>(row) * mask_bytes_);
  }

  void step_one(int64_t env, int64_t row, const Actions& actions, const StepBuffers& out) {
    State& s = states_[env];
    const auto* all = static_cast<const char*>(actions.data);
    const float reward =
        toy_.reward(cue(s.seed, s.episode), s.t, all + static_cast<size_t>(row) * action_bytes_);
    const bool fault = (s.life++ == toy_.fault_at && env == 0) ||
                       (toy_.fault && toy_.fault(cue(s.seed, s.episode), s.t));
    s.total += reward;
    const bool ended = ++s.t == toy_.length || fault;
    if (out.reward) out.reward[row] = reward;
    if (out.terminated) out.terminated[row] = ended && !fault && !toy_.truncates;
    if (out.truncated) out.truncated[row] = ended && !fault && toy_.truncates;
    if (out.fault) out.fault[row] = fault;
    if (ended) {
      if (!out.final_obs.empty() && out.final_obs[0]) show(env, row, out.final_obs[0], nullptr);
      if (out.episode_return) out.episode_return[row] = static_cast<float>(s.total);
      if (out.episode_length) out.episode_length[row] = s.t;
      if (options_.autoreset == Autoreset::same_step) {
        ++s.episode;
        s.t = 0;
        s.total = 0;
      }
    }
    show(env, row, out.obs[0], out.action_mask);
  }

  Toy toy_;
  BatchOptions options_;
  std::vector<State> states_;
  size_t obs_bytes_ = 0, action_bytes_ = 0, mask_bytes_ = 0;
  std::vector<int64_t> sent_;
  std::vector<char> sent_actions_;
};

inline std::function<std::unique_ptr<EnvBatch>(const BatchOptions&)> factory(const Toy& toy) {
  return [toy](const BatchOptions& options) { return std::make_unique<ToyBatch>(toy, options); };
}

/// Observation [cue in ±1, t], two choices, reward t.
inline Toy clock_toy(int64_t length, bool truncates) {
  Toy toy;
  toy.spec.id = "Clock";
  toy.spec.observation = {box("obs", {2})};
  toy.spec.action = {choices({2})};
  toy.length = length;
  toy.truncates = truncates;
  toy.observe = [](uint32_t cue, int64_t t, void* obs) {
    auto* x = static_cast<float*>(obs);
    x[0] = cue & 1 ? 1.0f : -1.0f;
    x[1] = static_cast<float>(t);
  };
  toy.reward = [](uint32_t, int64_t t, const void*) { return static_cast<float>(t); };
  return toy;
}

}  // namespace bessemer::test
