// Gradients of what was computed: define-by-run, reverse mode, differentiable again with
// create_graph.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/tensor/tensor.h"

namespace bessemer {

/// Asks for gradients of a leaf (a floating tensor nothing computed); returns x itself.
const Tensor& set_requires_grad(const Tensor& x, bool required = true);

/// The gradient that backward() accumulated; undefined before.
Tensor grad(const Tensor& leaf);
void set_grad(const Tensor& leaf, const Tensor& gradient);
/// Forgets it.
void clear_grad(const Tensor& leaf);

/// Adds d(loss)/d(leaf) to the gradient of every leaf that `loss` depends on. `gradient` is
/// d/d(loss), 1 for a 0-d loss. The graph is freed as it is walked unless `retain_graph`.
void backward(const Tensor& loss, const Tensor& gradient = {}, bool retain_graph = false,
              bool create_graph = false);

/// The same from several outputs at once, each with its gradient: the graphs may share parts.
void backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients);

/// d(outputs)/d(inputs) without touching leaves; undefined entries for inputs that do not matter.
std::vector<Tensor> gradients(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                              std::span<const Tensor> grad_outputs = {}, bool retain_graph = false,
                              bool create_graph = false);

/// Called with the leaf as soon as its gradient is final in a backward pass (bucketed all-reduce).
void on_gradient_ready(const Tensor& leaf, std::function<void(const Tensor&)> hook);

/// Gradients are recorded while it lives; the default outside NoGrad.
class EnableGrad {
 public:
  EnableGrad() : before_(current_mode) { current_mode |= kModeGrad; }
  ~EnableGrad() { current_mode = before_; }
  EnableGrad(const EnableGrad&) = delete;
  EnableGrad& operator=(const EnableGrad&) = delete;

 private:
  uint8_t before_;
};

}  // namespace bessemer
