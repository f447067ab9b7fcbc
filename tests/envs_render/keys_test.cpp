// Keyboard play: what the arrow keys mean.
#include "envs/render/keys.h"

#include <doctest/doctest.h>

#include "core/base/error.h"

using namespace bessemer;

namespace {

Spec discrete(const char* id, int64_t n, int64_t start = 0) {
  Spec spec;
  spec.id = id;
  spec.action = {{.name = "action",
                  .kind = SpaceKind::discrete,
                  .dtype = Dtype::i64,
                  .n = {n},
                  .start = start}};
  return spec;
}
Spec box(const char* id, int64_t size, double low, double high) {
  Spec spec;
  spec.id = id;
  spec.action = {{.name = "action", .shape = {size}, .low = {low}, .high = {high}}};
  return spec;
}
int64_t choose(const Spec& spec, HeldKeys keys, int64_t step = 0) {
  int64_t action = -100;
  key_action(spec, keys, step, &action);
  return action;
}

constexpr HeldKeys kLeft{.left = true}, kRight{.right = true}, kUp{.up = true}, kNone{};

}  // namespace

TEST_CASE("discrete environments") {
  const Spec lander = discrete("LunarLander-v3", 4);
  CHECK(choose(lander, kLeft) == 1);
  CHECK(choose(lander, kUp) == 2);
  CHECK(choose(lander, kRight) == 3);
  CHECK(choose(lander, kNone) == 0);
  CHECK(choose(lander, {.left = true, .right = true}) == 0);
  CHECK(choose(lander, {.left = true, .up = true}) == 2);

  const Spec cart = discrete("CartPole-v1", 2);  // no action does nothing: alternate
  CHECK(choose(cart, kNone, 0) != choose(cart, kNone, 1));
  CHECK(choose(cart, kLeft, 1) == 0);
  CHECK(choose(cart, kRight, 0) == 1);

  const Spec other = discrete("somebody/Grid-v0", 5, 10);
  CHECK(choose(other, kLeft) == 10);
  CHECK(choose(other, kNone) == 12);
  CHECK(choose(other, kRight) == 14);
}

TEST_CASE("box environments") {
  float action[2] = {9, 9};
  key_action(box("LunarLanderContinuous-v3", 2, -1, 1), {.left = true, .up = true}, 0, action);
  CHECK(action[0] == 1);
  CHECK(action[1] == -1);
  key_action(box("LunarLanderContinuous-v3", 2, -1, 1), kNone, 0, action);
  CHECK(action[0] == 0);
  CHECK(action[1] == 0);
  key_action(box("Pendulum-v1", 1, -2, 2), kLeft, 0, action);
  CHECK(action[0] == 2);  // turns to the left: a positive torque
  key_action(box("somebody/Valve-v0", 1, 0.5, 3), kNone, 0, action);
  CHECK(action[0] == 0.5f);
}

TEST_CASE("what cannot be played says so") {
  Spec text;
  text.id = "Echo-v0";
  text.action = {{.name = "action", .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true}};
  CHECK_FALSE(playable(text));
  int64_t action = 0;
  CHECK_THROWS_AS(key_action(text, kNone, 0, &action), ValueError);
  Spec several = discrete("somebody/Team-v0", 3);
  several.rows = 2;
  CHECK_FALSE(playable(several));
  CHECK(playable(discrete("CartPole-v1", 2)));
}
