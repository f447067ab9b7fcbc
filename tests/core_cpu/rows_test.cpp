// Row kernels against double references and, bit for bit, against the definition of the canonical
// sum.
#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

const int64_t widths[] = {1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100, 130, 513};

/// 16 lanes in ascending order, joined by halves.
float canonical_sum(const float* x, int64_t n) {
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i % 16] += x[i];
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  }
  return lane[0];
}

using RowKernel = std::function<void(const KernelTable&, int64_t rows, int64_t n, const float* x,
                                     const float* g, float* out)>;
const std::pair<const char*, RowKernel> row_kernels[] = {
    {"softmax",
     [](auto& t, auto rows, auto n, auto x, auto, auto out) { t.softmax_rows(rows, n, x, out); }},
    {"log_softmax", [](auto& t, auto rows, auto n, auto x, auto,
                       auto out) { t.log_softmax_rows(rows, n, x, out); }},
    {"softmax backward", [](auto& t, auto rows, auto n, auto x, auto g,
                            auto out) { t.softmax_backward_rows(rows, n, x, g, out); }},
    {"log_softmax backward", [](auto& t, auto rows, auto n, auto x, auto g,
                                auto out) { t.log_softmax_backward_rows(rows, n, x, g, out); }},
    {"layer_norm",
     [](auto& t, auto rows, auto n, auto x, auto g, auto out) {
       t.layer_norm_rows(rows, n, x, g, g, 1e-5f, out, nullptr, nullptr);
     }},
};

}  // namespace

TEST_CASE("row sums follow the canonical order") {
  for (const KernelTable* t : tables()) {
    for (const int64_t n : widths) {
      for (const int64_t rows : {1, 3, 16, 33}) {
        for (const int64_t stride : {n, n + 3}) {
          const auto x = draw(rows * stride, static_cast<uint64_t>(n));
          std::vector<float> out(static_cast<size_t>(rows)), max = out;
          t->sum_rows(rows, n, x.data(), stride, out.data());
          t->max_rows(rows, n, x.data(), stride, max.data());
          for (int64_t r = 0; r < rows; ++r) {
            const float* row = x.data() + r * stride;
            CHECK(out[static_cast<size_t>(r)] == canonical_sum(row, n));
            CHECK(max[static_cast<size_t>(r)] == *std::max_element(row, row + n));
          }
        }
      }
    }
    float out;
    const float zeros[3] = {-0.0f, -0.0f, -0.0f};
    t->sum_rows(1, 3, zeros, 3, &out);
    CHECK(!std::signbit(out));
    for (const int64_t n : {2, 5, 40, 130}) {
      auto x = draw(n, 1);
      x[static_cast<size_t>(n - 1)] = std::numeric_limits<float>::quiet_NaN();
      t->max_rows(1, n, x.data(), n, &out);
      CHECK(std::isnan(out));
      std::swap(x[0], x[static_cast<size_t>(n - 1)]);
      t->max_rows(1, n, x.data(), n, &out);
      CHECK(std::isnan(out));
    }
  }
}

TEST_CASE("column sums are chains over blocks of 256 rows") {
  for (const KernelTable* t : tables()) {
    for (const int64_t rows : {0, 1, 7, 256, 257, 600}) {
      for (const int64_t n : {1, 2, 15, 63, 64, 65, 130}) {
        const int64_t stride = n + 2;
        const auto x = draw(rows * stride + 1, 3);
        std::vector<float> out(static_cast<size_t>(n), 5.0f);
        t->sum_columns(rows, n, x.data(), stride, out.data());
        for (int64_t j = 0; j < n; ++j) {
          float total = 0;
          for (int64_t first = 0; first < rows; first += 256) {
            float chain = 0;
            for (int64_t r = first; r < std::min(rows, first + 256); ++r) {
              chain += x[static_cast<size_t>(r * stride + j)];
            }
            total += chain;
          }
          CHECK(out[static_cast<size_t>(j)] == total);
        }
      }
    }
  }
}

TEST_CASE("row kernels agree with double references") {
  for (const KernelTable* t : tables()) {
    for (const int64_t n : widths) {
      const int64_t rows = 19;
      const auto x = draw(rows * n, 1, -6, 6), g = draw(rows * n, 2), w = draw(n, 3),
                 b = draw(n, 4);
      const auto size = static_cast<size_t>(rows * n);
      std::vector<float> y(size), l(size), dy(size), dl(size), norm(size), mean(19), rstd(19);
      t->softmax_rows(rows, n, x.data(), y.data());
      t->log_softmax_rows(rows, n, x.data(), l.data());
      t->softmax_backward_rows(rows, n, y.data(), g.data(), dy.data());
      t->log_softmax_backward_rows(rows, n, l.data(), g.data(), dl.data());
      t->layer_norm_rows(rows, n, x.data(), w.data(), b.data(), 1e-5f, norm.data(), mean.data(),
                         rstd.data());
      double worst = 0, worst_norm = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const auto at = [&](const std::vector<float>& v, int64_t j) {
          return static_cast<double>(v[static_cast<size_t>(r * n + j)]);
        };
        double sum = 0, dot = 0, total = 0, average = 0, variance = 0;
        for (int64_t j = 0; j < n; ++j) {
          sum += std::exp(at(x, j));
          total += at(g, j);
          average += at(x, j) / static_cast<double>(n);
        }
        for (int64_t j = 0; j < n; ++j) {
          dot += at(g, j) * std::exp(at(x, j)) / sum;
          variance += (at(x, j) - average) * (at(x, j) - average) / static_cast<double>(n);
        }
        const double scale = 1 / std::sqrt(variance + 1e-5);
        for (int64_t j = 0; j < n; ++j) {
          const double p = std::exp(at(x, j)) / sum;
          const auto column = static_cast<size_t>(j);
          worst = std::max({worst, std::fabs(at(y, j) - p), std::fabs(at(l, j) - std::log(p)) / 10,
                            std::fabs(at(dy, j) - p * (at(g, j) - dot)),
                            std::fabs(at(dl, j) - (at(g, j) - p * total)) / 10});
          const double expected = (at(x, j) - average) * scale * w[column] + b[column];
          worst_norm =
              std::max(worst_norm, std::fabs(at(norm, j) - expected) / (1 + std::fabs(expected)));
        }
        worst_norm = std::max(worst_norm, std::fabs(mean[static_cast<size_t>(r)] - average));
        if (n > 1) {
          worst_norm =
              std::max(worst_norm, std::fabs(rstd[static_cast<size_t>(r)] - scale) / scale);
        }
      }
      CAPTURE(n);
      CHECK(worst < 5e-7);
      CHECK(worst_norm < 4e-6);
    }
  }
}

TEST_CASE("a row has the same bits in any batch and instruction set") {
  for (const auto& [name, kernel] : row_kernels) {
    for (const int64_t n : widths) {
      const auto x = draw(64 * n, 5, -4, 0), g = draw(64 * n, 6);
      std::vector<float> first;
      for (const KernelTable* t : exact_tables()) {
        for (const int64_t rows : {1, 2, 8, 16, 17, 64}) {
          std::vector<float> out(static_cast<size_t>(rows * n));
          kernel(*t, rows, n, x.data(), g.data(), out.data());
          out.resize(static_cast<size_t>(n));
          if (first.empty()) first = out;
          CAPTURE(name);
          CAPTURE(n);
          CHECK(same_bits(out, first));
        }
      }
    }
  }
}

TEST_CASE("softmax of masked and far logits") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const KernelTable* t : tables()) {
    const float x[4] = {-inf, 1000.0f, 1000.0f, -1e8f};
    float y[4], l[4];
    t->softmax_rows(1, 4, x, y);
    t->log_softmax_rows(1, 4, x, l);
    CHECK(y[0] == 0.0f);
    CHECK(y[1] == 0.5f);
    CHECK(y[3] == 0.0f);
    CHECK(l[0] == -inf);
    CHECK(l[2] == doctest::Approx(-0.693147f));
  }
}

TEST_CASE("sum of squares is the same number everywhere") {
  for (const int64_t n : {0, 1, 5, 16, 100, 1003}) {
    const auto x = draw(n, 9, -1e3f, 1e3f);
    double lane[16] = {};
    for (int64_t i = 0; i < n; ++i) {
      const double v = x[static_cast<size_t>(i)];
      lane[i % 16] += v * v;
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
    }
    for (const KernelTable* t : tables()) CHECK(t->sum_squares(n, x.data()) == lane[0]);
  }
}

TEST_CASE("gradients of activations from their outputs") {
  const int64_t n = 131;
  const auto y = draw(n, 1, -0.9f, 0.9f), g = draw(n, 2);
  for (const KernelTable* t : tables()) {
    std::vector<float> dx(static_cast<size_t>(n));
    const auto run = [&](Activation a) {
      t->activation_backward(a, n, y.data(), g.data(), dx.data());
    };
    run(Activation::relu);
    for (size_t i = 0; i < dx.size(); ++i) CHECK(dx[i] == (y[i] > 0 ? g[i] : 0.0f));
    run(Activation::tanh);
    for (size_t i = 0; i < dx.size(); ++i) {
      CHECK(std::fabs(dx[i] - g[i] * (1.0 - double{y[i]} * y[i])) < 2e-7);
    }
    run(Activation::sigmoid);
    for (size_t i = 0; i < dx.size(); ++i) {
      CHECK(std::fabs(dx[i] - g[i] * y[i] * (1.0 - double{y[i]})) < 4e-7);
    }
  }
}

TEST_CASE("adam equals a double reference over 50 steps, and itself in every instruction set") {
  const int64_t n = 77;
  std::vector<float> first;
  for (const KernelTable* t : tables()) {
    auto p = draw(n, 1), m = std::vector<float>(static_cast<size_t>(n)), v = m;
    std::vector<double> rp(p.begin(), p.end()), rm(p.size()), rv(p.size());
    for (int step = 1; step <= 50; ++step) {
      const auto g = draw(n, static_cast<uint64_t>(step) + 10);
      const double c1 = 1 - std::pow(0.9, step), c2 = 1 - std::pow(0.999, step);
      t->adam({n, p.data(), m.data(), v.data(), g.data(), 1e-2f, 0.9f, 0.999f, 1e-5f, 0.1f,
               static_cast<float>(c1), static_cast<float>(c2), 0.5f});
      for (size_t i = 0; i < p.size(); ++i) {
        const double grad = 0.5 * g[i];
        rm[i] = 0.9 * rm[i] + 0.1 * grad;
        rv[i] = 0.999 * rv[i] + 0.001 * grad * grad;
        rp[i] -= 1e-2 * 0.1 * rp[i];
        rp[i] -= 1e-2 * (rm[i] / c1) / (std::sqrt(rv[i] / c2) + 1e-5);
      }
    }
    for (size_t i = 0; i < p.size(); ++i) CHECK(p[i] == doctest::Approx(rp[i]).epsilon(1e-4));
    if (std::string(t->isa) == "baseline") continue;
    if (first.empty()) first = p;
    CHECK(same_bits(p, first));
  }
}

}  // namespace bessemer::cpu
