#include "trainer/loss.h"

#include <doctest/doctest.h>
#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/engine.h"
#include "core/base/rng.h"
#include "core/ops/ops.h"

using namespace bessemer;

namespace {

struct Columns {
  std::vector<float> log_prob, entropy, value, old_log_prob, old_value, advantage, returns;
  PpoBatch batch() const {
    return {log_prob, entropy, value, old_log_prob, old_value, advantage, returns};
  }
};

Columns draw(int64_t n, uint64_t seed) {
  Columns c;
  for (int64_t i = 0; i < n; ++i) {
    const PhiloxBlock a = Rng{seed}.at(static_cast<uint64_t>(i), 0);
    const PhiloxBlock b = Rng{seed}.at(static_cast<uint64_t>(i), 1);
    const auto between = [](uint32_t word, float low, float high) {
      return low + (high - low) * uniform_float(word);
    };
    c.log_prob.push_back(between(a.word[0], -2, 0));
    c.old_log_prob.push_back(c.log_prob.back() + between(a.word[1], -0.6f, 0.6f));
    c.entropy.push_back(between(a.word[2], 0, 1));
    c.value.push_back(between(a.word[3], -2, 2));
    c.old_value.push_back(c.value.back() + between(b.word[0], -0.5f, 0.5f));
    c.advantage.push_back(between(b.word[1], -3, 4));
    c.returns.push_back(between(b.word[2], -3, 3));
  }
  return c;
}

/// The formulas of trainer/loss.h, in double.
PpoLoss reference(const Columns& c, const PpoLossOptions& o) {
  const auto n = static_cast<double>(c.log_prob.size());
  std::vector<double> a(c.advantage.begin(), c.advantage.end());
  if (o.normalize_advantage) {
    double mean = 0, variance = 0;
    for (double x : a) mean += x / n;
    for (double x : a) variance += (x - mean) * (x - mean) / (n - 1);
    for (double& x : a) x = (x - mean) / (std::sqrt(variance) + 1e-8);
  }
  PpoLoss out;
  for (size_t i = 0; i < a.size(); ++i) {
    const double log_ratio = static_cast<double>(c.log_prob[i]) - c.old_log_prob[i];
    const double ratio = std::exp(log_ratio);
    const double bound = std::clamp(ratio, 1 - o.clip_range, 1 + o.clip_range);
    out.policy_gradient_loss -= std::min(a[i] * ratio, a[i] * bound) / n;
    double value = c.value[i];
    if (o.clip_range_vf)
      value =
          c.old_value[i] + std::clamp(value - c.old_value[i], -*o.clip_range_vf, *o.clip_range_vf);
    out.value_loss += (c.returns[i] - value) * (c.returns[i] - value) / n;
    out.entropy_loss -= c.entropy[i] / n;
    out.approx_kl += (ratio - 1 - log_ratio) / n;
    out.approx_kl_k1 -= log_ratio / n;
    out.clip_fraction += (std::fabs(ratio - 1) > o.clip_range) / n;
  }
  out.loss = out.policy_gradient_loss + o.ent_coef * out.entropy_loss + o.vf_coef * out.value_loss;
  return out;
}

}  // namespace

TEST_CASE("the loss is its formula in double, its gradient is autograd's of the same formula") {
  for (bool normalize : {true, false}) {
    for (bool clip_value : {true, false}) {
      PpoLossOptions options;
      options.normalize_advantage = normalize;
      if (clip_value) options.clip_range_vf = 0.2;
      options.ent_coef = 0.03;
      options.vf_coef = 0.7;
      const Columns c = draw(203, 5);
      PpoGradient gradient;
      const PpoLoss got = ppo_loss(c.batch(), options, gradient), want = reference(c, options);
      CHECK(got.loss == doctest::Approx(want.loss).epsilon(1e-5));
      CHECK(got.policy_gradient_loss == doctest::Approx(want.policy_gradient_loss).epsilon(1e-5));
      CHECK(got.value_loss == doctest::Approx(want.value_loss).epsilon(1e-5));
      CHECK(got.entropy_loss == doctest::Approx(want.entropy_loss).epsilon(1e-5));
      CHECK(got.approx_kl == doctest::Approx(want.approx_kl).epsilon(1e-4));
      CHECK(got.approx_kl_k1 == doctest::Approx(want.approx_kl_k1).epsilon(1e-5));
      CHECK(got.clip_fraction == doctest::Approx(want.clip_fraction));
      CHECK(want.clip_fraction > 0.3);  // both sides of the clip are visited

      const auto tensor = [](const std::vector<float>& x) {
        return Tensor::from(std::span<const float>(x), {static_cast<int64_t>(x.size())});
      };
      std::vector<float> advantage = c.advantage;
      if (normalize) normalize_advantage(c.advantage, advantage);
      const Tensor lp = set_requires_grad(tensor(c.log_prob)),
                   h = set_requires_grad(tensor(c.entropy)), v = set_requires_grad(tensor(c.value)),
                   a = tensor(advantage);
      const Tensor ratio = exp(lp - tensor(c.old_log_prob));
      const Tensor old_value = tensor(c.old_value);
      const Tensor judged = clip_value ? old_value + clamp(v - old_value, -0.2, 0.2) : v;
      backward(-mean(minimum(a * ratio, a * clamp(ratio, 0.8, 1.2))) - mean(h) * 0.03 +
               mean(square(tensor(c.returns) - judged)) * 0.7);
      for (size_t i = 0; i < c.log_prob.size(); ++i) {
        CHECK(gradient.log_prob[i] ==
              doctest::Approx(grad(lp).data<float>()[i]).epsilon(1e-3).scale(1e-3));
        CHECK(gradient.value[i] ==
              doctest::Approx(grad(v).data<float>()[i]).epsilon(1e-3).scale(1e-3));
        CHECK(gradient.entropy[i] == doctest::Approx(grad(h).data<float>()[i]));
      }
    }
  }
}

TEST_CASE("weights, a KL penalty and the plain policy gradient, beside autograd and float64") {
  for (bool surrogate : {true, false}) {
    PpoLossOptions options;
    options.normalize_advantage = false;
    options.surrogate = surrogate;
    options.kl_coef = 0.4;
    const Columns c = draw(101, 7);
    std::vector<float> weight;
    for (uint64_t i = 0; i < 101; ++i) weight.push_back(uniform_float(Rng{8}.at(i).word[0]));
    PpoBatch batch = c.batch();
    batch.weight = weight;
    PpoGradient gradient;
    const PpoLoss got = ppo_loss(batch, options, gradient);

    double policy = 0, kl = 0;
    for (size_t i = 0; i < 101; ++i) {
      const double log_ratio = static_cast<double>(c.log_prob[i]) - c.old_log_prob[i];
      const double ratio = std::exp(log_ratio), a = c.advantage[i];
      const double clipped = std::min(a * ratio, a * std::clamp(ratio, 0.8, 1.2));
      policy -= weight[i] * (surrogate ? clipped : a * c.log_prob[i]) / 101;
      kl += (ratio - 1 - log_ratio) / 101;
    }
    CHECK(got.policy_gradient_loss == doctest::Approx(policy).epsilon(1e-5));
    CHECK(got.loss == doctest::Approx(policy + 0.5 * got.value_loss + 0.4 * kl).epsilon(1e-5));

    const auto tensor = [](const std::vector<float>& x) {
      return Tensor::from(std::span<const float>(x), {static_cast<int64_t>(x.size())});
    };
    const Tensor lp = set_requires_grad(tensor(c.log_prob)), a = tensor(c.advantage);
    const Tensor log_ratio = lp - tensor(c.old_log_prob), ratio = exp(log_ratio);
    const Tensor gain = surrogate ? minimum(a * ratio, a * clamp(ratio, 0.8, 1.2)) : a * lp;
    backward(mean(ratio - 1.0 - log_ratio) * 0.4 - mean(tensor(weight) * gain));
    for (size_t i = 0; i < 101; ++i)
      CHECK(gradient.log_prob[i] ==
            doctest::Approx(grad(lp).data<float>()[i]).epsilon(1e-3).scale(1e-3));
  }
}

TEST_CASE("two samples by hand") {
  // ratio e^0.5 = 1.6487 with advantage 1 is clipped to 1.2; ratio 1 with advantage -1 is not.
  Columns c{{0.5f, 0}, {0.2f, 0.4f}, {1, 2}, {0, 0}, {1, 2}, {1, -1}, {3, 2}};
  PpoLossOptions options;
  options.normalize_advantage = false;
  PpoGradient gradient;
  const PpoLoss loss = ppo_loss(c.batch(), options, gradient);
  CHECK(loss.policy_gradient_loss == doctest::Approx(-(1.2 - 1) / 2));
  CHECK(loss.value_loss == doctest::Approx(2));
  CHECK(loss.entropy_loss == doctest::Approx(-0.3));
  CHECK(loss.loss == doctest::Approx(-0.1 + 0.5 * 2));
  CHECK(loss.clip_fraction == 0.5);
  CHECK(gradient.log_prob[0] == 0);
  CHECK(gradient.log_prob[1] == 0.5f);
  CHECK(gradient.value[0] == doctest::Approx(-1));
}

TEST_CASE("advantages: mean 0, unbiased deviation 1; a single one stays") {
  std::vector<float> out;
  normalize_advantage(std::vector<float>{1, 2, 3}, out);
  CHECK(out[0] == doctest::Approx(-1));
  CHECK(out[1] == doctest::Approx(0));
  normalize_advantage(std::vector<float>{5}, out);
  CHECK(out[0] == 5);
}

TEST_CASE("a loss of NaN stays NaN, columns of unequal length are refused") {
  Columns c = draw(8, 6);
  c.returns[3] = std::numeric_limits<float>::quiet_NaN();
  PpoGradient gradient;
  CHECK(std::isnan(ppo_loss(c.batch(), {}, gradient).loss));
  c.returns.pop_back();
  CHECK_THROWS_AS(ppo_loss(c.batch(), {}, gradient), ValueError);
}

TEST_CASE("explained variance: 1 for perfect values, 0 for a constant, below for worse") {
  const std::vector<float> returns = {1, 2, 3, 4}, constant(4, 9.0f), opposite = {4, 3, 2, 1};
  CHECK(explained_variance(returns, returns) == 1);
  CHECK(explained_variance(constant, returns) == doctest::Approx(0));
  CHECK(explained_variance(opposite, returns) == doctest::Approx(-3));
  CHECK(std::isnan(explained_variance(returns, constant)));
}
