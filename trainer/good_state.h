// Weights and moments to return to when a number is not finite: copies of those that proved good.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "autograd/nn/optim.h"

namespace bessemer {

bool all_finite(std::span<const float> values);

/// The name of the first gradient that is not finite, "" where all are; undefined ones are.
std::string_view first_not_finite(const nn::NamedTensors& named, std::span<const Tensor> gradients);

class GoodState {
 public:
  bool empty() const { return values_.empty(); }
  /// Copies the float32 tensors and the optimiser's moments and steps.
  void keep(const nn::NamedTensors& weights, const nn::Adam& adam);
  /// Writes them back; the tensors' versions move. Does nothing where nothing was kept.
  void restore(const nn::NamedTensors& weights, nn::Adam& adam) const;
  void clear() { values_.clear(); }

 private:
  std::vector<std::vector<float>> values_;
  int64_t steps_ = 0;
};

}  // namespace bessemer
