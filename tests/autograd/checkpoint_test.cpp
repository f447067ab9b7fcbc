#include "autograd/checkpoint.h"

#include <doctest/doctest.h>

#include <cstring>

#include "autograd/engine.h"
#include "autograd/nn/module.h"

using namespace bessemer;

namespace {

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}

/// Residual layers whose weights are leaves, with a loss that also reads the first layer's input.
struct Net {
  std::vector<Tensor> weights;
  Tensor x;
  int runs = 0;  // of layers' bodies

  explicit Net(Dtype dtype = Dtype::f32, int64_t rows = 5) {
    nn::Init init{3};
    for (int i = 0; i < 3; ++i)
      weights.push_back(set_requires_grad(cast(init.normal({8, 8}, 0.4), dtype).detach()));
    x = set_requires_grad(cast(init.normal({rows, 8}, 1), dtype).detach());
  }
  Tensor layer(const Tensor& in, const Tensor& w) {
    ++runs;
    return in + tanh(linear(in, w)) * sigmoid(linear(in, w));
  }
  Tensor loss(bool checkpointed) {
    Tensor h = x;
    for (const Tensor& w : weights) {
      if (checkpointed) {
        const Tensor uses[] = {w};
        h = checkpoint([this, w](const Tensor& in) { return layer(in, w); }, h, uses);
      } else {
        h = layer(h, w);
      }
    }
    return sum(square(h) + h * x);
  }
  std::vector<Tensor> leaves() const {
    std::vector<Tensor> out = weights;
    out.push_back(x);
    return out;
  }
};

}  // namespace

TEST_CASE("gradients of a checkpointed graph have the bits of the plain one") {
  Net net;
  std::vector<Tensor> plain, again;
  const Tensor loss = net.loss(false);
  backward(loss);
  for (const Tensor& leaf : net.leaves()) {
    plain.push_back(grad(leaf));
    clear_grad(leaf);
  }
  net.runs = 0;
  const Tensor recomputed = net.loss(true);
  CHECK(net.runs == 3);
  CHECK(same_bits(loss, recomputed));
  backward(recomputed);
  CHECK(net.runs == 6);
  const auto leaves = net.leaves();
  for (size_t i = 0; i < leaves.size(); ++i) CHECK(same_bits(plain[i], grad(leaves[i])));
}

TEST_CASE("checkpoint: captured gradients and second derivatives") {
  Net net(Dtype::f64);
  const auto leaves = net.leaves();
  auto second = [&](bool checkpointed) {
    const Tensor first = gradients(std::array{net.loss(checkpointed)}, leaves, {}, true, true)[1];
    return gradients(std::array{sum(square(first))}, leaves);
  };
  const auto plain = second(false), again = second(true);
  for (size_t i = 0; i < leaves.size(); ++i) {
    REQUIRE(plain[i].defined());
    const auto a = plain[i].values<double>(), b = again[i].values<double>();
    for (size_t j = 0; j < a.size(); ++j) CHECK(a[j] == doctest::Approx(b[j]).epsilon(1e-12));
  }
}

TEST_CASE("checkpoint: hooks fire once, with the whole gradient") {
  Net net;
  int calls = 0;
  Tensor seen;
  on_gradient_ready(net.weights[1], [&](const Tensor& leaf) {
    ++calls;
    seen = contiguous(grad(leaf)) * 1.0;
  });
  backward(net.loss(true));
  CHECK(calls == 1);
  CHECK(same_bits(seen, grad(net.weights[1])));
}

TEST_CASE("checkpoint: what the body reads must not change before the backward pass") {
  Net net;
  const Tensor loss = net.loss(true);
  {
    NoGrad no_grad;
    fill(net.weights[2], 0.5);
  }
  CHECK_THROWS_WITH_AS(backward(loss), doctest::Contains("[checkpoint] a tensor saved"),
                       ValueError);
}

TEST_CASE("checkpoint: a graph is used once unless it is retained") {
  Net net;
  Tensor loss = net.loss(true);
  backward(loss, {}, true);
  const Tensor once = grad(net.weights[0]) * 1.0;
  backward(loss);
  const Tensor twice = grad(net.weights[0]);
  for (int64_t i = 0; i < once.numel(); ++i)
    CHECK(twice.data<float>()[i] == doctest::Approx(2 * once.data<float>()[i]));
  CHECK_THROWS_AS(backward(loss), ValueError);
}

TEST_CASE("checkpoint: without gradients it is the body") {
  Net net;
  NoGrad no_grad;
  const Tensor loss = net.loss(true);
  CHECK(net.runs == 3);
  CHECK_FALSE(loss.requires_grad());
}

TEST_CASE("checkpoint keeps the inputs of layers only") {
  Net net(Dtype::f32, 100'000);  // small blocks are not counted
  const int64_t before = memory_stats().current;
  const Tensor plain = net.loss(false);
  const int64_t kept = memory_stats().current - before;
  const Tensor checkpointed = net.loss(true);
  CHECK(memory_stats().current - before - kept < kept / 2);
}
