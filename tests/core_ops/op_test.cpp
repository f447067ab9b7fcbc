// Values, shapes and errors of rows against plain definitions.
#include <doctest/doctest.h>

#include <atomic>
#include <limits>
#include <thread>

#include "tests/core_ops/gradcheck.h"

using namespace bessemer;
using bessemer::testing::draw;

namespace {
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> flat(const Tensor& x) {
  const Tensor dense = contiguous(x);
  const T* data = dense.data<T>();
  return {data, data + dense.numel()};
}
Tensor floats(std::initializer_list<float> values, const Shape& shape) {
  return Tensor::from<float>(std::span(values.begin(), values.size()), shape);
}
Tensor longs(std::initializer_list<int64_t> values, const Shape& shape) {
  return Tensor::from<int64_t>(std::span(values.begin(), values.size()), shape);
}
template <class Body>
std::string message(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
double largest_difference(const Tensor& a, const Tensor& b) {
  return amax(abs(cast(a, Dtype::f64) - cast(b, Dtype::f64))).item();
}
}  // namespace

TEST_CASE("sum over any dimensions equals the definition") {
  const Tensor x = draw({2, 3, 1, 4, 5}, 1);
  const Tensor x32 = cast(x, Dtype::f32);
  for (unsigned mask = 1; mask < 32; ++mask) {
    std::vector<int64_t> list;
    for (int i = 0; i < 5; ++i)
      if (mask >> i & 1) list.push_back(i);
    Tensor expected = x;  // one dimension after another, by adding slices
    for (const int64_t d : list) {
      Tensor total = slice(expected, d, 0, 1);
      for (int64_t i = 1; i < expected.size(d); ++i) total = total + slice(expected, d, i, i + 1);
      expected = total;
    }
    const Dims dims{std::span<const int64_t>(list)};
    CHECK(sum(x, dims, true).sizes() == expected.sizes());
    CHECK(largest_difference(sum(x, dims, true), expected) < 1e-13);
    CHECK(largest_difference(sum(x32, dims, true), expected) < 1e-5);
    CHECK(sum(x, dims).ndim() == 5 - static_cast<int>(list.size()));
  }
}

TEST_CASE("sums do not depend on strides or threads") {
  Tensor x = cast(draw({300, 70}, 2), Dtype::f32);
  const Tensor copy = contiguous(transpose(x));  // the same numbers in another order of memory
  CHECK(flat<float>(sum(x, 0)) == flat<float>(sum(transpose(copy), 0)));
  CHECK(flat<float>(sum(x, 1)) == flat<float>(sum(transpose(copy), 1)));
  CHECK(sum(x).item() == sum(transpose(copy)).item());
  x = cast(draw({1 << 19}, 3), Dtype::f32);
  const double one = sum(x).item();
  cpu::set_threads(2);
  CHECK(sum(x).item() == one);
  cpu::set_threads(1);
  CHECK(one == doctest::Approx(sum(cast(x, Dtype::f64)).item()));
}

TEST_CASE("reductions of nothing, of bools and with NaN") {
  CHECK(sum(Tensor::empty({0, 3}), 0).numel() == 3);
  CHECK(flat<float>(sum(Tensor::empty({0, 3}), 0)) == std::vector<float>{0, 0, 0});
  CHECK(flat<float>(prod(Tensor::empty({0, 2}), 0)) == std::vector<float>{1, 1});
  CHECK_THROWS_AS(amax(Tensor::empty({0, 3}), 0), ValueError);
  CHECK(amax(Tensor::empty({0, 3}), 1).numel() == 0);
  const Tensor bits = gt(floats({1, -1, 2}, {3}), Tensor::scalar(0));
  CHECK(sum(bits).dtype() == Dtype::i64);
  CHECK(sum(bits).item() == 2);
  const Tensor x = floats({1, kNaN, 3, 2}, {4});
  CHECK(std::isnan(amax(x).item()));
  CHECK(std::isnan(amin(x).item()));
  CHECK(argmax(x).item() == 1);
  CHECK(argmin(x).item() == 1);
  CHECK(argmax(floats({1, 3, 3}, {3})).item() == 1);
  CHECK(message([&] { sum(x, {0, 0}); }) == "[sum] dimension 0 is named twice");
  CHECK_THROWS_AS(sum(x, 1), IndexError);
}

TEST_CASE("scans") {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {3, 2});
  CHECK(flat<float>(cumsum(x, 0)) == std::vector<float>{1, 2, 4, 6, 9, 12});
  CHECK(flat<float>(cumsum(x, 0, true)) == std::vector<float>{9, 12, 8, 10, 5, 6});
  CHECK(flat<float>(cumsum(transpose(x), 0)) == std::vector<float>{1, 3, 5, 3, 7, 11});
  CHECK(flat<int64_t>(cumsum(longs({1, 2, 3}, {3}))) == std::vector<int64_t>{1, 3, 6});
  const Tensor half = floats({0.5f}, {1, 1});
  CHECK(flat<float>(linear_scan(half, x)) == std::vector<float>{1, 2, 3.5f, 5, 6.75f, 8.5f});
  CHECK(flat<float>(linear_scan(half, x, 0, true)) ==
        std::vector<float>{3.75f, 5.5f, 5.5f, 7, 5, 6});
}

TEST_CASE("views share storage, copies do not") {
  const Tensor x = Tensor::arange(12);
  const Tensor grid = reshape(x, {3, -1});
  CHECK(grid.raw() == x.raw());
  CHECK(transpose(grid).raw() == x.raw());
  CHECK(reshape(transpose(grid), {12}).raw() != x.raw());
  CHECK(flat<int64_t>(reshape(transpose(grid), {12})) ==
        std::vector<int64_t>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  CHECK(reshape(slice(grid, 0, 0, 3, 2), {2, 2, 2}).impl()->storage == x.impl()->storage);
  CHECK(flat<int64_t>(slice(x, 0, -1, -13, -4)) == std::vector<int64_t>{11, 7, 3});
  CHECK(flat<int64_t>(slice(x, 0, 2, 100, 5)) == std::vector<int64_t>{2, 7});
  CHECK(slice(x, 0, 5, 2).numel() == 0);
  CHECK(slice(x, 0, -100, 100).numel() == 12);
  CHECK(flat<int64_t>(pad(longs({7}, {1}), 0, 1, 2, 3)) == std::vector<int64_t>{3, 7, 3, 3});
  CHECK(message([&] { reshape(x, {5, -1}); }) == "[reshape] cannot reshape (12,) to (5, -1)");
  CHECK(message([&] { expand(grid, {2, 4}); }) == "[expand] cannot expand (3, 4) to (2, 4)");
  CHECK(message([&] {
          permute(grid, {0, 0});
        }) == "[permute] dimension 0 is named twice in (0, 0)");
  CHECK_THROWS_AS(slice(x, 0, 0, 3, 0), ValueError);
  CHECK(flat<int64_t>(cat_pair(longs({1}, {1}), longs({2, 3}, {2}))) ==
        std::vector<int64_t>{1, 2, 3});
  CHECK(cat_pair(longs({1}, {1}), floats({2}, {1})).dtype() == Dtype::f32);
  CHECK(message([&] {
          cat_pair(grid, x);
        }).starts_with("[cat_pair] shapes differ outside dimension 0"));
}

TEST_CASE("an index out of range names its value and place") {
  const Tensor x = floats({1, 2, 3}, {3});
  CHECK(message([&] {
          index_select(x, 0, longs({0, 3}, {2}));
        }) == "[index_select] index 3 at position 1 is out of range for a dimension of 3");
  CHECK_THROWS_AS(gather(x, 0, longs({-1}, {1})), IndexError);
  CHECK_THROWS_AS(scatter_add(x, 0, longs({3}, {1}), floats({1}, {1})), IndexError);
  CHECK_THROWS_AS(gather(x, 0, floats({0}, {1})), TypeError);
  CHECK_THROWS_AS(one_hot(longs({4}, {1}), 4), IndexError);
}

TEST_CASE("selection") {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(flat<float>(gather(x, 1, longs({2, 0}, {2, 1}))) == std::vector<float>{3, 4});
  CHECK(flat<float>(gather(transpose(x), 0, longs({2, 0}, {1, 2}))) == std::vector<float>{3, 4});
  CHECK(flat<float>(gather(x, 0, expand(longs({1, 0, 1}, {3, 1}), {3, 3}))) ==
        std::vector<float>{4, 5, 6, 1, 2, 3, 4, 5, 6});
  CHECK(flat<float>(scatter_add(x, 1, longs({0, 0, 2, 1}, {2, 2}), floats({1, 2, 3, 4}, {2, 2}))) ==
        std::vector<float>{4, 2, 3, 4, 9, 9});
  CHECK(flat<float>(index_select(x, 1, longs({2, 2, 0}, {3}))) ==
        std::vector<float>{3, 3, 1, 6, 6, 4});
  CHECK(flat<float>(where(longs({1, 0}, {2, 1}), x, Tensor::scalar(0))) ==
        std::vector<float>{1, 2, 3, 0, 0, 0});
  const Tensor keys = floats({2, kNaN, 1, 2}, {4});
  CHECK(flat<int64_t>(argsort(keys)) == std::vector<int64_t>{2, 0, 3, 1});
  CHECK(flat<int64_t>(argsort(keys, 0, true)) == std::vector<int64_t>{1, 0, 3, 2});
  CHECK(flat<float>(sort(floats({3, 1, 2}, {3}))) == std::vector<float>{1, 2, 3});
  CHECK(flat<float>(one_hot(longs({1, 0}, {2}), 2)) == std::vector<float>{0, 1, 1, 0});
}

TEST_CASE("products: strides, batches, dtypes, errors") {
  const Tensor a = draw({2, 3, 4}, 4), b = draw({4, 5}, 5);
  auto plain = [](const Tensor& p, const Tensor& q) {  // [m, k] x [k, n]
    return sum(unsqueeze(p, 2) * unsqueeze(q, 0), 1);
  };
  for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
    const double tolerance = dtype == Dtype::f64 ? 1e-13 : 1e-5;
    const Tensor p = cast(a, dtype), q = cast(b, dtype);
    for (int i = 0; i < 2; ++i)
      CHECK(largest_difference(select(matmul(p, q), 0, i), plain(select(a, 0, i), b)) < tolerance);
    const Tensor turned = permute(p, {1, 0, 2});  // batches that cannot be folded into rows
    CHECK(largest_difference(select(matmul(turned, q), 0, 1),
                             plain(select(permute(a, {1, 0, 2}), 0, 1), b)) < tolerance);
    CHECK(largest_difference(matmul(transpose(q), select(transpose(p), 0, 1)),
                             plain(transpose(b), select(transpose(a), 0, 1))) < tolerance);
    CHECK(matmul(p, select(q, 1, 0)).sizes() == Shape{2, 3});
    CHECK(matmul(select(q, 1, 0), q).sizes() == Shape{5});
  }
  CHECK(flat<int64_t>(matmul(longs({1, 2, 3, 4}, {2, 2}), longs({5, 6}, {2}))) ==
        std::vector<int64_t>{17, 39});
  CHECK(flat<float>(matmul(Tensor::empty({2, 0}), Tensor::empty({0, 1}))) ==
        std::vector<float>{0, 0});
  CHECK(largest_difference(matmul(cast(b, Dtype::bf16), cast(transpose(b), Dtype::bf16)),
                           matmul(b, transpose(b))) < 0.2);
  CHECK(message([&] {
          matmul(Tensor::empty({4, 8}), Tensor::empty({7, 3}));
        }) == "[matmul] inner sizes differ: (4, 8) x (7, 3)");
  CHECK(message([&] {
          linear(Tensor::empty({4, 8}), Tensor::empty({3, 7}));
        }) == "[linear] inner sizes differ: (4, 8) x (3, 7) transposed");
}

TEST_CASE("one row and many rows of a layer give the same bits") {
  const Tensor x = cast(draw({37, 500}, 6), Dtype::f32), w = cast(draw({70, 500}, 7), Dtype::f32);
  const Tensor bias = cast(draw({70}, 8), Dtype::f32);
  const Tensor all = linear(x, w, bias, cpu::Activation::tanh);
  for (int64_t i = 0; i < 37; ++i)
    CHECK(flat<float>(linear(select(x, 0, i), w, bias, cpu::Activation::tanh)) ==
          flat<float>(select(all, 0, i)));
  CHECK(flat<float>(matmul(x, transpose(w))) == flat<float>(linear(x, w)));
  cpu::set_threads(2);
  const Tensor big = cast(draw({512, 500}, 9), Dtype::f32);
  const Tensor threaded = linear(big, w, bias);
  cpu::set_threads(1);
  CHECK(flat<float>(threaded) == flat<float>(linear(big, w, bias)));
}

TEST_CASE("a narrow product gives the bits of a wide one") {
  const Tensor g = cast(draw({900, 64}, 13), Dtype::f32), x = cast(draw({900, 4}, 14), Dtype::f32);
  const Tensor wide = concat(std::array{x, Tensor::zeros({900, 60})}, 1);
  CHECK(flat<float>(matmul(transpose(g), x)) ==
        flat<float>(slice(matmul(transpose(g), wide), 1, 0, 4)));
}

TEST_CASE("a layer sees new weights") {
  const Tensor x = Tensor::ones({2, 4}), w = Tensor::ones({3, 4});
  CHECK(linear(x, w).data<float>()[0] == 4);
  fill(w, 2);
  CHECK(linear(x, w).data<float>()[0] == 8);
  CHECK(flat<float>(linear(x, slice(w, 0, 1, 2))) ==
        std::vector<float>{8, 8});  // a view packs apart
}

TEST_CASE("many views of one weight, and threads that meet a fresh weight") {
  const Tensor x = cast(draw({5, 24}, 15), Dtype::f32), w = cast(draw({200, 24}, 16), Dtype::f32);
  for (int64_t i = 0; i < 100; ++i)
    CHECK(flat<float>(linear(x, slice(w, 0, i, i + 100))) ==
          flat<float>(matmul(x, transpose(slice(w, 0, i, i + 100)))));
  const auto expected = flat<float>(matmul(x, transpose(w)));
  std::atomic<int> wrong{0};
  for (int round = 0; round < 50; ++round) {
    const Tensor fresh = add(w, Tensor::scalar(0));
    auto body = [&] { wrong += flat<float>(linear(x, fresh)) != expected; };
    std::thread other(body);
    body();
    other.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("convolution equals its definition") {
  const Tensor x = draw({2, 3, 6, 5}, 10), w = draw({4, 3, 3, 2}, 11), bias = draw({4}, 12);
  for (const auto& [stride, padding] : {std::pair<int64_t, int64_t>{1, 0}, {2, 1}, {3, 2}}) {
    const Tensor y = conv2d(x, w, bias, stride, padding);
    double worst = 0;
    for (int64_t n = 0; n < 2; ++n)
      for (int64_t o = 0; o < 4; ++o)
        for (int64_t i = 0; i < y.size(2); ++i)
          for (int64_t j = 0; j < y.size(3); ++j) {
            double total = bias.data<double>()[o];
            for (int64_t c = 0; c < 3; ++c)
              for (int64_t p = 0; p < 3; ++p)
                for (int64_t q = 0; q < 2; ++q) {
                  const int64_t row = i * stride + p - padding, column = j * stride + q - padding;
                  if (row < 0 || row >= 6 || column < 0 || column >= 5) continue;
                  total += x.data<double>()[((n * 3 + c) * 6 + row) * 5 + column] *
                           w.data<double>()[((o * 3 + c) * 3 + p) * 2 + q];
                }
            const double got = y.data<double>()[((n * 4 + o) * y.size(2) + i) * y.size(3) + j];
            worst = std::max(worst, std::abs(got - total));
          }
    CHECK(worst < 1e-12);
    const Tensor y32 =
        conv2d(cast(x, Dtype::f32), cast(w, Dtype::f32), cast(bias, Dtype::f32), stride, padding);
    CHECK(largest_difference(y32, y) < 1e-4);
  }
  CHECK(message([&] { conv2d(x, draw({4, 2, 3, 2}, 1)); }).starts_with("[conv2d] channels differ"));
  CHECK_THROWS_AS(conv2d(x, draw({4, 3, 7, 2}, 1)), ValueError);
}

TEST_CASE("rows: extremes and halves") {
  const Tensor x = floats({1000, 1001, -1e30f, 0}, {2, 2});
  const auto p = flat<float>(softmax(x));
  CHECK(p[0] == doctest::Approx(0.26894142));
  CHECK(p[2] == 0);
  CHECK(p[3] == 1);
  CHECK(flat<float>(log_softmax(x))[1] == doctest::Approx(-0.31326169));
  CHECK(softmax(cast(x, Dtype::bf16)).dtype() == Dtype::bf16);
  CHECK_THROWS_AS(softmax(longs({1}, {1})), TypeError);
  CHECK_THROWS_AS(softmax(Tensor::scalar(1)), ValueError);
  CHECK(logsumexp(floats({-INFINITY, -INFINITY}, {2})).item() == -INFINITY);
}

TEST_CASE("draws are functions of seed, counter and place") {
  const Tensor seed = Tensor::scalar(7, Dtype::i64), zero = Tensor::scalar(0, Dtype::i64);
  const Tensor u = random_uniform({100000}, seed, zero), z = random_normal({100000}, seed, zero);
  CHECK(flat<float>(slice(u, 0, 0, 10)) == flat<float>(random_uniform({10}, seed, zero)));
  CHECK(flat<float>(slice(z, 0, 0, 7)) == flat<float>(random_normal({7}, seed, zero)));
  CHECK(flat<float>(slice(u, 0, 0, 10)) !=
        flat<float>(random_uniform({10}, seed, Tensor::scalar(1, Dtype::i64))));
  CHECK(flat<float>(slice(u, 0, 0, 10)) !=
        flat<float>(random_uniform({10}, Tensor::scalar(8, Dtype::i64), zero)));
  CHECK(amin(u).item() >= 0);
  CHECK(amax(u).item() < 1);
  CHECK(std::abs(mean(u).item() - 0.5) < 0.005);  // 5 sigma is 0.0046
  CHECK(std::abs(var(u).item() - 1 / 12.0) < 0.002);
  CHECK(std::abs(mean(z).item()) < 0.016);  // 5 sigma
  CHECK(std::abs(var(z).item() - 1) < 0.023);
  CHECK_THROWS_AS(random_uniform({2}, Tensor::scalar(7), zero), TypeError);
}

TEST_CASE("categorical draws invert the distribution function") {
  const Tensor logits = floats({0, 0, -1e9f, 0}, {1, 4});
  auto at = [&](float u) { return categorical_sample(logits, floats({u}, {1})).item(); };
  CHECK(at(0) == 0);
  CHECK(at(0.34f) == 1);
  CHECK(at(0.67f) == 3);
  CHECK(at(0.99999994f) == 3);
  CHECK_THROWS_AS(at(1), ValueError);
  CHECK_THROWS_AS(categorical_sample(floats({kNaN, 0}, {1, 2}), floats({0.5f}, {1})), ValueError);
  CHECK_THROWS_AS(categorical_sample(logits, floats({0.5f, 0.5f}, {2})), ValueError);
}

TEST_CASE("composites") {
  const Tensor x = floats({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(flat<float>(mean(x, 1)) == std::vector<float>{2, 5});
  CHECK(mean(longs({1, 2}, {2})).item() == 1.5);
  CHECK(flat<float>(var(x, 1)) == std::vector<float>{2 / 3.f, 2 / 3.f});
  CHECK(flat<float>(var(x, 1, false, 1)) == std::vector<float>{1, 1});
  CHECK(flat<float>(clamp(x, 2, 4)) == std::vector<float>{2, 2, 3, 4, 4, 4});
  CHECK(flat<float>(flip(x, 1)) == std::vector<float>{3, 2, 1, 6, 5, 4});
  CHECK(flatten(draw({2, 3, 4}, 1), 1).sizes() == Shape{2, 12});
  CHECK(stack(std::array{x, x}, 1).sizes() == Shape{2, 2, 3});
  CHECK(sum_to(x, {1, 3}).sizes() == Shape{1, 3});
  CHECK(flat<float>(sum_to(x, {3})) == std::vector<float>{5, 7, 9});
  CHECK_THROWS_AS(concat({}), ValueError);
  CHECK_THROWS_AS(squeeze(x, 0), ValueError);
}
