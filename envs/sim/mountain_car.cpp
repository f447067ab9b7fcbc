// MountainCar-v0: A. W. Moore, "Efficient Memory-Based Learning for Robot Control", 1990, with
// Gymnasium 1.4's constants and order of operations. The state stays in double.
#include "envs/sim/mountain.h"

namespace bessemer {
namespace {

struct MountainCar {
  using Action = int64_t;
  static constexpr int kState = 2, kObs = 2;  // position, velocity
  static constexpr double kForce = 0.001, kGravity = 0.0025, kGoal = 0.5;

  struct Params {
    double goal_velocity;
  };

  static Spec spec() {
    Spec s = mountain::spec("MountainCar-v0", "Rock a weak car up a hill with three pushes.");
    s.action = {{.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {3}}};
    s.max_episode_steps = 200;
    s.reward_threshold = -110;
    return s;
  }

  static Params params(const Settings& options) { return {options.number("goal_velocity")}; }

  static void reset(double* s, Pcg64& rng, const Settings& options) {
    const auto [low, high] = reset_bounds(options);
    s[0] = rng.uniform(low, high);
    s[1] = 0;
  }

  template <class T>
  static void step(T* s, T action, const Params& p, T& reward, math::Mask<T>& terminated) {
    T speed = s[1] + ((action - 1.0) * kForce + math::cos(3.0 * s[0]) * -kGravity);
    speed = math::clamped(speed, T(-mountain::kSpeed), T(mountain::kSpeed));
    const T x = math::clamped(s[0] + speed, T(mountain::kLeft), T(mountain::kRight));
    speed = math::select((x == mountain::kLeft) & (speed < 0.0), T(0.0), speed);
    s[0] = x;
    s[1] = speed;
    terminated = (x >= kGoal) & (speed >= p.goal_velocity);
    reward = -1.0;
  }

  template <class T>
  static void observe(const T* s, T* obs) {
    obs[0] = s[0];
    obs[1] = s[1];
  }

  static void draw(const double* s, Canvas& canvas) { mountain::draw(s[0], kGoal, canvas); }
};

}  // namespace

BESSEMER_CLASSIC(MountainCar)

}  // namespace bessemer
