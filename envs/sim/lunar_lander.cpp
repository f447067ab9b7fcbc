// LunarLander-v3 and LunarLanderContinuous-v3: land between the flags, softly and upright.
// Rules, constants and random draws as Gymnasium 1.4 on Box2D 2.4.1 instead of pybox2d's 2.3: the
// same game with statistically equal scores, not the same bits.
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "core/base/error.h"
#include "envs/batch.h"
#include "envs/sim/lunar_world.h"

namespace bessemer {

namespace {

template <bool kContinuous>
class LunarLander {
 public:
  using Action = std::conditional_t<kContinuous, float, int64_t>;

  static Spec spec() {
    Spec spec;
    spec.id = kContinuous ? "LunarLanderContinuous-v3" : "LunarLander-v3";
    spec.doc = kContinuous
                   ? "Land a rocket between two flags; throttles for main and side engines"
                   : "Land a rocket between two flags; one of three engines, or none, a step";
    const double turn = 2 * M_PI;
    spec.observation = {{.name = "obs",
                         .shape = {8},
                         .low = {-2.5, -2.5, -10, -10, -turn, -10, 0, 0},
                         .high = {2.5, 2.5, 10, 10, turn, 10, 1, 1}}};
    if constexpr (kContinuous) {
      spec.action = {{.name = "action", .shape = {2}, .low = {-1}, .high = {1}}};
    } else {
      spec.action = {
          {.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {4}}};
    }
    spec.max_episode_steps = 1000;
    spec.reward_threshold = 200;
    spec.render_fps = 50;
    spec.render_width = static_cast<int>(LunarWorld::kViewWidth);
    spec.render_height = static_cast<int>(LunarWorld::kViewHeight);
    spec.options = {
        {.name = "gravity", .fallback = "-10.0", .min = -12, .max = 0, .doc = "m/s², in (-12, 0)"},
        {.name = "enable_wind",
         .type = Option::Type::boolean,
         .fallback = "false",
         .doc = "sideways force and torque until a leg touches"},
        {.name = "wind_power", .fallback = "15.0", .doc = "greatest force, N; 0 to 20 recommended"},
        {.name = "turbulence_power",
         .fallback = "1.5",
         .doc = "greatest torque, N·m; 0 to 2 recommended"}};
    return spec;
  }

  explicit LunarLander(const Settings& settings) {
    options_.gravity = settings.number("gravity");
    options_.enable_wind = settings.boolean("enable_wind");
    options_.wind_power = settings.number("wind_power");
    options_.turbulence_power = settings.number("turbulence_power");
    BESSEMER_CHECK(options_.gravity > -12 && options_.gravity < 0, ValueError,
                   "[LunarLander] gravity must lie in (-12, 0), got ", options_.gravity);
    episode_.actions.reserve(1024 * kActionSize);
  }

  void reset(Pcg64& rng, const Settings&) {
    episode_.start = rng.state();
    episode_.actions.clear();
    begin(rng);
  }

  StepResult step(Action action, Pcg64& rng) requires(!kContinuous) {
    return step(std::span<const Action>(&action, 1), rng, Log::yes);
  }
  StepResult step(std::span<const Action> action, Pcg64& rng) requires kContinuous {
    return step(action, rng, Log::yes);
  }

  void observe(RowOut& out) const {
    float* values = out.dense<float>(0);
    for (int i = 0; i < 8; ++i) values[i] = static_cast<float>(observation_[i]);
  }

  // Box2D has no save: what made the state is kept instead, and loading plays it again.
  void state(StateIo& io) {
    LunarOptions options = options_;
    Episode episode = episode_;
    std::array<double, 8> seen = observation_;
    io(options.gravity, options.enable_wind, options.wind_power, options.turbulence_power,
       episode.start, episode.actions, seen);
    if (!io.loading()) return;
    BESSEMER_CHECK(options == options_, ValueError,
                   "[LunarLander] the saved state has other options than this environment");
    BESSEMER_CHECK(episode.actions.size() % kActionSize == 0, ValueError,
                   "[LunarLander] damaged saved state: actions");
    std::swap(episode, episode_);
    replay();
    if (seen == observation_) return;
    std::swap(episode, episode_);
    if (world_.built()) replay();
    fail<ValueError>(
        "[LunarLander] replaying the saved actions ends elsewhere: saved with another Box2D or "
        "processor");
  }

  void draw(Canvas& canvas) const {
    if (world_.built()) draw_lander(world_, thrust_, steps_, canvas);
  }

 private:
  static constexpr size_t kActionSize = kContinuous ? 2 : 1;
  enum class Log { no, yes };

  /// All that decides an episode besides the options.
  struct Episode {
    Pcg64::State start;  // before the world was built
    std::vector<Action> actions;
  };

  void replay() {
    Pcg64 rng;
    rng.set_state(episode_.start);
    begin(rng);
    for (size_t i = 0; i < episode_.actions.size(); i += kActionSize) {
      step(std::span<const Action>(&episode_.actions[i], kActionSize), rng, Log::no);
    }
  }

  void begin(Pcg64& rng) {
    world_.build(options_, rng);
    steps_ = 0;
    const Action none[kActionSize] = {};
    step(none, rng, Log::no);  // Gymnasium's reset ends with a step of no action
  }

  static LunarThrust thrust_of(std::span<const Action> action) {
    LunarThrust thrust;
    if constexpr (kContinuous) {
      const double main = std::clamp<double>(action[0], -1, 1);
      const double side = std::clamp<double>(action[1], -1, 1);
      if (main > 0) thrust.main = (main + 1) * 0.5;
      if (std::fabs(side) > 0.5) {
        thrust.side = std::fabs(side);
        thrust.direction = side > 0 ? 1 : -1;
      }
    } else {
      if (action[0] == 2) thrust.main = 1;
      if (action[0] == 1 || action[0] == 3) {
        thrust.side = 1;
        thrust.direction = action[0] == 1 ? -1 : 1;
      }
    }
    return thrust;
  }

  StepResult step(std::span<const Action> action, Pcg64& rng, Log log) {
    if (log == Log::yes) {
      episode_.actions.insert(episode_.actions.end(), action.begin(), action.end());
    }
    thrust_ = thrust_of(action);
    world_.blow(options_);
    world_.fire(thrust_, rng);
    world_.step();

    const b2Vec2 position = world_.hull->GetPosition(), velocity = world_.hull->GetLinearVelocity();
    constexpr double half_width = LunarWorld::kWidth / 2, half_height = LunarWorld::kHeight / 2;
    observation_ = {(position.x - half_width) / half_width,
                    (position.y - (LunarWorld::kPadY + LunarWorld::kLegDown)) / half_height,
                    velocity.x * half_width / 50,
                    velocity.y * half_height / 50,
                    world_.hull->GetAngle(),
                    20.0 * world_.hull->GetAngularVelocity() / 50,
                    world_.leg_contact[0] ? 1.0 : 0.0,
                    world_.leg_contact[1] ? 1.0 : 0.0};
    const auto& s = observation_;
    const double shaping = -100 * std::sqrt(s[0] * s[0] + s[1] * s[1]) -
                           100 * std::sqrt(s[2] * s[2] + s[3] * s[3]) - 100 * std::fabs(s[4]) +
                           10 * s[6] + 10 * s[7];
    StepResult result;
    result.reward = steps_ == 0 ? 0 : shaping - shaping_;
    shaping_ = shaping;
    result.reward -= thrust_.main * 0.30;
    result.reward -= thrust_.side * 0.03;
    if (world_.crashed || std::fabs(s[0]) >= 1) {
      result.terminated = true;
      result.reward = -100;
    }
    if (!world_.hull->IsAwake()) {
      result.terminated = true;
      result.reward = 100;
    }
    ++steps_;
    return result;
  }

  LunarOptions options_;
  LunarWorld world_;
  LunarThrust thrust_;
  std::array<double, 8> observation_{};
  double shaping_ = 0;
  uint64_t steps_ = 0;  // of this episode, the one of reset included
  Episode episode_;
};

}  // namespace

BESSEMER_ENVIRONMENT(LunarLander<false>)
BESSEMER_ENVIRONMENT(LunarLander<true>)

}  // namespace bessemer
