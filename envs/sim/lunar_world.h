// LunarLander's world on Box2D: bodies, contacts, engines and wind, without rewards or
// observations, so that a bench can step the very same world. Rules, constants and the order of
// random draws are Gymnasium 1.4's (envs/box2d/lunar_lander.py, MIT licence).
#pragma once

#include <box2d/box2d.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/base/pcg64.h"

namespace bessemer {

struct LunarOptions {
  double gravity = -10;
  bool enable_wind = false;
  double wind_power = 15, turbulence_power = 1.5;
  bool operator==(const LunarOptions&) const = default;
};

/// What the engines do in one step: power 0 (off) or 0.5 to 1; `direction` of the side engine is -1
/// (exhaust to the lander's right) or 1.
struct LunarThrust {
  double main = 0, side = 0, direction = 0;
};

class LunarWorld final : private b2ContactListener {
 public:
  static constexpr double kScale = 30, kViewWidth = 600, kViewHeight = 400;
  static constexpr double kWidth = kViewWidth / kScale, kHeight = kViewHeight / kScale;
  static constexpr int kChunks = 11;
  static constexpr double kPadY = kHeight / 4, kLegDown = 18 / kScale;
  static constexpr float kStep = 1.0f / 50;
  static constexpr int kVelocityIterations = 180, kPositionIterations = 60;
  static constexpr int kTouchdownIterations = 600, kTouchdownSteps = 4;
  static constexpr std::array<std::array<double, 2>, 6> kHull{
      {{-14, 17}, {-17, 0}, {-17, -10}, {17, -10}, {17, 0}, {14, 17}}};
  static constexpr double kLegHalfWidth = 2 / kScale, kLegHalfHeight = 8 / kScale;

  LunarWorld() = default;
  LunarWorld(const LunarWorld&) = delete;
  LunarWorld& operator=(const LunarWorld&) = delete;

  /// A new world: 12 heights, 2 force components and, with wind, 2 phases are drawn, in this order.
  void build(const LunarOptions& options, Pcg64& rng) {
    world_.emplace(b2Vec2(0, static_cast<float>(options.gravity)));
    world_->SetContactListener(this);
    crashed = false;
    leg_contact = {};
    settling_ = 0;
    build_ground(rng);
    build_hull();
    // A force, not an impulse: it acts in the first step only, on the hull without legs' mass.
    const double fx = rng.uniform(-1000, 1000), fy = rng.uniform(-1000, 1000);
    hull->ApplyForceToCenter(vector(fx, fy), true);
    if (options.enable_wind) {
      wind_phase_ = rng.integers(-9999, 9999);
      torque_phase_ = rng.integers(-9999, 9999);
    }
    for (int side = 0; side < 2; ++side) build_leg(side);
  }

  void blow(const LunarOptions& options) {
    if (!options.enable_wind || leg_contact[0] || leg_contact[1]) return;
    hull->ApplyForceToCenter(vector(gust(wind_phase_++) * options.wind_power, 0), true);
    hull->ApplyTorque(static_cast<float>(gust(torque_phase_++) * options.turbulence_power), true);
  }

  /// Fires the engines. Two draws whatever fires. `push(impulse, point)` is called before each
  /// impulse.
  template <class Push>
  void fire(const LunarThrust& thrust, Pcg64& rng, const Push& push) {
    const double angle = hull->GetAngle();
    const double tip_x = std::sin(angle), tip_y = std::cos(angle), side_x = -tip_y, side_y = tip_x;
    const double d0 = rng.uniform(-1, 1) / kScale, d1 = rng.uniform(-1, 1) / kScale;
    const b2Vec2 position = hull->GetPosition();
    const auto impulse = [&](double ox, double oy, double px, double py, double full,
                             double power) {
      const b2Vec2 amount = vector(-ox * full * power, -oy * full * power), point = vector(px, py);
      push(amount, point);
      hull->ApplyLinearImpulse(amount, point, true);
    };
    if (thrust.main > 0) {
      const double below = 4 / kScale + 2 * d0;
      const double ox = tip_x * below + side_x * d1, oy = -tip_y * below - side_y * d1;
      impulse(ox, oy, position.x + ox, position.y + oy, 13.0, thrust.main);
    }
    if (thrust.side > 0) {
      const double away = 3 * d1 + thrust.direction * 12 / kScale;
      const double ox = tip_x * d0 + side_x * away, oy = -tip_y * d0 - side_y * away;
      // 17 across but 14 along: Gymnasium's thruster moves with the lander's angle, and so does
      // ours.
      impulse(ox, oy, position.x + ox - tip_x * 17 / kScale, position.y + oy + tip_y * 14 / kScale,
              0.6, thrust.side);
    }
  }
  void fire(const LunarThrust& thrust, Pcg64& rng) {
    fire(thrust, rng, [](const b2Vec2&, const b2Vec2&) {});
  }

  /// Box2D 2.4 solves a joint's limit apart from its point (2.3, Gymnasium's, solves both at once),
  /// and after a leg's impact 180 iterations end far from the solution: the next steps' warm start
  /// then throws the lander up with energy from nowhere. More iterations in the steps after a
  /// touchdown bring the scores of crashes back to Gymnasium's: random policy, mean and deviation
  /// of 1,000 episodes -200 and 130 without, -177 and 110 with, Gymnasium -178 and 109. Also tried:
  /// no warm start while a leg touches (then nothing ever comes to rest), none in these steps
  /// (-178, 105).
  void step() {
    const int iterations = settling_ > 0 ? kTouchdownIterations : kVelocityIterations;
    if (settling_ > 0) --settling_;
    world_->Step(kStep, iterations, kPositionIterations);
  }
  bool built() const { return world_.has_value(); }

  static double ground_x(int i) { return kWidth / (kChunks - 1) * i; }

  b2Body* hull = nullptr;
  std::array<b2Body*, 2> legs{};
  std::array<bool, 2> leg_contact{};
  bool crashed = false;  // the hull touches something
  std::array<double, kChunks> ground_y{};

 private:
  static b2Vec2 vector(double x, double y) {
    return b2Vec2(static_cast<float>(x), static_cast<float>(y));
  }

  /// Never periodic, within (-1, 1); k = 0.01.
  static double gust(int64_t phase) {
    const auto k = static_cast<double>(phase);
    return std::tanh(std::sin(0.02 * k) + std::sin(M_PI * 0.01 * k));
  }

  void build_ground(Pcg64& rng) {
    std::array<double, kChunks + 1> height;
    for (double& h : height) h = rng.uniform(0, kHeight / 2);
    for (int i = kChunks / 2 - 2; i <= kChunks / 2 + 2; ++i) height[i] = kPadY;
    for (int i = 0; i < kChunks; ++i) {
      // The first height's left neighbour is the last drawn one, as Python's index -1 has it.
      ground_y[i] = 0.33 * (height[i == 0 ? kChunks : i - 1] + height[i] + height[i + 1]);
    }
    const b2BodyDef still;
    b2Body* ground = world_->CreateBody(&still);
    b2EdgeShape edge;
    b2FixtureDef fixture;
    fixture.shape = &edge;
    edge.SetTwoSided(vector(0, 0), vector(kWidth, 0));
    ground->CreateFixture(&fixture);
    fixture.friction = 0.1f;
    for (int i = 0; i + 1 < kChunks; ++i) {
      edge.SetTwoSided(vector(ground_x(i), ground_y[i]), vector(ground_x(i + 1), ground_y[i + 1]));
      ground->CreateFixture(&fixture);
    }
  }

  void build_hull() {
    b2BodyDef body;
    body.type = b2_dynamicBody;
    body.position = vector(kWidth / 2, kHeight);
    hull = world_->CreateBody(&body);
    std::array<b2Vec2, 6> corners;
    for (size_t i = 0; i < 6; ++i) corners[i] = vector(kHull[i][0] / kScale, kHull[i][1] / kScale);
    b2PolygonShape shape;
    shape.Set(corners.data(), 6);
    b2FixtureDef fixture;
    fixture.shape = &shape;
    fixture.density = 5;
    fixture.friction = 0.1f;
    fixture.filter.categoryBits = 0x0010;
    fixture.filter.maskBits = 0x001;  // the ground only
    hull->CreateFixture(&fixture);
  }

  void build_leg(int index) {
    const int side = index == 0 ? -1 : 1;
    b2BodyDef body;
    body.type = b2_dynamicBody;
    body.position = vector(kWidth / 2 - side * 20 / kScale, kHeight);
    body.angle = static_cast<float>(side * 0.05);
    legs[index] = world_->CreateBody(&body);
    b2PolygonShape shape;
    shape.SetAsBox(static_cast<float>(kLegHalfWidth), static_cast<float>(kLegHalfHeight));
    b2FixtureDef fixture;
    fixture.shape = &shape;
    fixture.density = 1;
    fixture.filter.categoryBits = 0x0020;
    fixture.filter.maskBits = 0x001;
    legs[index]->CreateFixture(&fixture);
    b2RevoluteJointDef joint;
    joint.bodyA = hull;
    joint.bodyB = legs[index];
    joint.localAnchorB = vector(side * 20 / kScale, kLegDown);
    // pybox2d measures the joint from the bodies' angles at creation; plain Box2D would from 0.
    joint.referenceAngle = legs[index]->GetAngle() - hull->GetAngle();
    joint.enableMotor = joint.enableLimit = true;
    joint.maxMotorTorque = 40;
    joint.motorSpeed = static_cast<float>(0.3 * side);
    joint.lowerAngle = static_cast<float>(side < 0 ? 0.9 - 0.5 : -0.9);
    joint.upperAngle = static_cast<float>(side < 0 ? 0.9 : -0.9 + 0.5);
    world_->CreateJoint(&joint);
  }

  void BeginContact(b2Contact* contact) override { touch(contact, true); }
  void EndContact(b2Contact* contact) override { touch(contact, false); }
  void touch(b2Contact* contact, bool begins) {
    const b2Body* a = contact->GetFixtureA()->GetBody();
    const b2Body* b = contact->GetFixtureB()->GetBody();
    if (begins && (a == hull || b == hull)) crashed = true;
    for (int i = 0; i < 2; ++i) {
      if (a != legs[i] && b != legs[i]) continue;
      if (begins && !leg_contact[i]) settling_ = kTouchdownSteps;
      leg_contact[i] = begins;
    }
  }

  std::optional<b2World> world_;
  int64_t wind_phase_ = 0, torque_phase_ = 0;
  int settling_ = 0;  // steps left of a touchdown
};

class Canvas;
/// Gymnasium's view, by night. `step` only makes the flames flicker.
void draw_lander(const LunarWorld& world, const LunarThrust& thrust, uint64_t step, Canvas& canvas);

}  // namespace bessemer
