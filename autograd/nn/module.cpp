#include "autograd/nn/module.h"

#include <cmath>

#include "autograd/engine.h"

namespace bessemer::nn {

namespace {

constexpr double kHiddenGain = 1.4142135623730951;  // sqrt(2)

/// Orthogonal for a positive gain, else uniform(+-1/sqrt(fan_in)).
Tensor weight_init(Init& init, const Shape& shape, double gain, int64_t fan_in) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return set_requires_grad(gain > 0 ? init.orthogonal(shape, gain)
                                    : init.uniform(shape, -bound, bound));
}

Tensor bias_init(Init& init, int64_t n, double gain, int64_t fan_in) {
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  return set_requires_grad(gain > 0 ? Tensor::zeros({n}) : init.uniform({n}, -bound, bound));
}

}  // namespace

Linear::Linear(int64_t in, int64_t out, Init& init, double gain, cpu::Activation activation)
    : weight(weight_init(init, {out, in}, gain, in)),
      bias(bias_init(init, out, gain, in)),
      activation(activation) {}

void Linear::collect(const std::string& prefix, NamedTensors& out) const {
  out.emplace_back(prefix + "weight", weight);
  out.emplace_back(prefix + "bias", bias);
}

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, Init& init,
               double gain)
    : weight(weight_init(init, {out, in, kernel, kernel}, gain, in * kernel * kernel)),
      bias(bias_init(init, out, gain, in * kernel * kernel)),
      stride(stride),
      padding(padding) {}

void Conv2d::collect(const std::string& prefix, NamedTensors& out) const {
  out.emplace_back(prefix + "weight", weight);
  out.emplace_back(prefix + "bias", bias);
}

GruCell::GruCell(int64_t in, int64_t hidden, Init& init, double gain)
    : weight_ih(weight_init(init, {3 * hidden, in}, gain, hidden)),
      weight_hh(weight_init(init, {3 * hidden, hidden}, gain, hidden)),
      bias_ih(bias_init(init, 3 * hidden, gain, hidden)),
      bias_hh(bias_init(init, 3 * hidden, gain, hidden)) {}

Tensor GruCell::operator()(const Tensor& x, const Tensor& h) const {
  const int64_t n = h.size(-1);
  const Tensor from_x = linear(x, weight_ih, bias_ih), from_h = linear(h, weight_hh, bias_hh);
  const auto gate = [&](const Tensor& t, int64_t i) { return slice(t, -1, i * n, (i + 1) * n); };
  const Tensor reset = sigmoid(gate(from_x, 0) + gate(from_h, 0));
  const Tensor update = sigmoid(gate(from_x, 1) + gate(from_h, 1));
  const Tensor candidate = tanh(gate(from_x, 2) + reset * gate(from_h, 2));
  return candidate + update * (h - candidate);
}

void GruCell::collect(const std::string& prefix, NamedTensors& out) const {
  out.emplace_back(prefix + "weight_ih", weight_ih);
  out.emplace_back(prefix + "weight_hh", weight_hh);
  out.emplace_back(prefix + "bias_ih", bias_ih);
  out.emplace_back(prefix + "bias_hh", bias_hh);
}

Mlp::Mlp(int64_t in, std::span<const int64_t> hidden, int64_t out, cpu::Activation activation,
         Init& init, bool orthogonal, double out_gain) {
  int64_t width = in;
  for (int64_t next : hidden) {
    layers.emplace_back(width, next, init, orthogonal ? kHiddenGain : 0, activation);
    width = next;
  }
  if (out > 0) layers.emplace_back(width, out, init, orthogonal ? out_gain : 0);
}

Tensor Mlp::operator()(const Tensor& x) const {
  Tensor y = x;
  for (const Linear& layer : layers) y = layer(y);
  return y;
}

void Mlp::collect(const std::string& prefix, NamedTensors& out) const {
  for (size_t i = 0; i < layers.size(); ++i) layers[i].collect(cat(prefix, i, "."), out);
}

}  // namespace bessemer::nn
