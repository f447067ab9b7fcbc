#include "autograd/nn/distribution.h"

#include <doctest/doctest.h>
#include <cmath>

#include "autograd/engine.h"
#include "autograd/nn/module.h"

using namespace bessemer;
using nn::ActionDistribution;
using nn::ActionInputs;
using nn::ActionScratch;

namespace {

std::vector<float> numbers(uint64_t seed, int64_t n, double std) {
  nn::Init init{seed};
  const auto values = init.normal({n}, std).values<float>();
  return {values.begin(), values.end()};
}

constexpr double kTwoPi = 6.283185307179586;

/// log_prob and entropy of one row in double from the closed forms.
std::pair<double, double> normal_form(std::span<const double> mean, std::span<const double> std,
                                      std::span<const float> action) {
  double log_prob = 0, entropy = 0;
  for (size_t a = 0; a < mean.size(); ++a) {
    const double z = (action[a] - mean[a]) / std[a];
    log_prob += -0.5 * z * z - std::log(std[a]) - 0.5 * std::log(kTwoPi);
    entropy += 0.5 * std::log(kTwoPi * std::exp(1.0) * std[a] * std[a]);
  }
  return {log_prob, entropy};
}

}  // namespace

TEST_CASE("categorical heads: joint log-probability and entropy are sums over components") {
  const int64_t choices[] = {3, 2, 5};
  const auto d = ActionDistribution::categorical(choices);
  CHECK(d.components() == 3);
  CHECK(d.outputs() == 10);
  const int64_t rows = 7;
  const std::vector<float> logits = numbers(1, rows * 10, 2);
  std::vector<uint8_t> mask(rows * 10, 1);
  mask[0] = mask[4] = mask[17] = 0;  // row 0: choice 0 of three, second of two; row 1: of five
  ActionInputs in{.rows = rows, .outputs = logits.data(), .mask = mask.data()};
  ActionScratch scratch;
  d.prepare(in, scratch);
  std::vector<float> actions(rows * 3), log_prob(rows), entropy(rows);
  const std::vector<int64_t> index = {0, 1, 2, 3, 4, 5, 6};
  d.sample(in, scratch, {9, Stream::action}, index, 0, nullptr, actions.data());
  d.evaluate(in, scratch, actions.data(), log_prob.data(), entropy.data());
  for (int64_t r = 0; r < rows; ++r) {
    double lp = 0, h = 0;
    int64_t at = r * 10;
    for (int g = 0; g < 3; ++g) {
      double total = 0;
      for (int64_t k = 0; k < choices[g]; ++k)
        if (mask[at + k]) total += std::exp(static_cast<double>(logits[at + k]));
      for (int64_t k = 0; k < choices[g]; ++k) {
        if (!mask[at + k]) continue;
        const double p = std::exp(static_cast<double>(logits[at + k])) / total;
        h -= p * std::log(p);
        if (static_cast<int64_t>(actions[r * 3 + g]) == k) lp += std::log(p);
      }
      CHECK(mask[at + static_cast<int64_t>(actions[r * 3 + g])] == 1);
      at += choices[g];
    }
    CHECK(log_prob[r] == doctest::Approx(lp).epsilon(1e-5));
    CHECK(entropy[r] == doctest::Approx(h).epsilon(1e-5));
  }
  d.mode(in, scratch, actions.data());
  CHECK(actions[1] == 0);  // its only allowed choice
}

TEST_CASE("samples follow the distribution and depend on index and counter alone") {
  const int64_t choices[] = {3};
  const auto d = ActionDistribution::categorical(choices);
  const float logits[] = {0.0f, 1.0f, -1.0f};
  ActionInputs in{.rows = 1, .outputs = logits};
  ActionScratch scratch;
  d.prepare(in, scratch);
  double count[3] = {};
  const int draws = 20000;
  for (int t = 0; t < draws; ++t) {
    const int64_t index[] = {5};
    float action = 0, again = 0;
    d.sample(in, scratch, {3, Stream::action}, index, static_cast<uint64_t>(t), nullptr, &action);
    d.sample(in, scratch, {3, Stream::action}, index, static_cast<uint64_t>(t), nullptr, &again);
    if (action != again) FAIL("the same draw gave another action");
    ++count[static_cast<int>(action)];
  }
  const double total = 1 + std::exp(1.0) + std::exp(-1.0);
  for (int k = 0; k < 3; ++k) {
    const double p = std::exp(static_cast<double>(logits[k])) / total;
    CHECK(std::fabs(count[k] / draws - p) < 5 * std::sqrt(p * (1 - p) / draws));
  }
}

TEST_CASE("gaussian: density, entropy and moments of samples") {
  const auto d = ActionDistribution::gaussian(2);
  const float mean[] = {0.5f, -1.0f}, log_std[] = {-0.5f, 0.3f};
  ActionInputs in{.rows = 1, .outputs = mean, .log_std = log_std};
  ActionScratch scratch;
  d.prepare(in, scratch);
  double sum[2] = {}, squares[2] = {};
  const int draws = 20000;
  float action[2], log_prob, entropy;
  for (int t = 0; t < draws; ++t) {
    const int64_t index[] = {0};
    d.sample(in, scratch, {4, Stream::action}, index, static_cast<uint64_t>(t), nullptr, action);
    for (int a = 0; a < 2; ++a) {
      sum[a] += action[a];
      squares[a] += (action[a] - mean[a]) * (action[a] - mean[a]);
    }
  }
  for (int a = 0; a < 2; ++a) {
    const double std = std::exp(static_cast<double>(log_std[a]));
    CHECK(std::fabs(sum[a] / draws - mean[a]) < 5 * std / std::sqrt(draws));
    CHECK(std::sqrt(squares[a] / draws) == doctest::Approx(std).epsilon(0.03));
  }
  d.evaluate(in, scratch, action, &log_prob, &entropy);
  const double means[] = {0.5, -1.0}, stds[] = {std::exp(-0.5), std::exp(0.3)};
  const auto [lp, h] = normal_form(means, stds, action);
  CHECK(log_prob == doctest::Approx(lp).epsilon(1e-5));
  CHECK(entropy == doctest::Approx(h).epsilon(1e-5));
}

TEST_CASE(
    "state-dependent exploration: noise is linear in the features, its density a Gaussian's") {
  const int64_t features = 6, components = 2;
  const auto d = ActionDistribution::state_dependent(components, features);
  CHECK(d.log_stds() == 12);
  const std::vector<float> mean = {0.1f, 0.2f}, x = numbers(2, features, 1),
                           log_std = numbers(3, 12, 0.3);
  ActionInputs in{
      .rows = 1, .outputs = mean.data(), .log_std = log_std.data(), .features = x.data()};
  ActionScratch scratch;
  d.prepare(in, scratch);
  std::vector<double> stds(2), squares(2);
  for (int64_t a = 0; a < components; ++a) {
    double variance = 1e-6;
    for (int64_t h = 0; h < features; ++h)
      variance += std::pow(x[h] * std::exp(static_cast<double>(log_std[h * components + a])), 2);
    stds[a] = std::sqrt(variance);
  }
  const int draws = 20000;
  std::vector<float> matrix(12);
  float action[2], log_prob, entropy;
  for (int t = 0; t < draws; ++t) {
    const int64_t index[] = {0};
    d.explore({5, Stream::exploration}, 0, static_cast<uint64_t>(t), log_std.data(), matrix.data());
    d.sample(in, scratch, {5, Stream::action}, index, 0, matrix.data(), action);
    for (int64_t a = 0; a < components; ++a)
      squares[a] += (action[a] - mean[a]) * (action[a] - mean[a]);
  }
  for (int a = 0; a < 2; ++a)
    CHECK(std::sqrt(squares[a] / draws) == doctest::Approx(stds[a]).epsilon(0.03));
  d.evaluate(in, scratch, action, &log_prob, &entropy);
  const std::vector<double> means(mean.begin(), mean.end());
  const auto [lp, h] = normal_form(means, stds, action);
  CHECK(log_prob == doctest::Approx(lp).epsilon(1e-4));
  CHECK(entropy == doctest::Approx(h).epsilon(1e-4));
}

namespace {

/// The closed-form gradient of sum(wl · log_prob + we · entropy) against autograd on tensor
/// operations.
void check_gradient(const ActionDistribution& d, const Tensor& outputs, const Tensor& log_std,
                    const Tensor& features, std::span<const float> actions, const Tensor& log_prob,
                    const Tensor& entropy) {
  const int64_t rows = outputs.size(0);
  const std::vector<float> wl = numbers(11, rows, 1), we = numbers(12, rows, 1);
  ActionInputs in{.rows = rows, .outputs = outputs.data<float>()};
  if (log_std) in.log_std = log_std.data<float>();
  if (features) in.features = features.data<float>();
  ActionScratch scratch;
  d.prepare(in, scratch);
  std::vector<float> lp(rows), h(rows);
  d.evaluate(in, scratch, actions.data(), lp.data(), h.data());
  for (int64_t r = 0; r < rows; ++r) {
    CHECK(lp[r] == doctest::Approx(log_prob.data<float>()[r]).epsilon(1e-4));
    CHECK(h[r] == doctest::Approx(entropy.data<float>()[r]).epsilon(1e-4));
  }
  std::vector<float> got(outputs.numel()), got_std(d.log_stds());
  d.gradient(in, scratch, actions.data(), wl.data(), we.data(), got.data(), got_std.data());
  backward(sum(log_prob * Tensor::from(std::span(wl), {rows}) +
               entropy * Tensor::from(std::span(we), {rows})));
  for (size_t i = 0; i < got.size(); ++i)
    CHECK(got[i] == doctest::Approx(grad(outputs).data<float>()[i]).epsilon(1e-4));
  for (size_t i = 0; i < got_std.size(); ++i)
    CHECK(got_std[i] == doctest::Approx(grad(log_std).data<float>()[i]).epsilon(1e-4));
}

}  // namespace

TEST_CASE("closed-form gradients equal autograd's: categorical") {
  const int64_t choices[] = {4, 3}, rows = 6;
  const auto d = ActionDistribution::categorical(choices);
  nn::Init init{21};
  const Tensor logits = set_requires_grad(init.normal({rows, 7}, 1.5));
  std::vector<float> actions;
  for (int64_t r = 0; r < rows; ++r) {
    actions.push_back(static_cast<float>(r % 4));
    actions.push_back(static_cast<float>(r % 3));
  }
  Tensor log_prob = Tensor::zeros({rows}), entropy = Tensor::zeros({rows});
  for (int g = 0; g < 2; ++g) {
    const Tensor lp = log_softmax(slice(logits, 1, g * 4, g * 4 + choices[g]));
    Tensor index = Tensor::empty({rows, 1}, Dtype::i64);
    for (int64_t r = 0; r < rows; ++r)
      index.data<int64_t>()[r] = static_cast<int64_t>(actions[r * 2 + g]);
    log_prob = log_prob + reshape(gather(lp, 1, index), {rows});
    entropy = entropy - sum(exp(lp) * lp, 1);
  }
  check_gradient(d, logits, {}, {}, actions, log_prob, entropy);
}

TEST_CASE("closed-form gradients equal autograd's: gaussian and state-dependent") {
  const int64_t rows = 5, components = 2, width = 4;
  nn::Init init{22};
  const Tensor mean_ = set_requires_grad(init.normal({rows, components}, 1));
  const Tensor taken = init.normal({rows, components}, 1);
  const auto density = [&](const Tensor& log_of_std) {
    const Tensor z = (taken - mean_) * exp(-log_of_std);
    const Tensor lp = square(z) * -0.5 - log_of_std - 0.5 * std::log(kTwoPi);
    return std::pair{sum(lp, 1), sum(log_of_std + 0.5 * (1 + std::log(kTwoPi)), 1)};
  };
  SUBCASE("gaussian") {
    const Tensor log_std = set_requires_grad(init.normal({components}, 0.5));
    const auto [lp, h] = density(expand(reshape(log_std, {1, components}), {rows, components}));
    check_gradient(ActionDistribution::gaussian(components), mean_, log_std, {},
                   taken.values<float>(), lp, h);
  }
  SUBCASE("state-dependent") {
    const Tensor log_std = set_requires_grad(init.normal({width, components}, 0.5));
    const Tensor features = init.normal({rows, width}, 1);
    const Tensor variance = matmul(square(features), exp(log_std * 2.0)) + 1e-6;
    const auto [lp, h] = density(log(variance) * 0.5);
    check_gradient(ActionDistribution::state_dependent(components, width), mean_, log_std, features,
                   taken.values<float>(), lp, h);
  }
}
