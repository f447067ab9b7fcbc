// What every batch has in common whatever it steps: Spec and limits, generators, episode
// bookkeeping, action checks, chunks over the thread pool, send/recv, saved states. batch.h adds
// the worlds.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/pcg64.h"
#include "envs/simulator.h"

namespace bessemer {

inline constexpr int kMaxChannels =
    16;  // of one list (observations, infos); checked at registration

/// Bytes a row of each channel, 0 for a ragged one.
std::vector<int64_t> channel_bytes(const std::vector<Channel>& channels);

class BatchBase : public EnvBatch {
 public:
  BatchBase(const Spec& spec, const BatchOptions& options);

  const Spec& spec() const final { return spec_; }
  int64_t num_envs() const final { return envs_; }
  Autoreset autoreset() const final { return autoreset_; }
  void reset(std::span<const uint64_t> seeds, const Options& reset_options,
             std::span<const uint8_t> mask, const StepBuffers& out) final;
  void step(const Actions& actions, const StepBuffers& out) final;
  void send(const Actions& actions, std::span<const int64_t> ids) final;
  int64_t recv(int64_t at_least, const StepBuffers& out, std::span<int64_t> ids) final;
  std::string save(int64_t env) const final;
  void load(int64_t env, std::string_view state) final;
  void render(int64_t env, Canvas& canvas) const final;
  std::string fault_reason(int64_t row) const final;
  void observe(const StepBuffers& out) const final;

 protected:
  enum class Phase : uint8_t { unstarted, running, ended };

  /// A run of environments [low, high) whose first action and first output row are given.
  struct Range {
    int64_t low = 0, high = 0;
    const void* actions = nullptr;  // of environment `low`
    const Ragged* text_actions = nullptr;
    int64_t action_row = 0;  // row of `text_actions` for environment `low`
    int64_t out_row = 0;
  };

  virtual void step_range(const Range& range, const StepBuffers& out) = 0;
  /// Told ahead which environments are about to step (all, where `ids` is empty) or to be reset, so
  /// that worlds in other processes can all begin before one of them is waited for.
  virtual void begin_steps(const void* /*data*/, const Ragged* /*text*/,
                           std::span<const int64_t> /*ids*/, int64_t /*count*/) {}
  virtual void begin_resets(std::span<const int64_t> /*ids*/, std::span<const uint64_t> /*seeds*/,
                            const Settings& /*options*/) {}
  /// Starts an episode; false where the simulator threw (the row is a fault then).
  virtual bool start_world(int64_t env, const Settings& reset_options) = 0;
  /// Observations, infos and masks of the environment's rows into rows [row, row + rows) of out.
  virtual void observe_world(int64_t env, int64_t row, const StepBuffers& out) const = 0;
  /// Its observations into out.final_obs.
  virtual void observe_final(int64_t env, int64_t row, const StepBuffers& out) const = 0;
  virtual void world_state(int64_t env, StateIo& io) = 0;
  virtual void draw_world(int64_t env, Canvas& canvas) const = 0;

  /// Begins an episode of `env` and writes its first observation; false for a fault.
  bool restart(int64_t env, int64_t row, const Settings& reset_options, const StepBuffers& out);
  /// Keeps the text of the exception that made `env` a fault.
  void remember_fault(int64_t env, std::exception_ptr error);
  /// Marks the rows of `env` as a fault, zeroes what they would have written, and rebuilds at once
  /// where autoreset is same_step.
  void fault(int64_t env, int64_t row, const StepBuffers& out);
  /// Statistics and final observation of an episode that ended, then what autoreset asks for.
  void finish(int64_t env, int64_t row, const StepBuffers& out);
  /// Reward 0 and no flags, as a row has in the step that restarts it.
  void clear_row(int64_t row, const StepBuffers& out) const;

  RowOut row_out(const std::vector<void*>& base, const std::vector<int64_t>& bytes, int64_t row,
                 void** pointers, std::span<std::string> text) const {
    for (size_t c = 0; c < bytes.size(); ++c) {
      void* start = c < base.size() ? base[c] : nullptr;
      pointers[c] = start ? static_cast<char*>(start) + row * bytes[c] : scratch();
    }
    return RowOut({pointers, bytes.size()}, text);
  }
  std::span<std::string> text_of(std::vector<std::string>& texts, int64_t env, int agent) const {
    if (texts.empty()) return {};
    const size_t channels = spec_.observation.size();
    return std::span(texts).subspan((env * spec_.rows + agent) * channels, channels);
  }

  Spec spec_;
  int64_t envs_;
  Autoreset autoreset_;
  int64_t limit_;      // steps of an episode, 0 = none
  Settings settings_;  // of make
  Settings fallback_;  // reset options of an automatic reset
  std::vector<int64_t> obs_bytes_, info_bytes_;
  int64_t mask_bytes_ = 0;

  std::vector<Pcg64> rng_;
  std::vector<uint8_t> seeded_;
  std::vector<Phase> phase_;
  std::vector<uint8_t> broken_;  // the simulator threw: build it anew
  std::vector<int64_t> length_;
  std::vector<double> return_;  // [rows]
  mutable std::vector<std::string> text_,
      final_text_;  // [rows, channels] where a channel is ragged

  bool resetting_ = false;  // inside reset(): bad reset options are the caller's error

 private:
  void zero_fault(int64_t env, int64_t row, const StepBuffers& out);
  void* scratch() const;
  void check_actions(const void* data, const Ragged* text, std::span<const int64_t> ids,
                     int64_t count) const;
  bool action_ignored(int64_t env) const {
    return autoreset_ == Autoreset::next_step && phase_[env] == Phase::ended;
  }
  void check_phases(std::span<const int64_t> ids) const;
  /// Steps the environments `ids` (all, where empty) with dense rows of actions and outputs.
  void run(const void* data, const Ragged* text, std::span<const int64_t> ids, int64_t count,
           const StepBuffers& out);
  void flush_text(std::span<const int64_t> ids, int64_t count, const StepBuffers& out) const;
  void check_env(int64_t env) const;
  /// The rows of an environment between steps; zeros where it is a fault.
  void observe_row(int64_t env, int64_t row, const StepBuffers& out) const;
  void zero_row(int64_t env, int64_t row, const StepBuffers& out) const;

  ThreadPool* pool_;
  bool check_;
  int64_t action_bytes_ = 0;  // of one row, 0 for text
  bool ragged_ = false;
  bool all_running_ = false;  // no row is unstarted, and with disabled none has ended
  double cost_ = 0;           // measured, ns an environment
  uint64_t calls_ = 0;

  std::vector<int64_t> sent_;  // queue of ids, first in first out
  std::string sent_actions_;
  Ragged sent_text_;
  std::vector<uint8_t> in_flight_;
  std::vector<std::string> fault_reason_;  // [rows], of the last fault
};

}  // namespace bessemer
