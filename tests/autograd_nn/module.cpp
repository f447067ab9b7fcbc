#include "autograd/nn/module.h"

#include <doctest/doctest.h>
#include <cmath>

#include "autograd/engine.h"

using namespace bessemer;

namespace {
/// Largest |Q Qᵀ - gain² I| over the shorter side.
double orthogonality(const Tensor& w, double gain) {
  const int64_t rows = w.size(0), columns = w.numel() / rows;
  const float* x = w.data<float>();
  const bool wide = rows <= columns;
  const int64_t n = wide ? rows : columns, m = wide ? columns : rows;
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < m; ++k)
        dot += static_cast<double>(wide ? x[i * m + k] : x[k * n + i]) *
               (wide ? x[j * m + k] : x[k * n + j]);
      worst = std::max(worst, std::fabs(dot - (i == j ? gain * gain : 0)));
    }
  }
  return worst;
}
}  // namespace

TEST_CASE("orthogonal matrices are orthonormal along their shorter side, times the gain") {
  nn::Init init{3};
  CHECK(orthogonality(init.orthogonal({5, 40}, 1), 1) < 1e-6);
  CHECK(orthogonality(init.orthogonal({64, 4}, std::sqrt(2.0)), std::sqrt(2.0)) < 1e-6);
  CHECK(orthogonality(init.orthogonal({64, 64}, 0.01), 0.01) < 1e-8);
  CHECK(orthogonality(init.orthogonal({8, 3, 2, 2}, 1), 1) < 1e-6);
  CHECK_THROWS_AS(init.orthogonal({8}, 1), ValueError);
}

TEST_CASE("each parameter has its own numbers, the same ones for the same seed") {
  nn::Init a{7}, b{7}, other{8};
  const Tensor first = a.normal({1000}, 2), second = a.normal({1000}, 2);
  const Tensor again = b.normal({1000}, 2), seeded = other.normal({1000}, 2);
  double sum = 0, squares = 0;
  bool equal = true, differs = false, seed_differs = false;
  for (int64_t i = 0; i < 1000; ++i) {
    const float x = first.data<float>()[i];
    sum += x;
    squares += x * x;
    equal &= x == again.data<float>()[i];
    differs |= x != second.data<float>()[i];
    seed_differs |= x != seeded.data<float>()[i];
  }
  CHECK(equal);
  CHECK(differs);
  CHECK(seed_differs);
  CHECK(std::fabs(sum / 1000) < 0.2);
  CHECK(std::sqrt(squares / 1000) == doctest::Approx(2).epsilon(0.1));
}

TEST_CASE("an mlp is its layers and names its parameters by position") {
  nn::Init init{1};
  const int64_t hidden[] = {3, 2};
  const nn::Mlp mlp(4, hidden, 1, cpu::Activation::tanh, init, true, 0.01);
  const nn::NamedTensors names = mlp.named_parameters();
  REQUIRE(names.size() == 6);
  CHECK(names[0].first == "0.weight");
  CHECK(names[5].first == "2.bias");
  NoGrad no_grad;
  const Tensor x = Tensor::full({5, 4}, 0.5);
  Tensor y = x;
  for (size_t i = 0; i < 3; ++i) {
    y = add(matmul(y, transpose(names[2 * i].second)), names[2 * i + 1].second);
    if (i < 2) y = tanh(y);
  }
  const Tensor got = mlp(x);
  for (int64_t i = 0; i < 5; ++i)
    CHECK(got.data<float>()[i] == doctest::Approx(y.data<float>()[i]).epsilon(1e-5));
}

TEST_CASE("a GRU cell follows torch.nn.GRUCell's equations") {
  nn::Init init{5};
  const nn::GruCell cell(2, 3, init);
  NoGrad no_grad;
  const Tensor x = init.normal({4, 2}, 1), h = init.normal({4, 3}, 1);
  const Tensor next = cell(x, h);
  const auto dot = [](const Tensor& w, const Tensor& b, int64_t row, const Tensor& v, int64_t r) {
    double total = b.data<float>()[row];
    for (int64_t k = 0; k < v.size(1); ++k)
      total += static_cast<double>(w.data<float>()[row * v.size(1) + k]) *
               v.data<float>()[r * v.size(1) + k];
    return total;
  };
  const auto squash = [](double v) { return 1 / (1 + std::exp(-v)); };
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t j = 0; j < 3; ++j) {
      const auto in = [&](int64_t g) { return dot(cell.weight_ih, cell.bias_ih, g * 3 + j, x, r); };
      const auto rec = [&](int64_t g) {
        return dot(cell.weight_hh, cell.bias_hh, g * 3 + j, h, r);
      };
      const double reset = squash(in(0) + rec(0)), update = squash(in(1) + rec(1));
      const double candidate = std::tanh(in(2) + reset * rec(2));
      const double expected = (1 - update) * candidate + update * h.data<float>()[r * 3 + j];
      CHECK(next.data<float>()[r * 3 + j] == doctest::Approx(expected).epsilon(1e-5));
    }
  }
}

TEST_CASE("a convolution module has parameters and gradients of its shape") {
  nn::Init init{2};
  const nn::Conv2d convolution(3, 8, 4, 2, 0, init, std::sqrt(2.0));
  const Tensor y = convolution(Tensor::full({2, 3, 8, 8}, 0.1));
  CHECK(shape_text(y.sizes()) == "(2, 8, 3, 3)");
  backward(sum(y));
  CHECK(grad(convolution.weight).sizes() == convolution.weight.sizes());
  CHECK(grad(convolution.bias).data<float>()[0] == doctest::Approx(18));
}
