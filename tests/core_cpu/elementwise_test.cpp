// Loops of the elementwise rows, conversions and where(): every table, dtype and stride against
// plain C++, and the tables against each other bit for bit.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "core/ops/scalar.h"
#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

template <class T>
std::vector<T> values(int64_t n, uint64_t seed) {
  const auto x = draw(n, seed, -6, 6);
  std::vector<T> out(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    out[i] = static_cast<T>(static_cast<int64_t>(x[i] * 1000) / 100);
  if constexpr (std::is_floating_point_v<T>) {
    for (size_t i = 0; i < x.size(); ++i) out[i] = static_cast<T>(x[i]);
  }
  return out;
}

/// One element through the loop on its own: what every other way of calling must reproduce.
template <class In, class Out>
void check_unary(UnaryLoop loop) {
  constexpr int64_t steps[] = {1, 2, 3, -1};
  const auto x = values<In>(1300 * 3, 5);
  for (const int64_t n :
       {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 130, 511, 512, 513, 1300}) {
    for (const int64_t step_x : {int64_t{1}, int64_t{0}, int64_t{2}, int64_t{-1}}) {
      for (const int64_t step_out : steps) {
        if (n > 200 && step_out == 3) continue;
        const In* first = x.data() + (step_x < 0 ? n : 0);
        std::vector<Out> out(static_cast<size_t>(n) * 3 + 3, Out(77)), expected = out;
        const int64_t start = step_out < 0 ? n : 0;
        for (int64_t i = 0; i < n; ++i) {
          loop(1, &expected[static_cast<size_t>(start + i * step_out)], 1, first + i * step_x, 1);
        }
        loop(n, out.data() + start, step_out, first, step_x);
        CHECK(same_bits(out, expected));
      }
    }
  }
  if constexpr (std::is_same_v<In, Out>) {  // in place
    auto inside = x;
    std::vector<Out> beside(x.size());
    loop(static_cast<int64_t>(x.size()), beside.data(), 1, x.data(), 1);
    loop(static_cast<int64_t>(x.size()), inside.data(), 1, inside.data(), 1);
    CHECK(same_bits(inside, beside));
  }
}
template <class In, class Out>
void check_binary(BinaryLoop loop) {
  const auto a = values<In>(1300 * 2, 6), b = values<In>(1300 * 2, 7);
  for (const int64_t n : {0, 1, 2, 7, 16, 17, 33, 130, 512, 600, 1300}) {
    for (const int64_t step_a : {1, 0, 2}) {
      for (const int64_t step_b : {1, 0, 2}) {
        for (const int64_t step_out : {1, 2}) {
          std::vector<Out> out(static_cast<size_t>(n) * 2 + 2, Out(77)), expected = out;
          for (int64_t i = 0; i < n; ++i) {
            loop(1, &expected[static_cast<size_t>(i * step_out)], 1,
                 &a[static_cast<size_t>(i * step_a)], 1, &b[static_cast<size_t>(i * step_b)], 1);
          }
          loop(n, out.data(), step_out, a.data(), step_a, b.data(), step_b);
          CHECK(same_bits(out, expected));
        }
      }
    }
  }
}

bool is_bool(OpId op) {
  return op == OpId::logical_not || op == OpId::isfinite ||
         (op >= OpId::eq && op <= OpId::logical_or);
}
template <class T>
void check_loops(const UnaryLoop* unary, const BinaryLoop* binary) {
  for (int i = 0; unary && i < kUnaryOps; ++i) {
    CAPTURE(i);
    if (!unary[i]) continue;
    is_bool(static_cast<OpId>(i)) ? check_unary<T, uint8_t>(unary[i]) : check_unary<T, T>(unary[i]);
  }
  for (int i = 0; i < kBinaryOps; ++i) {
    CAPTURE(i);
    if (!binary[i]) continue;
    is_bool(static_cast<OpId>(kUnaryOps + i)) ? check_binary<T, uint8_t>(binary[i])
                                              : check_binary<T, T>(binary[i]);
  }
}

BinaryLoop binary_loop(const BinaryLoop* loops, OpId op) {
  return loops[static_cast<int>(op) - kUnaryOps];
}
template <class T>
T binary_value(BinaryLoop loop, T a, T b) {
  T out;
  loop(1, &out, 1, &a, 1, &b, 1);
  return out;
}

}  // namespace

TEST_CASE("loops give the same element for every stride and length") {
  for (const KernelTable* t : tables()) {
    CAPTURE(t->isa);
    check_loops<float>(t->unary_f32, t->binary_f32);
    check_loops<double>(t->unary_f64, t->binary_f64);
    check_loops<int32_t>(t->unary_i32, t->binary_i32);
    check_loops<int64_t>(t->unary_i64, t->binary_i64);
    check_loops<uint8_t>(nullptr, t->binary_u8);
    check_loops<int8_t>(nullptr, t->binary_i8);
  }
}

TEST_CASE("every row has the loops that its dtypes promise") {
  for (const KernelTable* t : tables()) {
    enum { FLOAT, NUMBER, LOGIC, COMPARE };
    int i = 0;
#define BESSEMER_UNARY(name, kind, ...)                                                           \
  CHECK((t->unary_f32[i] && t->unary_f64[i]));                                                    \
  CHECK(                                                                                          \
      ((t->unary_i32[i] != nullptr) == (kind != FLOAT) && !t->unary_i64[i] == !t->unary_i32[i])); \
  ++i;
#include "core/ops/ops.def"
    i = 0;
#define BESSEMER_BINARY(name, kind, ...)                                                    \
  CHECK((t->binary_f32[i] && t->binary_f64[i]));                                            \
  CHECK(((t->binary_i32[i] != nullptr) == (kind != FLOAT)));                                \
  CHECK((!t->binary_i64[i] == !t->binary_i32[i] && !t->binary_u8[i] == !t->binary_i32[i] && \
         !t->binary_i8[i] == !t->binary_i32[i]));                                           \
  ++i;
#include "core/ops/ops.def"
    for (int from = 0; from < kDtypes; ++from) {
      for (int to = 0; to < kDtypes; ++to) CHECK((t->cast[from][to] != nullptr));
    }
  }
}

TEST_CASE("integers wrap, maxima keep NaN") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const KernelTable* t : tables()) {
    const auto f32 = [&](OpId op) { return binary_loop(t->binary_f32, op); };
    CHECK(binary_value<int32_t>(binary_loop(t->binary_i32, OpId::add), INT32_MAX, 1) == INT32_MIN);
    CHECK(binary_value<int64_t>(binary_loop(t->binary_i64, OpId::mul), INT64_MAX, 2) == -2);
    CHECK(binary_value<uint8_t>(binary_loop(t->binary_u8, OpId::sub), 1, 2) == 255);
    CHECK(binary_value<int8_t>(binary_loop(t->binary_i8, OpId::add), 127, 1) == -128);
    CHECK(std::isnan(binary_value(f32(OpId::maximum), nan, 1.0f)));
    CHECK(std::isnan(binary_value(f32(OpId::maximum), 1.0f, nan)));
    CHECK(std::isnan(binary_value(f32(OpId::minimum), nan, 1.0f)));
    CHECK(std::isnan(binary_value(f32(OpId::minimum), 1.0f, nan)));
    CHECK(binary_value(f32(OpId::maximum), 2.0f, 3.0f) == 3.0f);
    CHECK(binary_value(f32(OpId::minimum), 2.0f, 3.0f) == 2.0f);
    int64_t x = INT64_MIN, y = 0;
    t->unary_i64[static_cast<int>(OpId::neg)](1, &y, 1, &x, 1);
    CHECK(y == INT64_MIN);
  }
}

TEST_CASE("the instruction sets with FMA agree bit for bit on every float row") {
  const auto exact = exact_tables();
  auto a = draw(5000, 31, -20, 20), b = draw(5000, 32, -8, 8);
  for (size_t i = 0; i < 1000; ++i) a[i] = std::ldexp(a[i], static_cast<int>(i % 250) - 125);
  for (const KernelTable* t : exact) {
    for (int i = 0; i < kUnaryOps; ++i) {
      std::vector<float> x(a.size()), y(a.size());
      exact[0]->unary_f32[i](5000, x.data(), 1, a.data(), 1);
      t->unary_f32[i](5000, y.data(), 1, a.data(), 1);
      for (size_t j = 0; j < x.size(); ++j) {
        if (x[j] != x[j] && y[j] != y[j]) x[j] = y[j] = 0;  // any NaN is NaN
      }
      CAPTURE(i);
      CHECK(same_bits(x, y));
    }
    for (int i = 0; i < kBinaryOps; ++i) {
      std::vector<float> x(a.size()), y(a.size());
      exact[0]->binary_f32[i](5000, x.data(), 1, a.data(), 1, b.data(), 1);
      t->binary_f32[i](5000, y.data(), 1, a.data(), 1, b.data(), 1);
      for (size_t j = 0; j < x.size(); ++j) {
        if (x[j] != x[j] && y[j] != y[j]) x[j] = y[j] = 0;
      }
      CAPTURE(i);
      CHECK(same_bits(x, y));
    }
  }
}

TEST_CASE("conversions of the half formats equal dtype.h on every input") {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> edges;
  for (uint32_t u = 0; u < 0xffff0000u; u += 9973) edges.push_back(std::bit_cast<float>(u));
  for (uint32_t h = 0; h < 0x7c00; ++h) {  // halfway between two halves, and just beside it
    const float low = to_float(f16{static_cast<uint16_t>(h)}),
                high = to_float(f16{static_cast<uint16_t>(h + 1)});
    const float middle = h == 0x7bff ? 65520.0f : low + (high - low) / 2;
    edges.insert(edges.end(),
                 {middle, -std::nextafter(middle, 1e9f), std::nextafter(middle, 0.0f)});
  }
  const auto n = static_cast<int64_t>(edges.size());
  for (const KernelTable* t : tables()) {
    const auto loop = [&](Dtype from, Dtype to) {
      return t->cast[static_cast<int>(from)][static_cast<int>(to)];
    };
    std::vector<float> wide(all.size()), wide_b(all.size());
    loop(Dtype::f16, Dtype::f32)(65536, wide.data(), 1, all.data(), 1);
    loop(Dtype::bf16, Dtype::f32)(65536, wide_b.data(), 1, all.data(), 1);
    bool same = true;
    for (size_t i = 0; i < all.size(); ++i) {
      same &= std::bit_cast<uint32_t>(wide[i]) == std::bit_cast<uint32_t>(to_float(f16{all[i]}));
      same &= std::bit_cast<uint32_t>(wide_b[i]) == std::bit_cast<uint32_t>(to_float(bf16{all[i]}));
    }
    CHECK(same);
    std::vector<uint16_t> narrow(edges.size()), narrow_b(edges.size());
    loop(Dtype::f32, Dtype::f16)(n, narrow.data(), 1, edges.data(), 1);
    loop(Dtype::f32, Dtype::bf16)(n, narrow_b.data(), 1, edges.data(), 1);
    same = true;
    for (size_t i = 0; i < edges.size(); ++i) {
      same &= narrow[i] == to_f16(edges[i]).bits && narrow_b[i] == to_bf16(edges[i]).bits;
    }
    CHECK(same);
    // Doubles are rounded once: 1 + 2^-11 + 2^-40 is above the tie that float would make of it.
    const double above = 1.0 + 0x1p-11 + 0x1p-40;
    uint16_t half = 0;
    loop(Dtype::f64, Dtype::f16)(1, &half, 1, &above, 1);
    CHECK(half == 0x3c01);
  }
}

TEST_CASE("conversions between the other dtypes") {
  for (const KernelTable* t : tables()) {
    const auto loop = [&](Dtype from, Dtype to) {
      return t->cast[static_cast<int>(from)][static_cast<int>(to)];
    };
    const auto x = draw(100, 3, -100, 100);
    std::vector<double> f64(100);
    std::vector<int64_t> i64(100);
    std::vector<int32_t> i32(100);
    std::vector<int8_t> i8(100);
    std::vector<uint8_t> flags(100);
    std::vector<float> back(100);
    loop(Dtype::f32, Dtype::f64)(100, f64.data(), 1, x.data(), 1);
    loop(Dtype::f64, Dtype::i64)(100, i64.data(), 1, f64.data(), 1);
    loop(Dtype::i64, Dtype::i8)(100, i8.data(), 1, i64.data(), 1);
    loop(Dtype::f32, Dtype::i32)(100, i32.data(), 1, x.data(), 1);
    loop(Dtype::i32, Dtype::boolean)(100, flags.data(), 1, i32.data(), 1);
    loop(Dtype::i8, Dtype::f32)(100, back.data(), 1, i8.data(), 1);
    for (size_t i = 0; i < 100; ++i) {
      CHECK(f64[i] == x[i]);
      CHECK(i64[i] == static_cast<int64_t>(x[i]));
      CHECK(i8[i] == i64[i]);
      CHECK(i32[i] == i64[i]);
      CHECK(flags[i] == (i32[i] != 0));
      CHECK(back[i] == static_cast<float>(i64[i]));
    }
    const float half = 0.5f;
    uint8_t flag = 0;
    loop(Dtype::f32, Dtype::boolean)(1, &flag, 1, &half, 1);
    CHECK(flag == 1);
  }
}

TEST_CASE("where chooses by element size, for any strides") {
  const auto check = [](TernaryLoop loop, auto zero) {
    using T = decltype(zero);
    const auto a = values<T>(2600, 1), b = values<T>(2600, 2);
    std::vector<uint8_t> condition(1300);
    for (size_t i = 0; i < condition.size(); ++i) condition[i] = i % 3 == 0;
    for (const int64_t n : {0, 1, 15, 16, 100, 1300}) {
      for (const int64_t step_a : {0, 1, 2}) {
        for (const int64_t step_b : {0, 1, 2}) {
          std::vector<T> out(2600, T(9)), expected = out;
          for (int64_t i = 0; i < n; ++i) {
            expected[static_cast<size_t>(2 * i)] = condition[static_cast<size_t>(i)]
                                                       ? a[static_cast<size_t>(i * step_a)]
                                                       : b[static_cast<size_t>(i * step_b)];
          }
          loop(n, out.data(), 2, condition.data(), 1, a.data(), step_a, b.data(), step_b);
          CHECK(out == expected);
        }
      }
    }
  };
  for (const KernelTable* t : tables()) {
    check(t->where[0], uint8_t{});
    check(t->where[1], uint16_t{});
    check(t->where[2], float{});
    check(t->where[3], double{});
  }
}

TEST_CASE("scalar bodies without a table give the elements of the baseline") {
  const auto x = draw(200, 9, -5, 5);
  for (const float v : x) {
    float y;
    kernels("baseline").unary_f32[static_cast<int>(OpId::tanh)](1, &y, 1, &v, 1);
    CHECK(std::fabs(y - scalar::tanh(v)) <= 3e-7f);
  }
}

}  // namespace bessemer::cpu
