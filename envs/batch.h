// The batch around a simulator: BatchBase's bookkeeping with the simulator's step inlined.
#pragma once

#include <exception>
#include <memory>
#include <optional>

#include "envs/batch_base.h"
#include "envs/registry.h"

namespace bessemer {

template <Simulator Sim>
class Batch final : public BatchBase {
 public:
  Batch(const Spec& spec, const BatchOptions& options)
      : BatchBase(spec, options), sims_(envs_), action_numel_(spec.action[0].numel()) {
    for (std::optional<Sim>& sim : sims_) sim.emplace(settings_);
  }

  std::string oracle(int64_t row) const override {
    if constexpr (requires(const Sim& s) { s.oracle(); }) {
      return sims_[row / spec_.rows]->oracle();
    } else {
      return {};
    }
  }

 protected:
  void step_range(const Range& range, const StepBuffers& out) override {
    const int agents = spec_.rows;
    for (int64_t env = range.low; env < range.high; ++env) {
      const int64_t at = env - range.low, row = range.out_row + at * agents;
      if (phase_[env] == Phase::ended) {  // autoreset next_step; its action is ignored
        for (int a = 0; a < agents; ++a) clear_row(row + a, out);
        restart(env, row, fallback_, out);
        continue;
      }
      bool over = true;
      try {
        if constexpr (StepsRows<Sim>) {
          thread_local std::vector<StepResult> results;
          results.assign(agents, {});
          sims_[env]->step(action_span(range, at, agents), results, rng_[env]);
          ++length_[env];
          for (int a = 0; a < agents; ++a) over &= record(env, a, row + a, results[a], out);
        } else {
          const StepResult result = step_one(env, range, at);
          ++length_[env];
          over = record(env, 0, row, result, out);
        }
        observe_world(env, row, out);
        if constexpr (
            requires(const Sim& s, std::span<float> r) { s.rewards(r); } ||
            requires(const Sim& s, std::span<float> r) { s.rewards(0, r); }) {
          write_components(env, row, out);
        }
      } catch (...) {
        remember_fault(env, std::current_exception());
        fault(env, row, out);
        continue;
      }
      if (over) finish(env, row, out);
    }
  }

  bool start_world(int64_t env, const Settings& reset_options) override {
    try {
      if (broken_[env]) {
        sims_[env].emplace(settings_);
        broken_[env] = 0;
      }
      sims_[env]->reset(rng_[env], reset_options);
      return true;
    } catch (const ValueError&) {
      if (resetting_) throw;  // the caller's reset options
      remember_fault(env, std::current_exception());
    } catch (...) {
      remember_fault(env, std::current_exception());
    }
    return false;
  }

  void observe_world(int64_t env, int64_t row, const StepBuffers& out) const override {
    void* pointers[kMaxChannels];
    for (int a = 0; a < spec_.rows; ++a) {
      RowOut obs = row_out(out.obs, obs_bytes_, row + a, pointers, text_of(text_, env, a));
      observe_agent(*sims_[env], a, obs);
      if constexpr (
          requires(const Sim& s, RowOut& o) { s.infos(o); } ||
          requires(const Sim& s, RowOut& o) { s.infos(0, o); }) {
        if (!out.infos.empty()) {
          RowOut info = row_out(out.infos, info_bytes_, row + a, pointers, {});
          if constexpr (requires(const Sim& s) { s.infos(info); }) {
            sims_[env]->infos(info);
          } else {
            sims_[env]->infos(a, info);
          }
        }
      }
      if constexpr (
          requires(const Sim& s, std::span<uint8_t> m) { s.mask(m); } ||
          requires(const Sim& s, std::span<uint8_t> m) { s.mask(0, m); }) {
        if (out.action_mask) {
          const std::span<uint8_t> mask(out.action_mask + (row + a) * mask_bytes_,
                                        static_cast<size_t>(mask_bytes_));
          if constexpr (requires(const Sim& s) { s.mask(mask); }) {
            sims_[env]->mask(mask);
          } else {
            sims_[env]->mask(a, mask);
          }
        }
      }
    }
  }

  void observe_final(int64_t env, int64_t row, const StepBuffers& out) const override {
    void* pointers[kMaxChannels];
    for (int a = 0; a < spec_.rows; ++a) {
      RowOut obs =
          row_out(out.final_obs, obs_bytes_, row + a, pointers, text_of(final_text_, env, a));
      observe_agent(*sims_[env], a, obs);
    }
  }

  void world_state(int64_t env, StateIo& io) override {
    if (!sims_[env]) sims_[env].emplace(settings_);
    sims_[env]->state(io);
  }

  void draw_world(int64_t env, Canvas& canvas) const override {
    if constexpr (requires(const Sim& s) { s.draw(canvas); }) {
      sims_[env]->draw(canvas);
    } else {
      fail<ValueError>("[env] ", spec_.id, " has no picture");
    }
  }

 private:
  static void observe_agent(const Sim& sim, int agent, RowOut& out) {
    if constexpr (requires { sim.observe(out); }) {
      sim.observe(out);
    } else {
      sim.observe(agent, out);
    }
  }

  std::span<const typename Sim::Action> action_span(const Range& range, int64_t at,
                                                    int agents) const
      requires(!std::same_as<typename Sim::Action, std::string_view>) {
    const int64_t count = action_numel_ * agents;
    return {static_cast<const typename Sim::Action*>(range.actions) + at * count,
            static_cast<size_t>(count)};
  }

  StepResult step_one(int64_t env, const Range& range, int64_t at) {
    if constexpr (std::same_as<typename Sim::Action, std::string_view>) {
      return sims_[env]->step(range.text_actions->row(range.action_row + at), rng_[env]);
    } else if constexpr (StepsScalar<Sim>) {
      return sims_[env]->step(static_cast<const typename Sim::Action*>(range.actions)[at],
                              rng_[env]);
    } else {
      return sims_[env]->step(action_span(range, at, 1), rng_[env]);
    }
  }

  /// Writes reward and flags of one row; true where the row is over.
  bool record(int64_t env, int agent, int64_t row, const StepResult& result,
              const StepBuffers& out) {
    const bool truncated = result.truncated || (limit_ > 0 && length_[env] >= limit_);
    return_[env * spec_.rows + agent] += result.reward;
    if (out.reward) out.reward[row] = static_cast<float>(result.reward);
    if (out.terminated) out.terminated[row] = result.terminated;
    if (out.truncated) out.truncated[row] = truncated;
    if (out.fault) out.fault[row] = 0;
    return result.terminated || truncated;
  }

  void write_components(int64_t env, int64_t row, const StepBuffers& out) const {
    float values[kMaxChannels];
    const std::span<float> all(values, spec_.rewards.size());
    if (out.rewards.empty()) return;
    for (int a = 0; a < spec_.rows; ++a) {
      if constexpr (requires(const Sim& s) { s.rewards(all); }) {
        sims_[env]->rewards(all);
      } else {
        sims_[env]->rewards(a, all);
      }
      for (size_t c = 0; c < out.rewards.size(); ++c) {
        if (out.rewards[c]) out.rewards[c][row + a] = values[c];
      }
    }
  }

  std::vector<std::optional<Sim>> sims_;  // optional: built in place, simulators need not move
  int64_t action_numel_;
};

template <Simulator Sim>
std::unique_ptr<EnvBatch> batch_of(const Spec& spec, const BatchOptions& options) {
  return std::make_unique<Batch<Sim>>(spec, options);
}

}  // namespace bessemer

/// Registers a simulator: one line at the end of its file. More than one line registers variants.
#define BESSEMER_ENVIRONMENT(...) BESSEMER_ENVIRONMENT_AT(__LINE__, __VA_ARGS__)
#define BESSEMER_ENVIRONMENT_AT(line, ...) BESSEMER_ENVIRONMENT_NAMED(line, __VA_ARGS__)
#define BESSEMER_ENVIRONMENT_NAMED(line, ...)                                                    \
  [[maybe_unused]] static const bool bessemer_environment_##line =                               \
      (::bessemer::register_environment(__VA_ARGS__::spec(), ::bessemer::batch_of<__VA_ARGS__>), \
       true);
