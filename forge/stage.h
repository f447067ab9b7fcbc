// One environment being watched: whatever chooses its actions, each step can be drawn.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "envs/env.h"
#include "envs/render/canvas.h"
#include "trainer/algorithm.h"

namespace bessemer {

class Stage {
 public:
  /// Throws ValueError for an unknown environment or option, or one that has no picture (text).
  Stage(const std::string& id, const Options& options,
        std::optional<int64_t> max_episode_steps = std::nullopt);

  /// Begins the episode of this seed.
  void reset(uint64_t seed);
  /// `action`: the bytes of one row of the first action channel.
  void step(const void* action);
  const Canvas& draw();

  const Spec& spec() const { return batch_->spec(); }
  const void* observation() const { return observations_[0].data(); }
  const uint8_t* action_mask() const { return mask_.empty() ? nullptr : mask_.data(); }
  bool over() const { return over_; }
  int64_t steps() const { return steps_; }
  double episode_return() const { return return_; }
  size_t action_bytes() const;

 private:
  StepBuffers buffers();

  std::unique_ptr<EnvBatch> batch_;
  std::vector<std::vector<std::byte>> observations_;
  std::vector<uint8_t> mask_;
  std::vector<float> reward_;
  std::vector<uint8_t> terminated_, truncated_, fault_;
  Canvas canvas_;
  bool over_ = false;
  int64_t steps_ = 0;
  double return_ = 0;
};

/// Writes the bytes of an action for the stage's present state.
using ActionSource = std::function<void(const Stage& stage, void* action)>;

/// Uniform over the action space (standard normal where a bound is missing), masks respected.
ActionSource random_actions(uint64_t seed);

/// What a trained policy does; its draws, if it draws, follow from `seed`.
ActionSource policy_actions(const Algorithm& algorithm, bool deterministic, int64_t seed);

/// Plays the episode of `seed` into a film. Returns its return. Throws IoError.
double film_episode(Stage& stage, const ActionSource& source, uint64_t seed,
                    const std::string& file);

}  // namespace bessemer
