// Corridor-v0: walk to the far end of a corridor whose floor is slippery.
#include <algorithm>

#include "envs/batch.h"
#include "envs/render/canvas.h"

namespace bessemer {
namespace {

struct Corridor {
  using Action = int64_t;

  static Spec spec() {
    Spec s;
    s.id = "Corridor-v0";
    s.doc = "Walk to the far end of a corridor whose floor is slippery.";
    s.observation = {{.name = "obs", .shape = {2}, .low = {0}, .high = {1}}};
    s.action = {{.name = "action", .kind = SpaceKind::discrete, .dtype = Dtype::i64, .n = {2}}};
    s.max_episode_steps = 100;
    s.reward_threshold = 0.9;
    s.options = {{.name = "length",
                  .type = Option::Type::integer,
                  .fallback = "10",
                  .min = 2,
                  .max = 1000,
                  .doc = "cells"},
                 {.name = "slip",
                  .fallback = "0.1",
                  .min = 0,
                  .max = 1,
                  .doc = "probability that a step goes the other way"}};
    return s;
  }

  explicit Corridor(const Settings& options)
      : length_(options.integer("length")), slip_(options.number("slip")) {}

  void reset(Pcg64& rng, const Settings&) { cell_ = rng.integers(0, length_ / 2); }

  StepResult step(int64_t action, Pcg64& rng) {
    const bool right = (action == 1) != (rng.random() < slip_);
    cell_ = std::max<int64_t>(0, cell_ + (right ? 1 : -1));
    const bool arrived = cell_ == length_ - 1;
    return {.reward = arrived ? 1.0 : -0.01, .terminated = arrived};
  }

  void observe(RowOut& out) const {
    float* obs = out.dense<float>(0);
    obs[0] = static_cast<float>(cell_) / static_cast<float>(length_ - 1);
    obs[1] = cell_ == 0 ? 1 : 0;
  }

  void state(StateIo& io) { io(cell_); }

  void draw(Canvas& canvas) const {
    canvas.clear({245, 246, 250});
    const double width = static_cast<double>(canvas.width()) / static_cast<double>(length_);
    const double x = (static_cast<double>(cell_) + 0.5) * width, y = canvas.height() / 2.0;
    canvas.fill_rect({canvas.width() - width, y - 60}, {1.0 * canvas.width(), y + 60},
                     {120, 190, 120});
    canvas.fill_circle({x, y}, std::min(40.0, width / 2), {70, 90, 150});
  }

 private:
  int64_t length_, cell_ = 0;
  double slip_;
};

}  // namespace

BESSEMER_ENVIRONMENT(Corridor)

}  // namespace bessemer
