#include "rollout/policy.h"

#include "autograd/engine.h"

namespace bessemer {

namespace {

constexpr double kHiddenGain = 1.4142135623730951;  // sqrt(2)

nn::ActionDistribution make_distribution(const Channel& action, bool sde, int64_t features) {
  switch (action.kind) {
    case SpaceKind::discrete:
    case SpaceKind::multi_discrete:
      BESSEMER_CHECK(!sde, ValueError,
                     "state-dependent exploration (sde) needs continuous actions; '", action.name,
                     "' are choices");
      return nn::ActionDistribution::categorical(action.n);
    case SpaceKind::multi_binary: {
      BESSEMER_CHECK(!sde, ValueError,
                     "state-dependent exploration (sde) needs continuous actions");
      const std::vector<int64_t> pairs(static_cast<size_t>(action.numel()), 2);
      return nn::ActionDistribution::categorical(pairs);
    }
    case SpaceKind::box:
      return sde ? nn::ActionDistribution::state_dependent(action.numel(), features)
                 : nn::ActionDistribution::gaussian(action.numel());
    case SpaceKind::text:
      break;
  }
  fail<ValueError>("a control policy cannot act in text (action channel '", action.name, "')");
}

}  // namespace

Trunk::Trunk(std::span<const int64_t> obs_shape, const PolicyOptions& options, nn::Init& init) {
  const double gain = options.orthogonal ? kHiddenGain : 0;
  int64_t width = 1;
  for (int64_t size : obs_shape) width *= size;
  if (options.kind == PolicyOptions::Kind::cnn) {
    BESSEMER_CHECK(
        obs_shape.size() == 3 && obs_shape[1] >= 36 && obs_shape[2] >= 36, ValueError,
        "model.kind cnn needs observations [channels, height, width] of at least 36 x 36 "
        "pixels, got ",
        obs_shape);
    image.assign(obs_shape.begin(), obs_shape.end());
    const auto size_after = [](int64_t n) { return (((n - 8) / 4 + 1 - 4) / 2 + 1) - 3 + 1; };
    convolutions.emplace_back(image[0], 32, 8, 4, 0, init, gain);
    convolutions.emplace_back(32, 64, 4, 2, 0, init, gain);
    convolutions.emplace_back(64, 64, 3, 1, 0, init, gain);
    width = 64 * size_after(image[1]) * size_after(image[2]);
  }
  for (int64_t next : options.hidden) {
    layers.emplace_back(width, next, init, gain, options.activation);
    width = next;
  }
  if (options.kind == PolicyOptions::Kind::gru) {
    cell.emplace(width, options.recurrent_size, init, options.orthogonal ? 1 : 0);  // detail 32
    width = options.recurrent_size;
  }
  features = width;
}

Tensor Trunk::operator()(const Tensor& x, const Tensor& state) const {
  Tensor y = x;
  if (!convolutions.empty()) {
    y = reshape(y, {x.size(0), image[0], image[1], image[2]});
    for (const nn::Conv2d& convolution : convolutions) y = relu(convolution(y));
    y = reshape(y, {x.size(0), -1});
  }
  for (const nn::Linear& layer : layers) y = layer(y);
  return cell ? (*cell)(y, state) : y;
}

void Trunk::collect(const std::string& prefix, nn::NamedTensors& out) const {
  for (size_t i = 0; i < convolutions.size(); ++i)
    convolutions[i].collect(cat(prefix, "conv.", i, "."), out);
  for (size_t i = 0; i < layers.size(); ++i) layers[i].collect(cat(prefix, i, "."), out);
  if (cell) cell->collect(prefix + "gru.", out);
}

Policy::Policy(const Channel& observation, const Channel& action, const PolicyOptions& options,
               uint64_t seed)
    : observation_size_(observation.numel()) {
  BESSEMER_CHECK(!observation.ragged && observation.kind != SpaceKind::text, ValueError,
                 "a control policy cannot read text (observation channel '", observation.name,
                 "')");
  nn::Init init{seed};
  policy_trunk_ = Trunk(observation.shape, options, init);
  if (options.separate) value_trunk_.emplace(observation.shape, options, init);
  distribution_ = make_distribution(action, options.sde, policy_trunk_.features);
  const auto gain = [&](double value) { return options.orthogonal ? value : 0; };
  policy_head_.emplace(policy_trunk_.features, distribution_.outputs(), init,
                       gain(options.policy_gain));
  value_head_.emplace(policy_trunk_.features, 1, init, gain(options.value_gain));
  if (distribution_.log_stds() > 0) {
    const Shape shape = options.sde ? Shape{policy_trunk_.features, distribution_.components()}
                                    : Shape{distribution_.components()};
    log_std_ = set_requires_grad(Tensor::full(shape, options.log_std_init));
  }
  if (policy_trunk_.cell) state_size_ = policy_trunk_.features * (options.separate ? 2 : 1);
}

// With separate trunks the state's first half is the policy's, the second the value's.
Tensor Policy::value_state(const Tensor& state) const {
  if (!policy_trunk_.cell || !value_trunk_) return state;
  return slice(state, 1, policy_trunk_.features, state_size_);
}

Policy::Outputs Policy::forward(const Tensor& x, const Tensor& state) const {
  Outputs out;
  const bool recurrent = policy_trunk_.cell.has_value();
  const Tensor own = recurrent && value_trunk_ ? slice(state, 1, 0, policy_trunk_.features) : state;
  const Tensor features = policy_trunk_(x, own);
  const Tensor judged = value_trunk_ ? (*value_trunk_)(x, value_state(state)) : features;
  out.action = (*policy_head_)(features);
  out.value = (*value_head_)(judged);
  if (distribution_.kind() == nn::ActionKind::state_dependent) out.features = features.detach();
  if (recurrent) out.state = value_trunk_ ? cat_pair(features, judged, 1) : features;
  return out;
}

Tensor Policy::value(const Tensor& x, const Tensor& state) const {
  return (*value_head_)(value_trunk_ ? (*value_trunk_)(x, value_state(state))
                                     : policy_trunk_(x, state));
}

void Policy::collect(const std::string& prefix, nn::NamedTensors& out) const {
  policy_trunk_.collect(prefix + (value_trunk_ ? "policy." : "trunk."), out);
  if (value_trunk_) value_trunk_->collect(prefix + "value.", out);
  policy_head_->collect(prefix + "policy_head.", out);
  value_head_->collect(prefix + "value_head.", out);
  if (log_std_) out.emplace_back(prefix + "log_std", log_std_);
}

}  // namespace bessemer
