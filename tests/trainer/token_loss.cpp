// Reference values: the formulas written in PyTorch over float64, gradients by its autograd.
#include "trainer/token_loss.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/base/error.h"

using namespace bessemer;

namespace {

const std::vector<int64_t> kOffsets = {0, 3, 5, 9, 10};
const std::vector<uint8_t> kMask = {0, 1, 1, 1, 1, 0, 1, 1, 1, 1};
const std::vector<float> kLogProb = {-0.5f, -1.25f,  -0.75f, -2.0f,   -0.25f,
                                     -1.5f, -0.625f, -3.0f,  -0.125f, -1.0f};
const std::vector<float> kOld = {-0.5f, -1.0f,   -1.0f, -2.25f, -0.25f,
                                 -1.0f, -1.125f, -2.5f, -0.25f, -1.5f};
const std::vector<float> kReference = {-1.0f, -1.875f, -0.5f,  -1.75f, -0.5f,
                                       -1.0f, -0.75f,  -2.75f, -0.5f,  -1.25f};
const std::vector<float> kAdvantage = {0.5f, 0.5f, 0.5f, -1.0f, -1.0f,
                                       2.0f, 2.0f, 2.0f, 2.0f,  -0.25f};
const TokenSpan kSpan{kOffsets, kMask};

void check_near(const std::vector<float>& got, const std::vector<double>& wanted) {
  REQUIRE(got.size() == wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO(i, ": ", got[i], " and ", wanted[i]);
    CHECK(std::fabs(got[i] - wanted[i]) <= 1e-6 * (1 + std::fabs(wanted[i])));
  }
}

}  // namespace

TEST_CASE("nll_loss") {
  std::vector<float> gradient;
  CHECK(nll_loss(kSpan, kLogProb, 8, gradient) == doctest::Approx(1.125));
  check_near(gradient, {0.0, -0.125, -0.125, -0.125, -0.125, 0.0, -0.125, -0.125, -0.125, -0.125});
  // Two micro-batches with the step's denominator add up to the whole.
  const std::vector<int64_t> first = {0, 3, 5}, second = {0, 4, 5};
  const std::span<const uint8_t> mask(kMask);
  const std::span<const float> log_prob(kLogProb);
  const double sum = nll_loss({first, mask.first(5)}, log_prob.first(5), 8, gradient) +
                     nll_loss({second, mask.subspan(5)}, log_prob.subspan(5), 8, gradient);
  CHECK(sum == doctest::Approx(1.125));
  CHECK_THROWS_AS(nll_loss(kSpan, kLogProb, 0, gradient), ValueError);
  CHECK_THROWS_AS(nll_loss(kSpan, log_prob.first(3), 8, gradient), ValueError);
}

TEST_CASE("dpo_loss in all its forms") {
  struct Case {
    DpoOptions options;
    double loss;
    std::vector<double> gradient;
  };
  const std::vector<Case> cases = {
      {{.beta = 0.1},
       0.6838600660355867,
       {0.0, -0.024531304924, -0.024531304924, 0.024531304924, 0.024531304924, 0.0, -0.025, -0.025,
        -0.025, 0.025}},
      {{.beta = 0.5, .label_smoothing = 0.1},
       0.65784123505777,
       {0.0, -0.088315462004, -0.088315462004, 0.088315462004, 0.088315462004, 0.0, -0.1, -0.1,
        -0.1, 0.1}},
      {{.kind = DpoKind::ipo, .beta = 0.1, .length_normalize = true},
       24.92730034722222,
       {0.0, -2.40625, -2.40625, 2.40625, 2.40625, 0.0, -1.722222222222, -1.722222222222,
        -1.722222222222, 5.166666666667}},
      {{.kind = DpoKind::hinge, .beta = 0.5, .reference_free = true},
       1.625,
       {0.0, -0.25, -0.25, 0.25, 0.25, 0.0, -0.25, -0.25, -0.25, 0.25}},
  };
  for (const Case& c : cases) {
    std::vector<float> gradient;
    const DpoLoss loss = dpo_loss(kSpan, kLogProb, kReference, c.options, 2, gradient);
    CHECK(loss.loss == doctest::Approx(c.loss));
    check_near(gradient, c.gradient);
    CHECK(loss.margin == doctest::Approx(loss.chosen_reward - loss.rejected_reward));
  }
  std::vector<float> gradient;
  CHECK_THROWS_AS(dpo_loss(kSpan, kLogProb, kReference, {.label_smoothing = 0.5}, 2, gradient),
                  ValueError);
  CHECK_THROWS_AS(dpo_loss(kSpan, kLogProb, {}, {}, 2, gradient), ValueError);
}

TEST_CASE("token_policy_loss: aggregations, clips and the reference's pull") {
  struct Case {
    TokenPolicyOptions options;
    double loss;
    std::vector<double> gradient;
  };
  const std::vector<Case> cases = {
      {{},
       -0.5215691103414811,
       {0.0, -0.048675048942, 0.0, 0.160503177086, 0.125, 0.0, 0.0, -0.151632664928,
        -0.283287113267, 0.051522539709}},
      {{.clip_high = 0.28, .aggregation = Aggregation::sequence_mean, .kl_coef = 0.1},
       -0.23860761527776092,
       {0.0, -0.042865816798, -0.003550317709, 0.156952859377, 0.127764990212, 0.0, 0.000979192478,
        -0.103455321758, -0.186252152834, 0.108575059842}},
      {{.aggregation = Aggregation::constant,
        .max_tokens = 8,
        .kl_coef = 0.05,
        .kl = KlEstimator::k2},
       -0.12972089086662028,
       {0.0, -0.011192199735, -0.000390625, 0.039735169271, 0.031640625, 0.0, 0.0001953125,
        -0.038298791232, -0.070235840817, 0.013271259927}},
      {{.dual_clip = 1.1},
       -0.5617198271368278,
       {0.0, -0.048675048942, 0.0, 0.0, 0.125, 0.0, 0.0, -0.151632664928, -0.283287113267, 0.0}},
      {{.kl_coef = 0.1, .kl = KlEstimator::k1},
       -0.510631610341481,
       {0.0, -0.036175048942, 0.0125, 0.173003177086, 0.1375, 0.0, 0.0125, -0.139132664928,
        -0.270787113267, 0.064022539709}},
  };
  for (const Case& c : cases) {
    std::vector<float> gradient;
    const TokenPolicyLoss loss =
        token_policy_loss(kSpan, kLogProb, kOld, kReference, kAdvantage, c.options, {}, gradient);
    CHECK(loss.loss == doctest::Approx(c.loss));
    check_near(gradient, c.gradient);
  }
  // On the policy's own samples the ratio is 1, nothing is clipped and the KL is 0.
  std::vector<float> gradient;
  const TokenPolicyLoss same =
      token_policy_loss(kSpan, kLogProb, kLogProb, kLogProb, kAdvantage, {}, {}, gradient);
  CHECK(same.ratio_mean == 1);
  CHECK(same.ratio_max == 1);
  CHECK(same.clip_low == 0);
  CHECK(same.clip_high == 0);
  CHECK(same.kl == 0);
  CHECK(same.approx_kl == 0);
  CHECK_THROWS_AS(
      token_policy_loss(kSpan, kLogProb, kOld, {}, kAdvantage, {.kl_coef = 1}, {}, gradient),
      ValueError);
  CHECK_THROWS_AS(token_policy_loss(kSpan, kLogProb, kOld, {}, kAdvantage,
                                    {.aggregation = Aggregation::constant}, {}, gradient),
                  ValueError);
  // An empty completion neither trains nor divides by zero.
  const std::vector<uint8_t> none(10, 0);
  const TokenPolicyLoss empty =
      token_policy_loss({kOffsets, none}, kLogProb, kOld, {}, kAdvantage, {}, {}, gradient);
  CHECK(empty.loss == 0);
  check_near(gradient, std::vector<double>(10, 0.0));
}

TEST_CASE("reward_loss") {
  std::vector<float> d_chosen, d_rejected;
  const std::vector<float> chosen = {1, 0.5, -0.25}, rejected = {0.25, 1, -2}, margin = {0, 0.5, 1};
  const RewardLoss loss = reward_loss(chosen, rejected, margin, 0.01, 3, d_chosen, d_rejected);
  CHECK(loss.loss == doctest::Approx(0.7252512332493408));
  CHECK(loss.accuracy == doctest::Approx(2.0 / 3));
  check_near(d_chosen, {-0.09860710027486899, -0.23368619287666828, -0.12194043360820232});
  check_near(d_rejected, {0.11527376694153565, 0.25368619287666827, 0.09194043360820232});
}

TEST_CASE("token_value_loss") {
  std::vector<float> gradient;
  const std::vector<float> value = {0.5f, 1, -1, 0, 2, 0.25f, 0.75f, -0.5f, 1.5f, 0};
  const std::vector<float> old_value = {0.5f,  0.5f,  -1.125f, 0.5f,  1.9f,
                                        0.25f, 0.25f, -0.5f,   1.75f, 0.05f};
  const std::vector<float> returns = {0, 1.5f, -0.5f, 1, 1, 0, -1, 0.5f, 2, -1};
  CHECK(token_value_loss(kSpan, value, old_value, returns, 0.2, 8, gradient) ==
        doctest::Approx(0.51265625));
  check_near(gradient, {0.0, 0.0, -0.0625, -0.125, 0.125, 0.0, 0.21875, -0.125, -0.0625, 0.125});
}

TEST_CASE("group_advantages") {
  const std::vector<float> rewards = {1, 2, 3, 6, 0, 0, 1, 1};
  check_near(group_advantages(rewards, 4, AdvantageScale::group).advantage,
             {-0.9257772446135025, -0.46288862230675126, 0.0, 1.3886658669202538,
              -0.8658754297607016, -0.8658754297607016, 0.8658754297607016, 0.8658754297607016});
  check_near(
      group_advantages(rewards, 4, AdvantageScale::batch).advantage,
      {-1.0089990516964782, -0.5044995258482391, 0.0, 1.5134985775447172, -0.25224976292411955,
       -0.25224976292411955, 0.25224976292411955, 0.25224976292411955});
  check_near(group_advantages(rewards, 4, AdvantageScale::none).advantage,
             {-2, -1, 0, 3, -0.5, -0.5, 0.5, 0.5});
  check_near(group_advantages(rewards, 4, AdvantageScale::leave_one_out).advantage,
             {-8.0 / 3, -4.0 / 3, 0, 4, -2.0 / 3, -2.0 / 3, 2.0 / 3, 2.0 / 3});
  // No spread, one usable reward, an unscorable one.
  const float nan = NAN;
  const GroupAdvantages odd = group_advantages(
      std::vector<float>{0.1f, 0.1f, 0.1f, nan, 1, nan, 0, nan, 2}, 3, AdvantageScale::group);
  CHECK(odd.zero_spread_groups == 2);
  const double one = 1 / (std::sqrt(2.0) + 1e-4);
  check_near(odd.advantage, {0, 0, 0, 0, 0, 0, -one, 0, one});
  CHECK_THROWS_AS(group_advantages(rewards, 3, AdvantageScale::group), ValueError);
}

TEST_CASE("turn_advantages") {
  // Two groups of three; the fifth conversation could not be scored.
  const std::vector<std::vector<float>> to_go = {
      {1, 2, -1}, {0.5f, 0.5f}, {-1, -0.75f, 0.25f, 0.5f}, {2}, {}, {0, 1}};
  const auto check = [&](AdvantageScale scale, const std::vector<std::vector<double>>& expected) {
    const auto got = turn_advantages(to_go, 3, scale);
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) check_near(got[i], expected[i]);
  };
  check(AdvantageScale::group, {{0.8005638533383327, 1.3609585506751654, -0.6004228900037495},
                                {0.3202255413353331, -0.0800563853338333},
                                {-1.1207893946736658, -1.2809021653413324, 0.6004228900037495, 0},
                                {0.7070567847218314},
                                {},
                                {-0.7070567847218314, 0}});
  check(AdvantageScale::batch, {{0.7452893317955779, 1.2669918640524822, -0.5589669988466834},
                                {0.29811573271823116, -0.07452893317955782},
                                {-1.043405064513809, -1.1924629308729247, 0.5589669988466834, 0},
                                {0.8943471981546934},
                                {},
                                {-0.8943471981546934, 0}});
  check(AdvantageScale::none, {{5.0 / 6, 17.0 / 12, -0.625},
                               {1.0 / 3, -1.0 / 12},
                               {-7.0 / 6, -4.0 / 3, 0.625, 0},
                               {1},
                               {},
                               {-1, 0}});
  check(AdvantageScale::leave_one_out,
        {{1.25, 2.125, -1.25}, {0.5, -0.125}, {-1.75, -2, 1.25, 0}, {2}, {}, {-2, 0}});
  // One turn each: the same as the advantages of answers.
  const std::vector<float> rewards = {1, 2, 3, 6};
  const auto one = turn_advantages(std::vector<std::vector<float>>{{1}, {2}, {3}, {6}}, 4,
                                   AdvantageScale::group);
  const auto same = group_advantages(rewards, 4, AdvantageScale::group).advantage;
  for (size_t i = 0; i < 4; ++i) CHECK(one[i][0] == doctest::Approx(same[i]));
}

TEST_CASE("kl estimators agree in expectation, and their slopes with finite differences") {
  for (const KlEstimator kind : {KlEstimator::k1, KlEstimator::k2, KlEstimator::k3}) {
    for (const double x : {-3.0, -1.0, -0.25}) {
      const double h = 1e-6;
      const double difference =
          (kl_estimate(kind, x + h, -1.0) - kl_estimate(kind, x - h, -1.0)) / (2 * h);
      CHECK(kl_slope(kind, x, -1.0) == doctest::Approx(difference).epsilon(1e-6));
      if (kind != KlEstimator::k1) CHECK(kl_estimate(kind, x, -1.0) >= 0);
    }
  }
  // KL of (0.7, 0.3) from (0.5, 0.5), exactly.
  const double exact = 0.7 * std::log(0.7 / 0.5) + 0.3 * std::log(0.3 / 0.5);
  for (const KlEstimator kind : {KlEstimator::k1, KlEstimator::k3})
    CHECK(0.7 * kl_estimate(kind, std::log(0.7), std::log(0.5)) +
              0.3 * kl_estimate(kind, std::log(0.3), std::log(0.5)) ==
          doctest::Approx(exact));
}

TEST_CASE("token_gae steps over inactive tokens") {
  // Active tokens 1, 2 | 0, 2: the tool's answer at 1 of the second sequence counts for nothing.
  const std::vector<int64_t> offsets = {0, 3, 6};
  const std::vector<uint8_t> mask = {0, 1, 1, 1, 0, 1};
  const std::vector<float> reward = {9, 0, 1, 0.5f, 9, 2}, value = {9, 0.5f, 0.25f, 1, 9, 0.75f};
  std::vector<float> advantage, returns;
  token_gae({offsets, mask}, reward, value, 0.9, 0.8, advantage, returns);
  const double last = 1 - 0.25, first = 0.9 * 0.25 - 0.5 + 0.72 * last;
  const double other_last = 2 - 0.75, other_first = 0.5 + 0.9 * 0.75 - 1 + 0.72 * other_last;
  check_near(advantage, {0, first, last, other_first, 0, other_last});
  check_near(returns, {0, first + 0.5, last + 0.25, other_first + 1, 0, other_last + 0.75});
}

TEST_CASE("overlong_penalty falls linearly inside the buffer") {
  CHECK(overlong_penalty(80, 100, 20) == 0);
  CHECK(overlong_penalty(90, 100, 20) == -0.5);
  CHECK(overlong_penalty(100, 100, 20, 2) == -2);
  CHECK(overlong_penalty(130, 100, 20) == -1);
  CHECK_THROWS_AS(overlong_penalty(1, 10, 20), ValueError);
}
