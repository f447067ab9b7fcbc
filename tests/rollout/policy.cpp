#include "rollout/policy.h"

#include <doctest/doctest.h>
#include <cmath>

#include "autograd/engine.h"
#include "tests/rollout/toy.h"

using namespace bessemer;
using test::box;
using test::choices;

namespace {
bool has(const nn::NamedTensors& names, const std::string& name) {
  for (auto& [key, tensor] : names)
    if (key == name) return true;
  return false;
}
}  // namespace

TEST_CASE("separate trunks do not share gradients, a shared one does") {
  for (bool separate : {true, false}) {
    PolicyOptions options;
    options.separate = separate;
    const Policy policy(box("obs", {3}), choices({2}), options, 1);
    const Policy::Outputs out = policy.forward(Tensor::full({4, 3}, 0.3), {});
    CHECK(shape_text(out.action.sizes()) == "(4, 2)");
    CHECK(shape_text(out.value.sizes()) == "(4, 1)");
    backward(sum(out.value));
    for (auto& [name, tensor] : policy.named_parameters()) {
      const bool of_value = name.starts_with("value") || name.starts_with("trunk");
      CHECK_MESSAGE(grad(tensor).defined() == of_value, name);
    }
    CHECK(has(policy.named_parameters(), "trunk.0.weight") == !separate);
    CHECK(has(policy.named_parameters(), "policy.1.bias") == separate);
  }
}

TEST_CASE("the policy's first outputs are nearly equal: its last layer starts small") {
  const Policy policy(box("obs", {3}), choices({4}), {}, 1);
  NoGrad no_grad;
  const Tensor logits = policy.forward(Tensor::full({1, 3}, 2.0), {}).action;
  for (float x : logits.values<float>()) CHECK(std::fabs(x) < 0.05f);
}

TEST_CASE("value() is forward()'s value, recurrent states of the two trunks lie side by side") {
  for (bool separate : {true, false}) {
    PolicyOptions options;
    options.kind = PolicyOptions::Kind::gru;
    options.hidden = {8};
    options.recurrent_size = 5;
    options.separate = separate;
    const Policy policy(box("obs", {3}), choices({2}), options, 3);
    CHECK(policy.state_size() == (separate ? 10 : 5));
    NoGrad no_grad;
    nn::Init init{4};
    const Tensor x = init.normal({6, 3}, 1), state = init.normal({6, policy.state_size()}, 1);
    const Policy::Outputs out = policy.forward(x, state);
    const Tensor value = policy.value(x, state);
    for (int64_t i = 0; i < 6; ++i) CHECK(value.data<float>()[i] == out.value.data<float>()[i]);
    CHECK(out.state.sizes() == state.sizes());
    CHECK(has(policy.named_parameters(), separate ? "value.gru.weight_hh" : "trunk.gru.weight_hh"));
  }
}

TEST_CASE("convolutional trunks take images and refuse small ones") {
  PolicyOptions options;
  options.kind = PolicyOptions::Kind::cnn;
  options.hidden = {16};
  options.separate = false;
  options.activation = cpu::Activation::relu;
  const Policy policy(box("obs", {2, 36, 44}, Dtype::u8), choices({3}), options, 1);
  NoGrad no_grad;
  const Policy::Outputs out = policy.forward(Tensor::full({2, 2 * 36 * 44}, 0.5), {});
  CHECK(shape_text(out.action.sizes()) == "(2, 3)");
  CHECK_THROWS_AS(Policy(box("obs", {3, 20, 20}, Dtype::u8), choices({3}), options, 1), ValueError);
  CHECK_THROWS_AS(Policy(box("obs", {4}), choices({3}), options, 1), ValueError);
}

TEST_CASE("spaces that a control policy cannot use are refused by name") {
  Channel text;
  text.name = "message";
  text.kind = SpaceKind::text;
  text.ragged = true;
  CHECK_THROWS_WITH_AS(Policy(text, choices({2}), {}, 1),
                       "a control policy cannot read text (observation channel 'message')",
                       ValueError);
  CHECK_THROWS_AS(Policy(box("obs", {2}), text, {}, 1), ValueError);
  PolicyOptions options;
  options.sde = true;
  CHECK_THROWS_AS(Policy(box("obs", {2}), choices({2}), options, 1), ValueError);
}
