// CartPole-v1: Barto, Sutton and Anderson, "Neuronlike Adaptive Elements That Can Solve Difficult
// Learning Control Problem", 1983, with Gymnasium 1.4's constants and order of operations.
#include "envs/sim/classic.h"

namespace bessemer {
namespace {

struct CartPole {
  using Action = int64_t;
  static constexpr int kState = 4, kObs = 4;  // x, x_dot, theta, theta_dot
  static constexpr double kGravity = 9.8, kPole = 0.1, kTotal = kPole + 1.0, kLength = 0.5;
  static constexpr double kPoleLength = kPole * kLength, kForce = 10.0, kTau = 0.02;
  static constexpr double kXLimit = 2.4, kThetaLimit = 12 * 2 * 3.141592653589793 / 360;

  struct Params {
    double running, failing;  // reward of a step that goes on, of one that ends
  };

  static Spec spec() {
    const double inf = HUGE_VAL;
    Spec s;
    s.id = "CartPole-v1";
    s.doc = "Balance a pole on a cart by pushing it left or right.";
    s.observation = {{.name = "obs",
                      .shape = {4},
                      .low = {-2 * kXLimit, -inf, -2 * kThetaLimit, -inf},
                      .high = {2 * kXLimit, inf, 2 * kThetaLimit, inf}}};
    s.action = {{.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {2}}};
    s.max_episode_steps = 500;
    s.reward_threshold = 475;
    s.options = {{.name = "sutton_barto_reward",
                  .type = Option::Type::boolean,
                  .fallback = "false",
                  .doc = "0 a step and -1 at failure, instead of 1 a step"}};
    s.reset_options = {{.name = "low", .fallback = "-0.05", .doc = "lower bound of the start"},
                       {.name = "high", .fallback = "0.05", .doc = "upper bound of the start"}};
    return s;
  }

  static Params params(const Settings& options) {
    return options.boolean("sutton_barto_reward") ? Params{0, -1} : Params{1, 1};
  }

  static void reset(double* s, Pcg64& rng, const Settings& options) {
    const auto [low, high] = reset_bounds(options);
    for (int k = 0; k < kState; ++k) s[k] = rng.uniform(low, high);
  }

  template <class T>
  static void step(T* s, T action, const Params& p, T& reward, math::Mask<T>& terminated) {
    const T force = math::select(action == 1.0, T(kForce), T(-kForce));
    const T cosine = math::cos(s[2]), sine = math::sin(s[2]);
    const T temp = (force + kPoleLength * (s[3] * s[3]) * sine) / kTotal;
    const T theta_acc = (kGravity * sine - cosine * temp) /
                        (kLength * (4.0 / 3.0 - kPole * (cosine * cosine) / kTotal));
    const T x_acc = temp - kPoleLength * theta_acc * cosine / kTotal;
    s[0] = s[0] + kTau * s[1];
    s[1] = s[1] + kTau * x_acc;
    s[2] = s[2] + kTau * s[3];
    s[3] = s[3] + kTau * theta_acc;
    terminated =
        (s[0] < -kXLimit) | (s[0] > kXLimit) | (s[2] < -kThetaLimit) | (s[2] > kThetaLimit);
    reward = math::select(terminated, T(p.failing), T(p.running));
  }

  template <class T>
  static void observe(const T* s, T* obs) {
    for (int k = 0; k < kObs; ++k) obs[k] = s[k];
  }

  static void draw(const double* s, Canvas& canvas) {
    constexpr double kScale = 600 / (2 * kXLimit), kPixel = 1 / kScale;
    canvas.clear({250, 250, 252}, {228, 232, 240});
    canvas.set_view({300, 300}, kScale);  // the track is 100 pixels above the bottom
    canvas.line({-kXLimit, 0}, {kXLimit, 0}, 1.5, {60, 60, 70});
    canvas.fill_rect({s[0] - 25 * kPixel, -15 * kPixel}, {s[0] + 25 * kPixel, 15 * kPixel},
                     {44, 48, 62});
    const Point axle{s[0], 7.5 * kPixel};
    const double length = 2 * kLength - 5 * kPixel;
    const Point tip{axle.x + length * std::sin(s[2]), axle.y + length * std::cos(s[2])};
    canvas.line(axle, tip, 10, {202, 152, 101});
    canvas.fill_circle(axle, 5 * kPixel, {129, 132, 203});
  }
};

}  // namespace

BESSEMER_CLASSIC(CartPole)

}  // namespace bessemer
