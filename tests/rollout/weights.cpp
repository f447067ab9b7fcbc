#include "rollout/weights.h"

#include <doctest/doctest.h>

#include "rollout/normalizer.h"
#include "tests/rollout/toy.h"

using namespace bessemer;

namespace {
nn::NamedTensors some_tensors() {
  return {{"a.weight", Tensor::arange(6, Dtype::f32)}, {"b", Tensor::scalar(2.5, Dtype::f64)}};
}
}  // namespace

TEST_CASE(
    "a set of weights is a copy, and its hash tells names, shapes, order and elements apart") {
  const nn::NamedTensors live = some_tensors();
  const WeightSet set = make_weights(7, live);
  CHECK(set.version == 7);
  CHECK(set.hash == weights_hash(live));
  live[0].second.data<float>()[0] = 9;
  CHECK(set.tensors[0].second.data<float>()[0] == 0);
  CHECK(set.hash != weights_hash(live));

  nn::NamedTensors other = some_tensors();
  other[0].first = "a.Weight";
  CHECK(weights_hash(other) != set.hash);
  other = some_tensors();
  other[0].second = reshape(other[0].second, {2, 3});
  CHECK(weights_hash(other) != set.hash);
  other = some_tensors();
  std::swap(other[0], other[1]);
  CHECK(weights_hash(other) != set.hash);
  CHECK(weights_hash(some_tensors()) == set.hash);
}

TEST_CASE("weights are assigned whole or not at all, and packed forms see it") {
  const WeightSet set = make_weights(1, some_tensors());
  nn::NamedTensors into = {{"a.weight", Tensor::zeros({6})}, {"b", Tensor::scalar(0, Dtype::f64)}};
  const uint32_t before = into[0].second.version();
  assign_weights(into, set);
  CHECK(into[0].second.data<float>()[5] == 5);
  CHECK(into[1].second.item() == 2.5);
  CHECK(into[0].second.version() != before);

  nn::NamedTensors wrong = {{"a.weight", Tensor::zeros({6})}, {"b", Tensor::scalar(0)}};
  CHECK_THROWS_WITH_AS(assign_weights(wrong, set),
                       "[weights] 'b' is float64 (), expected float32 ()", ValueError);
  CHECK(wrong[0].second.data<float>()[5] == 0);
  wrong[0].first = "c";
  CHECK_THROWS_WITH_AS(assign_weights(wrong, set),
                       "[weights] the set has 'a.weight' where 'c' is expected", ValueError);
  wrong.assign(3, {"c", Tensor::zeros({1})});
  CHECK_THROWS_AS(assign_weights(wrong, set), ValueError);
}

TEST_CASE("statistics of a normaliser travel behind the policy's weights") {
  NormalizerOptions options;
  options.normalize_obs = options.normalize_reward = true;
  Normalizer from(options, Dtype::f32, 2, 4), to(options, Dtype::f32, 2, 1);
  const float obs[] = {1, 2, 3, 5, 8, 13, 21, 34}, rewards[] = {1, -1, 2, 0};
  const uint8_t ended[] = {0, 0, 0, 0};
  from.update(1, obs, rewards, ended);
  nn::NamedTensors tensors = some_tensors();
  for (auto& named : normalizer_tensors(from)) tensors.push_back(named);
  const WeightSet set = make_weights(3, tensors);
  assign_weights(some_tensors(), set);
  assign_normalizer(to, set);
  CHECK(to.obs_moments().mean == from.obs_moments().mean);
  CHECK(to.obs_moments().variance == from.obs_moments().variance);
  CHECK(to.reward(3) == from.reward(3));
  CHECK(to.reward(3) != 3);
  Normalizer wider(options, Dtype::f32, 3, 1);
  CHECK_THROWS_AS(assign_normalizer(wider, set), ValueError);
}
