// Pendulum-v1: swing up and hold a pendulum by bounded torque, with Gymnasium 1.4's constants and
// order of operations. NumPy 2 keeps products of the float32 action with Python's numbers in
// float32.
#include "envs/sim/classic.h"

namespace bessemer {
namespace {

using math::kPi;

struct Pendulum {
  using Action = float;
  static constexpr int kState = 3,
                       kObs = 3;  // theta (unwrapped), its speed, the last torque (drawn)
  static constexpr double kSpeed = 8, kTorque = 2, kStep = 0.05;

  struct Params {
    double gravity;  // 3 g / (2 l)
  };

  static Spec spec() {
    Spec s;
    s.id = "Pendulum-v1";
    s.doc = "Swing a pendulum up and hold it there by bounded torque.";
    s.observation = {
        {.name = "obs", .shape = {3}, .low = {-1, -1, -kSpeed}, .high = {1, 1, kSpeed}}};
    s.action = {{.name = "action", .shape = {1}, .low = {-kTorque}, .high = {kTorque}}};
    s.max_episode_steps = 200;
    s.render_fps = 30;
    s.render_width = s.render_height = 500;
    s.options = {{.name = "g", .fallback = "10.0", .doc = "gravity, m/s^2"}};
    s.reset_options = {
        {.name = "x_init",
         .fallback = "3.141592653589793",
         .doc = "the angle starts within +-x_init"},
        {.name = "y_init", .fallback = "1.0", .doc = "the speed starts within +-y_init"}};
    return s;
  }

  static Params params(const Settings& options) { return {3 * options.number("g") / 2}; }

  static void reset(double* s, Pcg64& rng, const Settings& options) {
    const double x = options.number("x_init"), y = options.number("y_init");
    s[0] = rng.uniform(-x, x);
    s[1] = rng.uniform(-y, y);
    s[2] = 0;
  }

  template <class T>
  static void step(T* s, T action, const Params& p, T& reward, math::Mask<T>& terminated) {
    const T u = math::clamped(action, T(-kTorque), T(kTorque));
    const T angle = math::floor_mod(s[0] + kPi, T(2 * kPi)) - kPi;
    const T effort = math::rounded_f32(math::rounded_f32(T(0.001)) * math::pow2_f32(u));
    reward = -(math::pow2(angle) + 0.1 * math::pow2(s[1]) + effort);
    const T push = math::rounded_f32(3.0 * u);
    s[1] =
        math::clamped(s[1] + (p.gravity * math::sin(s[0]) + push) * kStep, T(-kSpeed), T(kSpeed));
    s[0] = s[0] + s[1] * kStep;
    s[2] = u;
    terminated = false;
  }

  template <class T>
  static void observe(const T* s, T* obs) {
    obs[0] = math::cos(s[0]);
    obs[1] = math::sin(s[0]);
    obs[2] = s[1];
  }

  static void draw(const double* s, Canvas& canvas) {
    constexpr double kScale = 500 / 4.4;
    canvas.clear({250, 250, 252}, {228, 232, 240});
    canvas.set_view({250, 250}, kScale);
    const double angle = s[0] + kPi / 2;  // 0 is upright
    const Point tip{std::cos(angle), std::sin(angle)};
    canvas.line({0, 0}, tip, 0.2 * kScale, {204, 77, 77});
    canvas.fill_circle({0, 0}, 0.05, {30, 30, 36});
    if (s[2] == 0) return;
    // The torque as an arc with a head, longer and wider for more of it; positive turns left.
    const double sweep = (s[2] > 0 ? 1 : -1) * (0.4 + 0.9 * std::abs(s[2]));
    constexpr double kRadius = 0.4;
    constexpr int kPieces = 24;
    Point arc[kPieces + 1];
    for (int i = 0; i <= kPieces; ++i) {
      const double at = kPi / 2 + sweep * (static_cast<double>(i) / kPieces - 0.5);
      arc[i] = {kRadius * std::cos(at), kRadius * std::sin(at)};
    }
    const Color color{70, 90, 150};
    canvas.polyline(arc, 2 + 2 * std::abs(s[2]), color);
    const double end = kPi / 2 + sweep / 2, turn = s[2] > 0 ? 1 : -1;
    const Point out{std::cos(end), std::sin(end)}, on{-out.y * turn, out.x * turn};
    const Point head[3] = {{arc[kPieces].x + out.x * 0.09, arc[kPieces].y + out.y * 0.09},
                           {arc[kPieces].x - out.x * 0.09, arc[kPieces].y - out.y * 0.09},
                           {arc[kPieces].x + on.x * 0.16, arc[kPieces].y + on.y * 0.16}};
    canvas.fill_polygon(head, color);
  }
};

}  // namespace

BESSEMER_CLASSIC(Pendulum)

}  // namespace bessemer
