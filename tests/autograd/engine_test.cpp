#include "autograd/engine.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/ops/ops.h"

using namespace bessemer;

namespace {
Tensor leaf(std::initializer_list<double> list) {
  Tensor x = Tensor::from<double>(std::span(list.begin(), list.size()),
                                  {static_cast<int64_t>(list.size())});
  return set_requires_grad(x);
}
std::vector<double> flat(const Tensor& x) {
  const Tensor dense = contiguous(x);
  const auto span = dense.values<double>();
  return {span.begin(), span.end()};
}
}  // namespace

TEST_CASE("mul, add, sum, backward") {
  const Tensor a = leaf({1, 2, 3}), b = leaf({4, 5, 6});
  backward(sum(a * b + a));
  CHECK(flat(grad(a)) == std::vector<double>{5, 6, 7});
  CHECK(flat(grad(b)) == std::vector<double>{1, 2, 3});
  backward(sum(a * b));  // adds to what is there
  CHECK(flat(grad(a)) == std::vector<double>{9, 11, 13});
  clear_grad(a);
  CHECK_FALSE(grad(a).defined());
}

TEST_CASE("a value used many times gathers all its gradients before its own rule runs") {
  const Tensor x = leaf({2});
  const Tensor y = x * x;          // 4
  const Tensor z = y * y + y + x;  // x^4 + x^2 + x
  backward(z);
  CHECK(flat(grad(x))[0] == 4 * 8 + 2 * 2 + 1);
}

TEST_CASE("broadcasts are undone") {
  const Tensor column = set_requires_grad(Tensor::ones({2, 1}, Dtype::f64));
  const Tensor row = leaf({1, 2, 3});
  const Tensor scalar = set_requires_grad(Tensor::scalar(2, Dtype::f64));
  backward(sum(column * row * scalar));
  CHECK(flat(grad(column)) == std::vector<double>{12, 12});
  CHECK(flat(grad(row)) == std::vector<double>{4, 4, 4});
  CHECK(grad(scalar).item() == 12);
  CHECK(grad(scalar).ndim() == 0);
}

TEST_CASE("second and third derivatives") {
  const Tensor x = leaf({0.3});
  const Tensor y = tanh(x);
  const Tensor inputs[] = {x};
  const double t = std::tanh(0.3);
  const Tensor first = gradients(std::array{sum(y)}, inputs, {}, true, true)[0];
  CHECK(first.item() == doctest::Approx(1 - t * t));
  const Tensor second = gradients(std::array{sum(first)}, inputs, {}, true, true)[0];
  CHECK(second.item() == doctest::Approx(-2 * t * (1 - t * t)));
  const Tensor third = gradients(std::array{sum(second)}, inputs)[0];
  CHECK(third.item() == doctest::Approx((1 - t * t) * (6 * t * t - 2)));
}

TEST_CASE("gradients of inner tensors, and none where nothing depends") {
  const Tensor x = leaf({1, 2}), other = leaf({1});
  const Tensor middle = square(x);
  const Tensor loss = sum(middle * 3.0);
  const Tensor inputs[] = {middle, x, other};
  const auto result = gradients(std::array{loss}, inputs);
  CHECK(flat(result[0]) == std::vector<double>{3, 3});
  CHECK(flat(result[1]) == std::vector<double>{6, 12});
  CHECK_FALSE(result[2].defined());
  CHECK_FALSE(grad(x).defined());
}

TEST_CASE("a used-up graph, a changed tensor, a loss without gradient: typed errors") {
  const Tensor x = leaf({1, 2});
  const Tensor loss = sum(x * x);
  backward(loss, {}, true);
  backward(loss);
  CHECK(flat(grad(x)) == std::vector<double>{4, 8});
  CHECK_THROWS_AS(backward(loss), ValueError);

  const Tensor y = sum(x * x);
  {
    NoGrad guard;
    fill(x, 5);
  }
  CHECK_THROWS_WITH_AS(
      backward(y),
      "[mul] a tensor saved for the gradient was changed in place (version 1, saved at 0)",
      ValueError);
  CHECK_THROWS_AS(fill(x, 1), ValueError);  // a leaf, while gradients are recorded
  CHECK_THROWS_AS(backward(Tensor::scalar(1)), ValueError);
  CHECK_THROWS_AS(backward(x * x), ValueError);  // two elements, no gradient given
  CHECK_THROWS_AS(set_requires_grad(Tensor::arange(3)), TypeError);
  CHECK_THROWS_AS(set_requires_grad(x * 2.0, false), ValueError);
  CHECK_THROWS_AS(set_grad(x, Tensor::zeros({3}, Dtype::f64)), ValueError);
}

TEST_CASE("NoGrad records nothing, comparisons and casts to integers carry none") {
  const Tensor x = leaf({1, 2});
  {
    NoGrad guard;
    CHECK_FALSE((x * x).requires_grad());
    EnableGrad inner;
    CHECK((x * x).requires_grad());
  }
  CHECK_FALSE(lt(x, x).requires_grad());
  CHECK_FALSE(cast(x, Dtype::i64).requires_grad());
  CHECK(cast(x, Dtype::f32).requires_grad());
  CHECK_FALSE((x * 2.0).detach().requires_grad());
}

TEST_CASE("gradients land in memory given beforehand") {
  const Tensor x = leaf({1, 2});
  const Tensor home = Tensor::zeros({2}, Dtype::f64);
  set_grad(x, home);
  backward(sum(square(x)));
  CHECK(flat(home) == std::vector<double>{2, 4});
}

TEST_CASE("hooks fire once a pass, when the gradient is final") {
  const Tensor x = leaf({1}), y = leaf({1});
  std::vector<std::string> order;
  on_gradient_ready(x, [&](const Tensor& t) { order.push_back(cat("x", grad(t).item())); });
  on_gradient_ready(y, [&](const Tensor&) { order.push_back("y"); });
  const Tensor early = x * 3.0;
  backward(sum(early * y + x * y));
  CHECK(order == std::vector<std::string>{"y", "x4"});
}

TEST_CASE("a long chain is freed without recursion") {
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < 200000; ++i) y = y + x;
  backward(y, {}, true);
  CHECK(grad(x).item() == 200001);
  y = Tensor();
}
