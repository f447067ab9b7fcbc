#include "autograd/nn/optim.h"

#include <cmath>

#include "autograd/engine.h"

namespace bessemer::nn {

double grad_norm(std::span<const Tensor> gradients) {
  double total = 0;
  for (const Tensor& g : gradients) {
    if (!g) continue;
    const Tensor dense = contiguous(g);
    total += cpu::kernels().sum_squares(dense.numel(), dense.data<float>());
  }
  return std::sqrt(total);
}

double clip_scale(double norm, double max_norm) {
  if (max_norm <= 0) return 1;
  const double scale = max_norm / (norm + 1e-6);
  return scale < 1 ? scale : 1;
}

double clip_grad_norm(std::span<const Tensor> parameters, double max_norm) {
  NoGrad no_grad;
  std::vector<Tensor> gradients;
  for (const Tensor& p : parameters) gradients.push_back(grad(p));
  const double norm = grad_norm(gradients), scale = clip_scale(norm, max_norm);
  if (scale < 1) {
    for (size_t i = 0; i < parameters.size(); ++i)
      if (gradients[i]) set_grad(parameters[i], gradients[i] * scale);
  }
  return norm;
}

void zero_grad(std::span<const Tensor> parameters) {
  for (const Tensor& p : parameters) clear_grad(p);
}

Adam::Adam(std::vector<Tensor> parameters, const AdamOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Tensor& p : parameters_) {
    BESSEMER_CHECK(p.dtype() == Dtype::f32 && p.contiguous(), TypeError,
                   "[Adam] parameters are contiguous float32 tensors, got ", dtype_name(p.dtype()),
                   " ", p.shape());
    m_.push_back(Tensor::zeros(p.sizes()));
    v_.push_back(Tensor::zeros(p.sizes()));
  }
}

void Adam::step(double lr) {
  std::vector<Tensor> gradients;
  gradients.reserve(parameters_.size());
  for (const Tensor& p : parameters_) gradients.push_back(grad(p));
  step(gradients, lr);
}

void Adam::step(std::span<const Tensor> gradients, double lr, double grad_scale) {
  BESSEMER_CHECK(gradients.size() == parameters_.size(), ValueError, "[Adam] ", gradients.size(),
                 " gradients for ", parameters_.size(), " parameters");
  ++steps_;
  const double t = static_cast<double>(steps_);
  cpu::AdamArgs args{};
  args.lr = static_cast<float>(lr);
  args.beta1 = static_cast<float>(options_.beta1);
  args.beta2 = static_cast<float>(options_.beta2);
  args.eps = static_cast<float>(options_.eps);
  args.weight_decay = static_cast<float>(options_.weight_decay);
  args.correction1 = static_cast<float>(1 - std::pow(options_.beta1, t));
  args.correction2 = static_cast<float>(1 - std::pow(options_.beta2, t));
  args.grad_scale = static_cast<float>(grad_scale);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients[i]) continue;
    const Tensor& p = parameters_[i];
    BESSEMER_CHECK(gradients[i].sizes() == p.sizes(), ValueError, "[Adam] gradient ",
                   gradients[i].shape(), " for a parameter ", p.shape());
    const Tensor g = contiguous(gradients[i]);
    args.n = p.numel();
    args.p = p.data<float>();
    args.m = m_[i].data<float>();
    args.v = v_[i].data<float>();
    args.g = g.data<float>();
    cpu::kernels().adam(args);
    p.bump();
  }
}

void Adam::collect(const std::string& prefix, NamedTensors& out) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    out.emplace_back(cat(prefix, "m.", i), m_[i]);
    out.emplace_back(cat(prefix, "v.", i), v_[i]);
  }
}

}  // namespace bessemer::nn
