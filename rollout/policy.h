// The actor-critic: what turns observations into a distribution of actions and a value. The same
// definition acts in samplers and is differentiated by trainers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "autograd/nn/distribution.h"
#include "autograd/nn/module.h"
#include "envs/spec.h"

namespace bessemer {

struct PolicyOptions {
  enum class Kind : uint8_t { mlp, cnn, gru } kind = Kind::mlp;
  std::vector<int64_t> hidden = {64, 64};
  cpu::Activation activation = cpu::Activation::tanh;
  bool separate = true;    // trunks of their own for policy and value (detail 13)
  bool orthogonal = true;  // detail 2
  double policy_gain = 0.01, value_gain = 1;
  double log_std_init = 0;
  bool sde = false;
  int64_t recurrent_size = 64;
};

/// Observation to features: Nature-CNN (Mnih et al. 2015, detail 21) for images, hidden layers, and
/// a GRU cell for recurrent policies.
struct Trunk : nn::Module {
  std::vector<nn::Conv2d> convolutions;
  std::vector<int64_t> image;  // C, H, W of a row, for convolutions
  std::vector<nn::Linear> layers;
  std::optional<nn::GruCell> cell;
  int64_t features = 0;

  Trunk() = default;
  Trunk(std::span<const int64_t> obs_shape, const PolicyOptions& options, nn::Init& init);
  /// x [rows, observation] -> [rows, features]; with a cell, `state` [rows, features] is the state
  /// before and the result the state after.
  Tensor operator()(const Tensor& x, const Tensor& state) const;
  void collect(const std::string& prefix, nn::NamedTensors& out) const override;
};

class Policy : public nn::Module {
 public:
  /// Throws ValueError for spaces it cannot act in: text, more than one action channel, images for
  /// an mlp that are not numbers, sde with choices.
  Policy(const Channel& observation, const Channel& action, const PolicyOptions& options,
         uint64_t seed);

  struct Outputs {
    Tensor action;    // [rows, distribution().outputs()]
    Tensor value;     // [rows, 1]
    Tensor features;  // [rows, features], state-dependent exploration only
    Tensor state;     // [rows, state_size()], recurrent only
  };
  /// x [rows, observation] float32, state [rows, state_size()] or undefined.
  Outputs forward(const Tensor& x, const Tensor& state) const;
  /// The value alone, [rows, 1].
  Tensor value(const Tensor& x, const Tensor& state) const;

  const nn::ActionDistribution& distribution() const { return distribution_; }
  /// Undefined for choices.
  const Tensor& log_std() const { return log_std_; }
  int64_t state_size() const { return state_size_; }
  int64_t observation_size() const { return observation_size_; }
  void collect(const std::string& prefix, nn::NamedTensors& out) const override;

 private:
  Tensor value_state(const Tensor& state) const;

  nn::ActionDistribution distribution_;
  int64_t observation_size_ = 0, state_size_ = 0;
  Trunk policy_trunk_;
  std::optional<Trunk> value_trunk_;  // absent: shared
  std::optional<nn::Linear> policy_head_, value_head_;
  Tensor log_std_;
};

}  // namespace bessemer
