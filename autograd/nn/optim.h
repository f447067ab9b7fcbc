// Optimisers over a list of parameters. What changes from step to step (learning rate, clipping) is
// an argument of the step, so that schedules need no state here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "autograd/nn/module.h"

namespace bessemer::nn {

/// Euclidean norm over all elements of all gradients; undefined ones count as zero. Canonical
/// order: the sums of squares of each tensor, added in list order, in double.
double grad_norm(std::span<const Tensor> gradients);
/// What to multiply gradients by so that their norm is at most `max_norm`; max_norm 0 does not
/// clip. PyTorch's clip_grad_norm_: min(1, max_norm / (norm + 1e-6)).
double clip_scale(double norm, double max_norm);
/// Scales the gradients that backward() left on `parameters` to a global norm of at most `max_norm`
/// and returns the norm before.
double clip_grad_norm(std::span<const Tensor> parameters, double max_norm);
/// Forgets the gradients that backward() left.
void zero_grad(std::span<const Tensor> parameters);

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;  // decoupled: AdamW (Loshchilov & Hutter 2019)
};

/// Adam (Kingma & Ba 2015) and AdamW, one fused pass a parameter (cpu::KernelTable::adam).
class Adam {
 public:
  /// Throws TypeError for parameters that are not contiguous float32.
  explicit Adam(std::vector<Tensor> parameters, const AdamOptions& options = {});

  /// One step with the gradients that backward() left; parameters without one stay as they are.
  void step(double lr);
  /// One step with `gradients[i]` for parameter i, each multiplied by `grad_scale` first
  /// (clipping).
  void step(std::span<const Tensor> gradients, double lr, double grad_scale = 1);

  const std::vector<Tensor>& parameters() const { return parameters_; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  /// Moments, named prefix + "m." / "v." + index of the parameter; the tensors themselves, so that
  /// assigning to them restores a state.
  void collect(const std::string& prefix, NamedTensors& out) const;

 private:
  std::vector<Tensor> parameters_, m_, v_;
  AdamOptions options_;
  int64_t steps_ = 0;
};

}  // namespace bessemer::nn
