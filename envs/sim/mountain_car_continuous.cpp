// MountainCarContinuous-v0, with Gymnasium 1.4's constants and order of operations. Gymnasium
// stores the state as float32 after every step and NumPy 2 keeps float32 against Python's numbers,
// so all but the first step of an episode is float32 arithmetic: here doubles, rounded after each
// operation (a sum, difference or product of two float32 is exact enough in double that the second
// rounding is harmless).
#include "envs/sim/mountain.h"

namespace bessemer {
namespace {

struct MountainCarContinuous {
  using Action = float;
  static constexpr int kState = 3, kObs = 2;  // position, velocity, 1 until the first step
  static constexpr double kPower = 0.0015, kGravity = 0.0025, kGoal = 0.45;

  struct Params {
    double goal_velocity;
  };

  static Spec spec() {
    Spec s = mountain::spec("MountainCarContinuous-v0",
                            "Rock a weak car up a hill with as little force as possible.");
    s.action = {{.name = "action", .shape = {1}, .low = {-1}, .high = {1}}};
    s.max_episode_steps = 999;
    s.reward_threshold = 90;
    return s;
  }

  static Params params(const Settings& options) { return {options.number("goal_velocity")}; }

  static void reset(double* s, Pcg64& rng, const Settings& options) {
    const auto [low, high] = reset_bounds(options);
    s[0] = rng.uniform(low, high);
    s[1] = 0;
    s[2] = 1;
  }

  template <class T>
  static void step(T* s, T action, const Params& p, T& reward, math::Mask<T>& terminated) {
    const math::Mask<T> fresh = s[2] != 0.0;
    const auto kept = [fresh](T x) { return math::select(fresh, x, math::rounded_f32(x)); };
    const auto f32 = [](T x) { return math::rounded_f32(x); };

    const T pull = kGravity * math::cos(kept(3.0 * s[0]));
    // An action inside the space stays a float32, a clipped one becomes Python's double.
    const math::Mask<T> inside = (action >= -1.0) & (action <= 1.0);
    const T force = math::clamped(action, T(-1.0), T(1.0));
    const T change = math::select(inside, f32(f32(force * f32(T(kPower))) - f32(pull)),
                                  kept(force * kPower - pull));
    T speed = kept(s[1] + change);
    speed = math::clamped(speed, kept(T(-mountain::kSpeed)), kept(T(mountain::kSpeed)));
    const T left = kept(T(mountain::kLeft));
    const T x = math::clamped(kept(s[0] + speed), left, kept(T(mountain::kRight)));
    speed = math::select((x == left) & (speed < 0.0), T(0.0), speed);
    terminated = (x >= kept(T(kGoal))) & (speed >= kept(T(p.goal_velocity)));
    reward = math::select(terminated, T(100.0), T(0.0)) - math::pow2(action) * 0.1;
    s[0] = f32(x);
    s[1] = f32(speed);
    s[2] = 0.0;
  }

  template <class T>
  static void observe(const T* s, T* obs) {
    obs[0] = s[0];
    obs[1] = s[1];
  }

  static void draw(const double* s, Canvas& canvas) { mountain::draw(s[0], kGoal, canvas); }
};

}  // namespace

BESSEMER_CLASSIC(MountainCarContinuous)

}  // namespace bessemer
