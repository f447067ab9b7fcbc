// Memory for time: a part of a graph whose intermediate results are not kept but computed again
// when the backward pass reaches it (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
// Cost").
#pragma once

#include <functional>
#include <span>

#include "core/tensor/tensor.h"

namespace bessemer {

/// What a checkpoint computes from its input; reads nothing that changes but `uses`.
using CheckpointBody = std::function<Tensor(const Tensor& x)>;

/// body(x), computed now without recording and once more, with recording, when its gradient is
/// asked for: the gradients have the bits that recording at once would have given. `uses`: the
/// tensors with gradients (weights) that the body reads besides x. Changing x or one of them in
/// place before the backward pass is a ValueError there. Second derivatives work.
Tensor checkpoint(CheckpointBody body, const Tensor& x, std::span<const Tensor> uses);

}  // namespace bessemer
