// Accuracy of the float bodies, measured through the tables against the C library in double.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Body {
  const char* name;
  OpId op;
  double (*reference)(double);
  float low, high;
  double ulp, absolute;  // an error is allowed when it is below either
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 40 ? x : std::log1p(std::exp(x)); }
double silu(double x) { return x * sigmoid(x); }
double gelu(double x) { return 0.5 * x * std::erfc(-x * 0.70710678118654752); }
double rsqrt(double x) { return 1 / std::sqrt(x); }

const Body bodies[] = {
    {"exp", OpId::exp, std::exp, -105, 89, 1, 0},
    {"log", OpId::log, std::log, 0, 1e30f, 1, 0},
    {"log near 1", OpId::log, std::log, 0.5f, 2, 1.5, 0},
    {"tanh", OpId::tanh, std::tanh, -12, 12, 2.5, 0},
    {"tanh near 0", OpId::tanh, std::tanh, -1e-3f, 1e-3f, 2.5, 0},
    {"sigmoid", OpId::sigmoid, sigmoid, -105, 30, 3, 0},
    {"softplus", OpId::softplus, softplus, -105, 60, 3, 0},
    {"silu", OpId::silu, silu, -87, 60, 4, 0},
    {"erf", OpId::erf, std::erf, -5, 5, 2, 0},
    {"gelu right", OpId::gelu, gelu, -1, 12, 4, 0},
    {"gelu left", OpId::gelu, gelu, -20, -1, 4, 8e-8},
    {"sin", OpId::sin, std::sin, -10, 10, 2, 0},
    {"sin far", OpId::sin, std::sin, -1e5f, 1e5f, 2, 0},
    {"cos", OpId::cos, std::cos, -10, 10, 2, 0},
    {"cos far", OpId::cos, std::cos, -1e5f, 1e5f, 2, 0},
    {"rsqrt", OpId::rsqrt, rsqrt, 0, 1e6f, 1.5, 0},
    {"sqrt", OpId::sqrt, std::sqrt, 0, 1e6f, 0.5, 0},
};

std::vector<float> apply(const KernelTable& table, OpId op, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  table.unary_f32[static_cast<int>(op)](static_cast<int64_t>(x.size()), y.data(), 1, x.data(), 1);
  return y;
}
float one(const KernelTable& table, OpId op, float x) { return apply(table, op, {x})[0]; }
bool is(float got, float expected) {
  return std::isnan(expected) ? std::isnan(got)
                              : got == expected && std::signbit(got) == std::signbit(expected);
}

}  // namespace

TEST_CASE("float bodies are accurate") {
  for (const KernelTable* table : tables()) {
    const double slack = std::string(table->isa) == "baseline" ? 2 : 0;
    for (const Body& body : bodies) {
      const auto x = draw(200000, 11, body.low, body.high);
      const auto y = apply(*table, body.op, x);
      double worst = 0;
      float where = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = body.reference(x[i]);
        const double error = std::fabs(y[i] - expected) <= body.absolute ? 0 : ulps(y[i], expected);
        if (error > worst) worst = error, where = x[i];
      }
      CAPTURE(table->isa);
      CAPTURE(body.name);
      CAPTURE(where);
      CHECK(worst <= body.ulp + slack);
    }
  }
}

TEST_CASE("pow is accurate and has C99's special cases") {
  const auto a = draw(200000, 21, 0, 20), b = draw(200000, 22, -25, 25);
  const float special[] = {0.0f,    -0.0f, 1.0f,  -1.0f, 2.0f,        -2.0f,      3.0f,
                           -3.0f,   0.5f,  -0.5f, 2.5f,  1e30f,       -1e30f,     1e-40f,
                           -1e-40f, kInf,  -kInf, kNan,  16777216.0f, 16777217.0f};
  for (const KernelTable* table : tables()) {
    const BinaryLoop pow = table->binary_f32[static_cast<int>(OpId::pow) - kUnaryOps];
    std::vector<float> y(a.size());
    pow(static_cast<int64_t>(a.size()), y.data(), 1, a.data(), 1, b.data(), 1);
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double expected = std::pow(double{a[i]}, double{b[i]});
      worst = std::max(worst, ulps(y[i], expected));
    }
    CHECK(worst <= 1);
    for (const float x : special) {
      for (const float e : special) {
        float got;
        pow(1, &got, 1, &x, 1, &e, 1);
        CAPTURE(x);
        CAPTURE(e);
        CHECK(is(got, static_cast<float>(std::pow(double{x}, double{e}))));
      }
    }
  }
}

TEST_CASE("special values") {
  const float tiny = 1e-40f;
  for (const KernelTable* table : tables()) {
    const KernelTable& t = *table;
    CAPTURE(t.isa);
    CHECK(is(one(t, OpId::exp, kInf), kInf));
    CHECK(is(one(t, OpId::exp, -kInf), 0.0f));
    CHECK(is(one(t, OpId::exp, 0.0f), 1.0f));
    CHECK(is(one(t, OpId::log, 0.0f), -kInf));
    CHECK(is(one(t, OpId::log, -0.0f), -kInf));
    CHECK(is(one(t, OpId::log, -1.0f), kNan));
    CHECK(is(one(t, OpId::log, -tiny), kNan));
    CHECK(is(one(t, OpId::log, kInf), kInf));
    CHECK(is(one(t, OpId::log, 1.0f), 0.0f));
    CHECK(ulps(one(t, OpId::log, tiny), std::log(double{tiny})) <= 1);
    CHECK(is(one(t, OpId::tanh, kInf), 1.0f));
    CHECK(is(one(t, OpId::tanh, -kInf), -1.0f));
    CHECK(is(one(t, OpId::tanh, tiny), tiny));
    CHECK(is(one(t, OpId::sigmoid, kInf), 1.0f));
    CHECK(is(one(t, OpId::sigmoid, -kInf), 0.0f));
    CHECK(is(one(t, OpId::softplus, kInf), kInf));
    CHECK(is(one(t, OpId::softplus, -kInf), 0.0f));
    CHECK(is(one(t, OpId::silu, kInf), kInf));
    CHECK(is(one(t, OpId::silu, -kInf), -0.0f));
    CHECK(is(one(t, OpId::gelu, kInf), kInf));
    CHECK(is(one(t, OpId::gelu, -kInf), -0.0f));
    CHECK(is(one(t, OpId::erf, kInf), 1.0f));
    CHECK(is(one(t, OpId::erf, -kInf), -1.0f));
    CHECK(is(one(t, OpId::sin, kInf), kNan));
    CHECK(is(one(t, OpId::cos, -kInf), kNan));
    CHECK(std::fabs(one(t, OpId::sin, 1e30f)) <= 1.0f);
    CHECK(is(one(t, OpId::reciprocal, -0.0f), -kInf));
    CHECK(is(one(t, OpId::sqrt, -1.0f), kNan));
    CHECK(is(one(t, OpId::round, 2.5f), 2.0f));
    CHECK(is(one(t, OpId::round, -0.5f), -0.0f));
    CHECK(is(one(t, OpId::floor, -0.5f), -1.0f));
    for (const OpId op : {OpId::exp, OpId::log, OpId::tanh, OpId::sigmoid, OpId::softplus,
                          OpId::silu, OpId::gelu, OpId::erf, OpId::sin, OpId::cos, OpId::relu,
                          OpId::sign, OpId::sqrt, OpId::abs, OpId::neg}) {
      CHECK(std::isnan(one(t, op, kNan)));
    }
    for (const OpId op : {OpId::tanh, OpId::erf, OpId::sin, OpId::gelu, OpId::silu, OpId::sqrt}) {
      CHECK(is(one(t, op, -0.0f), -0.0f));
    }
  }
}

}  // namespace bessemer::cpu
