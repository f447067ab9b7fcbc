#include "autograd/nn/optim.h"

#include <doctest/doctest.h>
#include <cmath>

#include "autograd/engine.h"

using namespace bessemer;

namespace {
Tensor leaf(std::vector<float> values) {
  const auto n = static_cast<int64_t>(values.size());
  return set_requires_grad(Tensor::from(std::span<const float>(values), {n}));
}
}  // namespace

TEST_CASE("adam follows its formula in double for ten steps") {
  for (double decay : {0.0, 0.1}) {
    const Tensor p = leaf({1.0f, -2.0f, 0.5f});
    nn::Adam adam({p}, {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-5, .weight_decay = decay});
    double want[3] = {1, -2, 0.5}, m[3] = {}, v[3] = {};
    for (int t = 1; t <= 10; ++t) {
      backward(sum(square(p) * p));  // d = 3 p²
      adam.step(0.05);
      nn::zero_grad(adam.parameters());
      for (int i = 0; i < 3; ++i) {
        const double g = 3 * want[i] * want[i];
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.99 * v[i] + 0.01 * g * g;
        want[i] -= 0.05 * decay * want[i];
        want[i] -= 0.05 * (m[i] / (1 - std::pow(0.9, t))) /
                   (std::sqrt(v[i] / (1 - std::pow(0.99, t))) + 1e-5);
      }
    }
    CHECK(adam.steps() == 10);
    for (int i = 0; i < 3; ++i) CHECK(p.data<float>()[i] == doctest::Approx(want[i]).epsilon(1e-5));
  }
}

TEST_CASE("a parameter without a gradient stays, a scale is as a smaller gradient") {
  const Tensor a = leaf({1, 2}), b = leaf({1, 2}), c = leaf({3});
  nn::Adam scaled({a, c}), plain({b, c});
  const Tensor g = Tensor::from(std::span<const float>(std::vector<float>{4, -8}), {2});
  const Tensor half = g * 0.5;
  for (int t = 0; t < 3; ++t) {
    scaled.step(std::vector<Tensor>{g, {}}, 0.1, 0.5);
    plain.step(std::vector<Tensor>{half, {}}, 0.1);
  }
  for (int i = 0; i < 2; ++i) CHECK(a.data<float>()[i] == b.data<float>()[i]);
  CHECK(c.data<float>()[0] == 3);
  CHECK_THROWS_AS(scaled.step(std::vector<Tensor>{g}, 0.1), ValueError);
  CHECK_THROWS_AS(scaled.step(std::vector<Tensor>{c.detach(), {}}, 0.1), ValueError);
  CHECK_THROWS_AS(nn::Adam({Tensor::zeros({2}, Dtype::f64)}), TypeError);
}

TEST_CASE("moments are the optimiser's state: restoring them continues bit for bit") {
  const Tensor p = leaf({1, 2, 3, 4}), q = leaf({1, 2, 3, 4});
  nn::Adam one({p}), two({q});
  const auto step = [](nn::Adam& adam) {
    const Tensor x = adam.parameters()[0];
    backward(sum(square(x)));
    adam.step(0.01);
    nn::zero_grad(adam.parameters());
  };
  for (int t = 0; t < 5; ++t) step(one);
  nn::NamedTensors from, to;
  one.collect("adam.", from);
  two.collect("adam.", to);
  REQUIRE(from.size() == to.size());
  CHECK(from[0].first == "adam.m.0");
  for (size_t i = 0; i < from.size(); ++i) assign(to[i].second, from[i].second);
  assign(q.detach(), p.detach());
  two.set_steps(one.steps());
  for (int t = 0; t < 5; ++t) {
    step(one);
    step(two);
  }
  for (int i = 0; i < 4; ++i) CHECK(p.data<float>()[i] == q.data<float>()[i]);
}

TEST_CASE("gradients are clipped by their global norm") {
  const Tensor a = leaf({3, 0}), b = leaf({4});
  backward(sum(square(a)) * 0.5 + sum(square(b)) * 0.5);  // gradient = value, norm 5
  CHECK(nn::clip_grad_norm(std::vector{a, b}, 10) == doctest::Approx(5));
  CHECK(grad(a).data<float>()[0] == 3);
  CHECK(nn::clip_grad_norm(std::vector{a, b}, 1) == doctest::Approx(5));
  CHECK(grad(a).data<float>()[0] == doctest::Approx(0.6));
  CHECK(grad(b).data<float>()[0] == doctest::Approx(0.8));
  CHECK(nn::clip_scale(5, 0) == 1);
}
