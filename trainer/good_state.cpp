#include "trainer/good_state.h"

#include <algorithm>
#include <cmath>

#include "core/ops/ops.h"

namespace bessemer {

namespace {

nn::NamedTensors with_moments(const nn::NamedTensors& weights, const nn::Adam& adam) {
  nn::NamedTensors all = weights;
  adam.collect("", all);
  return all;
}

}  // namespace

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

std::string_view first_not_finite(const nn::NamedTensors& named,
                                  std::span<const Tensor> gradients) {
  for (size_t i = 0; i < gradients.size(); ++i)
    if (gradients[i] && !all_finite(contiguous(gradients[i]).values<float>()))
      return named[i].first;
  return "";
}

void GoodState::keep(const nn::NamedTensors& weights, const nn::Adam& adam) {
  const nn::NamedTensors all = with_moments(weights, adam);
  values_.resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const auto from = all[i].second.values<float>();
    values_[i].assign(from.begin(), from.end());
  }
  steps_ = adam.steps();
}

void GoodState::restore(const nn::NamedTensors& weights, nn::Adam& adam) const {
  if (empty()) return;
  nn::NamedTensors all = with_moments(weights, adam);
  for (size_t i = 0; i < all.size(); ++i) {
    std::copy(values_[i].begin(), values_[i].end(), all[i].second.data<float>());
    all[i].second.bump();
  }
  adam.set_steps(steps_);
}

}  // namespace bessemer
