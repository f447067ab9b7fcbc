// Modules: named parameters in a tree. A module is a plain struct; `parameters()` lists what it
// holds.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/rng.h"
#include "core/ops/ops.h"

namespace bessemer::nn {

/// Path ("policy.0.weight") and tensor, in a fixed order.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

class Module {
 public:
  virtual ~Module() = default;
  /// Appends every parameter, each name after `prefix` ("policy."), in a fixed order.
  virtual void collect(const std::string& prefix, NamedTensors& out) const = 0;
  NamedTensors named_parameters() const {
    NamedTensors out;
    collect("", out);
    return out;
  }
  std::vector<Tensor> parameters() const {
    std::vector<Tensor> out;
    for (auto& [name, tensor] : named_parameters()) out.push_back(tensor);
    return out;
  }
};

/// Draws for initialisation: the n-th parameter of a model takes its numbers from (seed, init, n).
struct Init {
  uint64_t seed = 0;
  uint64_t next = 0;
  Tensor normal(const Shape& shape, double std);
  Tensor uniform(const Shape& shape, double low, double high);
  /// Rows or columns orthonormal, times gain (Saxe et al. 2014; sign-corrected QR of a Gaussian
  /// matrix).
  Tensor orthogonal(const Shape& shape, double gain);
};

struct Linear : Module {
  Tensor weight, bias;  // [out, in], [out]
  cpu::Activation activation;
  /// `gain` > 0: orthogonal with zero bias; 0: PyTorch's default uniform(±1/sqrt(in)).
  Linear(int64_t in, int64_t out, Init& init, double gain = 0,
         cpu::Activation activation = cpu::Activation::none);
  Tensor operator()(const Tensor& x) const { return linear(x, weight, bias, activation); }
  void collect(const std::string& prefix, NamedTensors& out) const override;
};

struct Conv2d : Module {
  Tensor weight, bias;
  int64_t stride, padding;
  Conv2d(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, Init& init,
         double gain = 0);
  Tensor operator()(const Tensor& x) const { return conv2d(x, weight, bias, stride, padding); }
  void collect(const std::string& prefix, NamedTensors& out) const override;
};

/// Gated recurrent unit (Cho et al. 2014), parameter names and gate order as torch.nn.GRUCell.
struct GruCell : Module {
  Tensor weight_ih, weight_hh, bias_ih, bias_hh;  // [3H, in], [3H, H], [3H], [3H]; gates r, z, n
  /// `gain` > 0: orthogonal with zero biases; 0: PyTorch's default uniform(±1/sqrt(hidden)).
  GruCell(int64_t in, int64_t hidden, Init& init, double gain = 0);
  /// x [rows, in], h [rows, hidden] -> the next h.
  Tensor operator()(const Tensor& x, const Tensor& h) const;
  void collect(const std::string& prefix, NamedTensors& out) const override;
};

/// Fully connected layers with one activation between them; the last layer has none. `out` 0:
/// hidden layers only, each followed by the activation.
struct Mlp : Module {
  std::vector<Linear> layers;
  Mlp(int64_t in, std::span<const int64_t> hidden, int64_t out, cpu::Activation activation,
      Init& init, bool orthogonal, double out_gain);
  Tensor operator()(const Tensor& x) const;
  void collect(const std::string& prefix, NamedTensors& out) const override;
};

}  // namespace bessemer::nn
