#include <doctest/doctest.h>

#include <cmath>
#include <set>
#include <thread>

#include "core/ops/ops.h"

using namespace bessemer;

namespace {
Tensor values(std::initializer_list<float> list, const Shape& shape) {
  return Tensor::from<float>(std::span(list.begin(), list.size()), shape);
}
std::vector<float> flat(const Tensor& x) {
  const Tensor dense = contiguous(cast(x, Dtype::f32));
  const auto span = dense.values<float>();
  return {span.begin(), span.end()};
}
}  // namespace

TEST_CASE("a handle is 8 bytes and shares its elements") {
  Tensor a = values({1, 2, 3, 4}, {2, 2});
  Tensor b = a;
  b.data<float>()[0] = 9;
  CHECK(a.data<float>()[0] == 9);
  Tensor moved = std::move(b);
  CHECK_FALSE(b.defined());
  CHECK(moved.size(-1) == 2);
  CHECK_THROWS_AS(a.data<double>(), TypeError);
  CHECK_THROWS_AS(a.size(2), IndexError);
}

TEST_CASE("creation: zeros, full, arange, empty shapes and 0-d") {
  CHECK(flat(Tensor::zeros({2, 2})) == std::vector<float>{0, 0, 0, 0});
  CHECK(flat(Tensor::full({3}, 2.5)) == std::vector<float>{2.5, 2.5, 2.5});
  CHECK(flat(Tensor::full({5}, 3, Dtype::i8)) == std::vector<float>{3, 3, 3, 3, 3});
  CHECK(flat(Tensor::arange(4)) == std::vector<float>{0, 1, 2, 3});
  CHECK(Tensor::zeros({0, 3}).numel() == 0);
  CHECK(Tensor::scalar(2).item() == 2);
  CHECK(Tensor::scalar(2).ndim() == 0);
  CHECK_THROWS_AS(Tensor::zeros({-1}), ValueError);
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 40, int64_t{1} << 40}), MemoryError);
  CHECK_THROWS_AS(Tensor::empty({int64_t{1} << 50}), MemoryError);
  CHECK_THROWS_AS(Tensor::zeros({3}).item(), ValueError);
}

TEST_CASE("memory is 64-byte aligned for every size and counted from 4 KiB") {
  for (int64_t n : {1, 7, 16, 100, 1000, 5000, 70000, 300000, 5000000}) {
    const Tensor x = Tensor::empty({n});
    REQUIRE(reinterpret_cast<uintptr_t>(x.raw()) % 64 == 0);
  }
  const int64_t before = memory_stats().current;
  {
    const Tensor x = Tensor::empty({1 << 20});
    CHECK(memory_stats().current - before == int64_t{4} << 20);
  }
  CHECK(memory_stats().current == before);
}

TEST_CASE("memory of a step is there for the next one") {
  const auto step = [](int64_t elements, std::set<const void*>& blocks) {
    std::vector<Tensor> all;
    for (int i = 0; i < 12; ++i) {
      all.push_back(Tensor::empty({elements}, Dtype::f32));
      blocks.insert(all.back().raw());
    }
  };
  std::set<const void*> first, second;
  step(1 << 20, first);
  step(1 << 20, second);
  CHECK(first == second);
  // Other sizes take the place of those that are no longer needed, and stay then.
  first.clear();
  second.clear();
  step(5 << 18, first);
  step(5 << 18, second);
  CHECK(first == second);
}

TEST_CASE("a tensor may be freed on another thread") {
  for (int i = 0; i < 50; ++i) {
    Tensor x = Tensor::full({1000}, i);
    std::thread([moved = std::move(x), i] { CHECK(moved.data<float>()[999] == i); }).join();
  }
}

TEST_CASE("arithmetic broadcasts as NumPy") {
  const Tensor a = values({1, 2, 3, 4, 5, 6}, {2, 3}), row = values({10, 20, 30}, {3}),
               column = values({100, 200}, {2, 1});
  CHECK(flat(a + row) == std::vector<float>{11, 22, 33, 14, 25, 36});
  CHECK(flat(a + column) == std::vector<float>{101, 102, 103, 204, 205, 206});
  CHECK(flat(row + column) == std::vector<float>{110, 120, 130, 210, 220, 230});
  CHECK(flat(2.0 - a) == std::vector<float>{1, 0, -1, -2, -3, -4});
  CHECK(flat(a / Tensor::scalar(2)) == std::vector<float>{0.5, 1, 1.5, 2, 2.5, 3});
  CHECK_THROWS_WITH_AS(a + values({1, 2}, {2}), "[add] shapes do not broadcast: (2, 3) and (2,)",
                       ValueError);
  CHECK((a + Tensor::zeros({0, 1, 1})).numel() == 0);
}

TEST_CASE("promotion follows one table") {
  const auto sum = [](Dtype a, Dtype b) {
    return (Tensor::ones({2}, a) + Tensor::ones({2}, b)).dtype();
  };
  CHECK(sum(Dtype::i32, Dtype::i64) == Dtype::i64);
  CHECK(sum(Dtype::u8, Dtype::i8) == Dtype::i32);
  CHECK(sum(Dtype::i64, Dtype::f16) == Dtype::f16);
  CHECK(sum(Dtype::f16, Dtype::bf16) == Dtype::f32);
  CHECK(sum(Dtype::f32, Dtype::f64) == Dtype::f64);
  CHECK(sum(Dtype::boolean, Dtype::boolean) == Dtype::i64);
  CHECK((Tensor::ones({2}, Dtype::i32) / Tensor::ones({2}, Dtype::i32)).dtype() == Dtype::f32);
  CHECK(exp(Tensor::zeros({2}, Dtype::i64)).dtype() == Dtype::f32);
  CHECK((Tensor::ones({2}, Dtype::i64) * 0.5).dtype() == Dtype::f32);
  CHECK(lt(Tensor::ones({2}), Tensor::zeros({2})).dtype() == Dtype::boolean);
  CHECK(flat(exp(Tensor::zeros({2}, Dtype::bf16))) == std::vector<float>{1, 1});
}

TEST_CASE("every dtype computes through any strides") {
  for (int d = 1; d < kDtypes; ++d) {
    const auto dtype = static_cast<Dtype>(d);
    const Tensor x = cast(values({1, 2, 3, 4, 5, 6}, {2, 3}), dtype);
    const int64_t turned[] = {1, 3};
    const Tensor t = make_view(x, {3, 2}, turned);
    CHECK_FALSE(t.contiguous());
    CHECK(flat(t) == std::vector<float>{1, 4, 2, 5, 3, 6});
    CHECK(flat(t + t) == std::vector<float>{2, 8, 4, 10, 6, 12});
    CHECK(flat(square(t)) == std::vector<float>{1, 16, 4, 25, 9, 36});
    const int64_t backwards[] = {-1};
    CHECK(flat(make_view(x, {6}, backwards, 5) * x.detach().sizes().numel()).front() == 36);
  }
}

TEST_CASE("writing in place bumps the version and is refused where it would be wrong") {
  Tensor x = Tensor::zeros({2, 3});
  const uint32_t before = x.version();
  assign(x, values({1, 2, 3}, {3}));
  CHECK(x.version() == before + 1);
  CHECK(flat(x) == std::vector<float>{1, 2, 3, 1, 2, 3});
  add_in_place(x, values({1}, {1}), 2);
  CHECK(flat(x) == std::vector<float>{3, 4, 5, 3, 4, 5});
  fill(x, 7);
  CHECK(flat(x) == std::vector<float>{7, 7, 7, 7, 7, 7});
  CHECK_THROWS_AS(assign(x, Tensor::zeros({4})), ValueError);
  const int64_t expanded[] = {0, 1};
  CHECK_THROWS_AS(fill(make_view(x, {4, 3}, expanded), 0), ValueError);

  // Overlapping views read before they write.
  Tensor line = values({1, 2, 3, 4}, {4});
  const int64_t unit[] = {1};
  assign(make_view(line, {3}, unit, 1), make_view(line, {3}, unit, 0));
  CHECK(flat(line) == std::vector<float>{1, 1, 2, 3});

  float foreign[2] = {1, 2};
  const Tensor lent = Tensor::wrap(foreign, Dtype::f32, {2}, unit, nullptr, nullptr, true);
  CHECK_THROWS_WITH_AS(fill(lent, 0), "[fill] the tensor's memory is read-only", ValueError);
}

TEST_CASE("foreign memory is released with its last tensor") {
  static int released = 0;
  float data[3] = {1, 2, 3};
  const int64_t unit[] = {1};
  {
    const Tensor x = Tensor::wrap(
        data, Dtype::f32, {3}, unit, [](void*) { ++released; }, nullptr);
    const Tensor view = x.detach();
    CHECK(flat(view + 1.0) == std::vector<float>{2, 3, 4});
    CHECK(released == 0);
  }
  CHECK(released == 1);
}

TEST_CASE("an undefined tensor is a typed error") {
  CHECK_THROWS_WITH_AS(Tensor() + Tensor::zeros({1}), "[add] an input is an undefined tensor",
                       ValueError);
}

TEST_CASE("memory of packed weights lies side by side and is used again") {
  constexpr size_t kBytes = 1 << 20;
  auto* first = static_cast<char*>(packed_allocate(kBytes));
  auto* second = static_cast<char*>(packed_allocate(kBytes));
  void* small = packed_allocate(100);
  void* large = packed_allocate(size_t{40} << 20);
  for (void* block : {static_cast<void*>(first), static_cast<void*>(second), small, large})
    CHECK(reinterpret_cast<uintptr_t>(block) % 64 == 0);
  CHECK(second - first == kBytes + 64);
  packed_free(large);
  packed_free(small);
  packed_free(first);
  auto* third = static_cast<char*>(packed_allocate(kBytes));
  CHECK(third - second == kBytes + 64);
  packed_free(second);
  packed_free(third);
  void* again = packed_allocate(kBytes);
  CHECK(again == first);
  packed_free(again);
}
