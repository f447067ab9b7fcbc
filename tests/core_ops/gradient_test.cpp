// First and second derivatives of every row that is not elementwise.
#include <doctest/doctest.h>

#include "tests/core_ops/gradcheck.h"

using namespace bessemer;
using bessemer::testing::draw;

namespace {
Tensor index(std::initializer_list<int64_t> values, const Shape& shape) {
  return Tensor::from<int64_t>(std::span(values.begin(), values.size()), shape);
}
}  // namespace

TEST_CASE("reductions") {
  const Tensor x = draw({3, 4}, 1), cube = draw({2, 3, 4}, 2);
  CHECK_GRADIENTS(square(sum(x[0])), x);
  CHECK_GRADIENTS(square(sum(x[0], 0)), x);
  CHECK_GRADIENTS(square(sum(x[0], {0, -1})), cube);
  CHECK_GRADIENTS(square(sum(x[0], 1, true)), cube);
  CHECK_GRADIENTS(square(amax(x[0], 1)), x);
  CHECK_GRADIENTS(square(amin(x[0], {0, 2})), cube);
  CHECK_GRADIENTS(square(amax(x[0])), draw({}, 3));
  CHECK_GRADIENTS(prod(x[0], 0), x);
  CHECK_GRADIENTS(prod(x[0], 1, true), cube);
  CHECK_GRADIENTS(square(mean(x[0], 1)), x);
  CHECK_GRADIENTS(var(x[0], 0, false, 1), x);
  CHECK_GRADIENTS(logsumexp(x[0], 0), x);
}

TEST_CASE("a product's gradient is exact where factors are 0") {
  Tensor x = Tensor::from<double>(std::array{2.0, 0.0, 3.0}, {3});
  CHECK_GRADIENTS(prod(x[0]), x);
  x = Tensor::from<double>(std::array{0.0, 5.0, 0.0}, {3});
  CHECK_GRADIENTS(prod(x[0]), x);
}

TEST_CASE("equal extremes share the gradient") {
  const Tensor x = Tensor::from<float>(std::array{1.f, 3.f, 3.f, 0.f}, {4});
  set_requires_grad(x);
  backward(amax(x));
  CHECK(grad(x).data<float>()[1] == 0.5f);
  CHECK(grad(x).data<float>()[2] == 0.5f);
  CHECK(grad(x).data<float>()[0] == 0.f);
}

TEST_CASE("scans") {
  const Tensor a = draw({4, 3}, 4, 0.2, 1.2), b = draw({4, 3}, 5);
  CHECK_GRADIENTS(square(cumsum(x[0], 0)), b);
  CHECK_GRADIENTS(square(cumsum(x[0], 1, true)), b);
  CHECK_GRADIENTS(linear_scan(x[0], x[1]), a, b);
  CHECK_GRADIENTS(linear_scan(x[0], x[1], 1, true), a, b);
  CHECK_GRADIENTS(linear_scan(x[0], x[1], 0, true), draw({4, 1}, 6), b);
}

TEST_CASE("views") {
  const Tensor x = draw({3, 4}, 7), cube = draw({2, 3, 4}, 8), line = draw({7}, 9);
  CHECK_GRADIENTS(square(reshape(x[0], {2, -1})), x);
  CHECK_GRADIENTS(square(reshape(transpose(x[0]), {2, 6})), x);
  CHECK_GRADIENTS(square(permute(x[0], {2, 0, 1})), cube);
  CHECK_GRADIENTS(square(expand(x[0], {2, 3, 4})), draw({3, 1}, 10));
  CHECK_GRADIENTS(square(slice(x[0], 0, 1, 5)), line);
  CHECK_GRADIENTS(square(slice(x[0], 0, 1, 7, 3)), line);
  CHECK_GRADIENTS(square(slice(x[0], 0, 5, 0, -2)), line);
  CHECK_GRADIENTS(square(slice(x[0], 1, 2, 3, 2)), x);
  CHECK_GRADIENTS(square(slice(x[0], 2, -1, -5, -3)), cube);
  CHECK_GRADIENTS(square(flip(x[0], 1)), x);
  CHECK_GRADIENTS(square(pad(x[0], 1, 2, 1, 3.0)), x);
  CHECK_GRADIENTS(square(cat_pair(x[0], x[1], 0)), x, draw({2, 4}, 11));
  CHECK_GRADIENTS(square(concat(x, 1)), x, draw({3, 1}, 12), draw({3, 2}, 13));
  CHECK_GRADIENTS(square(stack(x, 1)), x, draw({3, 4}, 14));
  CHECK_GRADIENTS(square(select(x[0], 1, -2)), x);
  CHECK_GRADIENTS(square(contiguous(permute(x[0], {1, 0}))), x);
}

TEST_CASE("indexing") {
  const Tensor x = draw({4, 3}, 15);
  const Tensor condition = gt(draw({4, 1}, 16), Tensor::scalar(0, Dtype::f64));
  CHECK_GRADIENTS(square(where(condition, x[0], x[1])), x, draw({3}, 17));
  CHECK_GRADIENTS(square(gather(x[0], 1, index({2, 0, 1, 1}, {4, 1}))), x);
  CHECK_GRADIENTS(square(gather(x[0], 0, index({3, 0, 0, 1}, {2, 2}))), x);
  CHECK_GRADIENTS(square(scatter_add(x[0], 0, index({1, 1, 3, 0, 0, 1}, {2, 3}), x[1])), x,
                  draw({2, 3}, 18));
  CHECK_GRADIENTS(square(index_select(x[0], 0, index({3, 3, 0, 1, 2}, {5}))), x);
  CHECK_GRADIENTS(square(index_select(x[0], 1, index({2, 2}, {2}))), x);
  CHECK_GRADIENTS(square(sort(x[0], 0, true)), x);
}

TEST_CASE("products") {
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({3, 4}, 20), draw({4, 2}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({4}, 20), draw({4}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({4}, 20), draw({4, 2}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({2, 3, 4}, 20), draw({4}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({2, 3, 4}, 20), draw({4, 2}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({3, 4}, 20), draw({2, 4, 2}, 21));
  CHECK_GRADIENTS(matmul(x[0], x[1]), draw({2, 1, 3, 4}, 20), draw({3, 4, 2}, 21));
  CHECK_GRADIENTS(matmul(transpose(x[0]), transpose(x[1])), draw({4, 3}, 20), draw({2, 4}, 21));
}

TEST_CASE("linear with every activation") {
  using cpu::Activation;
  const Tensor x0 = draw({3, 4}, 22), w = draw({5, 4}, 23), b = draw({5}, 24);
  for (const Activation act : {Activation::none, Activation::relu, Activation::tanh,
                               Activation::sigmoid, Activation::silu, Activation::gelu}) {
    CAPTURE(static_cast<int>(act));
    CHECK_GRADIENTS(linear(x[0], x[1], x[2], act), x0, w, b);
    CHECK_GRADIENTS(linear(x[0], x[1], {}, act), x0, w);
  }
  CHECK_GRADIENTS(linear(x[0], x[1], x[2], Activation::tanh), draw({4}, 25), w, b);
  CHECK_GRADIENTS(linear(x[0], x[1], x[2], Activation::tanh), draw({2, 3, 4}, 26), w, b);
}

TEST_CASE("convolution and its adjoints") {
  const Tensor image = draw({2, 2, 5, 4}, 27), w = draw({3, 2, 3, 2}, 28), b = draw({3}, 29);
  CHECK_GRADIENTS(conv2d(x[0], x[1], x[2]), image, w, b);
  CHECK_GRADIENTS(conv2d(x[0], x[1], {}, 2, 1), image, w);
  CHECK_GRADIENTS(square(conv2d(x[0], x[1], x[2], 3, 2)), draw({1, 2, 2, 2}, 30),
                  draw({3, 2, 1, 5}, 31), b);
  CHECK_GRADIENTS(conv2d_backward_input(x[0], x[1], 5, 4), draw({2, 3, 3, 3}, 32), w);
  CHECK_GRADIENTS(conv2d_backward_weight(x[0], x[1], 3, 2), image, draw({2, 3, 3, 3}, 33));
}

TEST_CASE("rows") {
  const Tensor x0 = draw({3, 5}, 34), w = draw({5}, 35), b = draw({5}, 36);
  CHECK_GRADIENTS(softmax(x[0]), x0);
  CHECK_GRADIENTS(log_softmax(x[0]), x0);
  CHECK_GRADIENTS(softmax_backward(x[0], x[1]), x0, draw({3, 5}, 37));
  CHECK_GRADIENTS(log_softmax_backward(x[0], x[1]), x0, draw({3, 5}, 37));
  CHECK_GRADIENTS(layer_norm(x[0], x[1], x[2]), x0, w, b);
  CHECK_GRADIENTS(layer_norm(x[0], {}, x[1]), x0, b);
  CHECK_GRADIENTS(layer_norm(x[0]), draw({2, 2, 5}, 38));
}

TEST_CASE("decompositions give the values of their rows") {
  const Tensor x = draw({3, 5}, 39), w = draw({5}, 40), none;
  auto compare = [](OpId id, const Attrs& attrs, std::vector<Tensor> in) {
    std::vector<const Tensor*> pointers;
    for (const Tensor& t : in) pointers.push_back(&t);
    Tensor direct, parts;
    op_info(id).cpu(pointers.data(), attrs, &direct);
    op_info(id).decompose(pointers.data(), attrs, &parts);
    return amax(abs(direct - parts)).item();
  };
  CHECK(compare(OpId::softmax, Attrs(), {x}) < 1e-14);
  CHECK(compare(OpId::log_softmax, Attrs(), {x}) < 1e-14);
  CHECK(compare(OpId::layer_norm, Attrs::of(1e-5), {x, w, w}) < 1e-13);
  const auto f32 = [](const Tensor& t) { return cast(t, Dtype::f32); };
  CHECK(compare(OpId::linear, Attrs::of(cpu::Activation::gelu),
                {f32(x), f32(draw({7, 5}, 41)), none}) < 1e-5);
}
