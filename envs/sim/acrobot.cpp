// Acrobot-v1: R. S. Sutton, "Generalization in Reinforcement Learning: Successful Examples Using
// Sparse Coarse Coding", 1996, with the book's equations, one Runge-Kutta step of 0.2 s, and
// Gymnasium 1.4's constants and order of operations.
#include "envs/sim/classic.h"

namespace bessemer {
namespace {

using math::kPi;

/// NumPy 2's float32 sine and cosine on machines with FMA (its AVX2 and AVX-512 loops agree):
/// Gymnasium observes the float32 state of a reset through them, later states in double.
float numpy_sin_cos_f32(float x, bool cosine) {
  const float turns = x * 0x1.45f306p-1f;
  const float quadrant = (turns + 0x1.8p+23f) - 0x1.8p+23f;
  float r = std::fma(quadrant, -0x1.921fb0p+00f, x);
  r = std::fma(quadrant, -0x1.5110b4p-22f, r);
  r = std::fma(quadrant, -0x1.846988p-48f, r);
  const float z = r * r;
  float c = std::fma(0x1.98e616p-16f, z, -0x1.6c06dcp-10f);
  c = std::fma(c, z, 0x1.55553cp-05f);
  c = std::fma(c, z, -0.5f);
  c = std::fma(c, z, 1.0f);
  float s = std::fma(0x1.7d3bbcp-19f, z, -0x1.a06bbap-13f);
  s = std::fma(s, z, 0x1.11119ap-07f);
  s = std::fma(s, z, -0x1.555556p-03f);
  s = std::fma(s * z, r, r);
  const int q = static_cast<int>(quadrant) + (cosine ? 1 : 0);
  const float value = q & 1 ? c : s;
  return q & 2 ? -value : value;
}

struct Acrobot {
  using Action = int64_t;
  static constexpr int kState = 5,
                       kObs = 6;  // theta1, theta2, their speeds, 1 until the first step
  static constexpr int kFresh = 4;
  static constexpr double kStep = 0.2, kGravity = 9.8, kCom = 0.5;
  static constexpr double kSpeed1 = 4 * kPi, kSpeed2 = 9 * kPi;

  struct Params {};

  static Spec spec() {
    Spec s;
    s.id = "Acrobot-v1";
    s.doc =
        "Swing the free end of a two-link pendulum above its line by torque on the middle joint.";
    s.observation = {{.name = "obs",
                      .shape = {6},
                      .low = {-1, -1, -1, -1, -kSpeed1, -kSpeed2},
                      .high = {1, 1, 1, 1, kSpeed1, kSpeed2}}};
    s.action = {{.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {3}}};
    s.max_episode_steps = 500;
    s.reward_threshold = -100;
    s.render_fps = 15;
    s.render_width = s.render_height = 500;
    // Bounded, since wrapping angles that are far out never ends in Gymnasium either.
    s.reset_options = {{.name = "low",
                        .fallback = "-0.1",
                        .min = -100,
                        .max = 100,
                        .doc = "lower bound of the start"},
                       {.name = "high",
                        .fallback = "0.1",
                        .min = -100,
                        .max = 100,
                        .doc = "upper bound of the start"}};
    return s;
  }

  static Params params(const Settings&) { return {}; }

  static void reset(double* s, Pcg64& rng, const Settings& options) {
    const auto [low, high] = reset_bounds(options);
    for (int k = 0; k < 4; ++k) s[k] = math::rounded_f32(rng.uniform(low, high));
    s[kFresh] = 1;
  }

  /// Accelerations at (theta1, theta2, speed1, speed2) under `torque`.
  template <class T>
  static void derivative(const T* s, T torque, T* out) {
    const T sine = math::sin(s[1]), cosine = math::cos(s[1]);
    const T d1 = kCom * kCom + (1.0 + kCom * kCom + 2 * kCom * cosine) + 1.0 + 1.0;
    const T d2 = (kCom * kCom + kCom * cosine) + 1.0;
    const T phi2 = kCom * kGravity * math::cos(s[0] + s[1] - kPi / 2);
    const T phi1 = -kCom * math::pow2(s[3]) * sine - 2 * kCom * s[3] * s[2] * sine +
                   (kCom + 1.0) * kGravity * math::cos(s[0] - kPi / 2) + phi2;
    out[0] = s[2];
    out[1] = s[3];
    out[3] = (torque + d2 / d1 * phi1 - kCom * math::pow2(s[2]) * sine - phi2) /
             (kCom * kCom + 1.0 - math::pow2(d2) / d1);
    out[2] = -(d2 * out[3] + phi1) / d1;
  }

  template <class T>
  static void step(T* s, T action, const Params&, T& reward, math::Mask<T>& terminated) {
    const T torque = action - 1.0;
    T k1[4], k2[4], k3[4], k4[4], at[4];
    derivative(s, torque, k1);
    for (int i = 0; i < 4; ++i) at[i] = s[i] + kStep / 2 * k1[i];
    derivative(at, torque, k2);
    for (int i = 0; i < 4; ++i) at[i] = s[i] + kStep / 2 * k2[i];
    derivative(at, torque, k3);
    for (int i = 0; i < 4; ++i) at[i] = s[i] + kStep * k3[i];
    derivative(at, torque, k4);
    for (int i = 0; i < 4; ++i) {
      s[i] = s[i] + kStep / 6 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]);
    }
    s[0] = math::wrapped(s[0], T(-kPi), T(kPi));
    s[1] = math::wrapped(s[1], T(-kPi), T(kPi));
    s[2] = math::clamped(s[2], T(-kSpeed1), T(kSpeed1));
    s[3] = math::clamped(s[3], T(-kSpeed2), T(kSpeed2));
    s[kFresh] = 0.0;
    terminated = -math::cos(s[0]) - math::cos(s[1] + s[0]) > 1.0;
    reward = math::select(terminated, T(0.0), T(-1.0));
  }

  template <class T>
  static void observe(const T* s, T* obs) {
    obs[0] = math::cos(s[0]);
    obs[1] = math::sin(s[0]);
    obs[2] = math::cos(s[1]);
    obs[3] = math::sin(s[1]);
    obs[4] = s[2];
    obs[5] = s[3];
  }

  static void observe_start(const double* s, double* obs) {
    for (int link = 0; link < 2; ++link) {
      obs[2 * link] = numpy_sin_cos_f32(static_cast<float>(s[link]), true);
      obs[2 * link + 1] = numpy_sin_cos_f32(static_cast<float>(s[link]), false);
      obs[4 + link] = s[2 + link];
    }
  }

  static void draw(const double* s, Canvas& canvas) {
    constexpr double kScale = 500 / 4.4, kHalf = 0.1;
    canvas.clear({250, 250, 252}, {228, 232, 240});
    canvas.set_view({250, 250}, kScale);
    canvas.line({-2.2, 1}, {2.2, 1}, 1.5, {60, 60, 70});
    const double angles[2] = {s[0] - kPi / 2, s[0] + s[1] - kPi / 2};
    Point joint{0, 0};
    for (const double angle : angles) {
      const Point along{std::cos(angle), std::sin(angle)}, side{-along.y * kHalf, along.x * kHalf};
      const Point tip{joint.x + along.x, joint.y + along.y};
      const Point corners[4] = {{joint.x - side.x, joint.y - side.y},
                                {joint.x + side.x, joint.y + side.y},
                                {tip.x + side.x, tip.y + side.y},
                                {tip.x - side.x, tip.y - side.y}};
      canvas.fill_polygon(corners, {0, 172, 180});
      canvas.fill_circle(joint, kHalf, {232, 186, 40});
      joint = tip;
    }
  }
};

}  // namespace

BESSEMER_CLASSIC(Acrobot)

}  // namespace bessemer
