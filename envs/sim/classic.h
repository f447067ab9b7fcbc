// Classic control: a handful of numbers, explicit dynamics. The rules of such a task are one struct
// of functions on a scalar type T; `Classic<Rules>` is their simulator in plain doubles.
//
//     struct Rules {
//       using Action = int64_t;                       // or float
//       struct Params { ... };                        // options, as numbers
//       static constexpr int kState, kObs;
//       static Spec spec();
//       static Params params(const Settings& options);
//       static void reset(double* state, Pcg64& rng, const Settings& reset_options);
//       template <class T> static void step(T* state, T action, const Params&, T& reward, bool&
//       terminated); template <class T> static void observe(const T* state, T* obs); static void
//       draw(const double* state, Canvas& canvas);
//     };
#pragma once

#include "core/base/math.h"
#include "envs/batch.h"

namespace bessemer {

/// Reset options "low" and "high" of a start. Throws ValueError when low is above high.
inline std::pair<double, double> reset_bounds(const Settings& options) {
  const double low = options.number("low"), high = options.number("high");
  BESSEMER_CHECK(low <= high, ValueError, "[env] reset option low ", low, " is above high ", high);
  return {low, high};
}

template <class Rules>
struct Classic {
  using Action = typename Rules::Action;

  static Spec spec() { return Rules::spec(); }
  explicit Classic(const Settings& options) : params_(Rules::params(options)) {}

  void reset(Pcg64& rng, const Settings& options) { Rules::reset(state_, rng, options); }

  StepResult step(Action action, Pcg64&) {
    double reward;
    bool terminated;
    Rules::template step<double>(state_, static_cast<double>(action), params_, reward, terminated);
    return {reward, terminated};
  }

  void observe(RowOut& out) const {
    double obs[Rules::kObs];
    Rules::template observe<double>(state_, obs);
    float* to = out.dense<float>(0);
    for (int k = 0; k < Rules::kObs; ++k) to[k] = static_cast<float>(obs[k]);
  }

  void state(StateIo& io) {
    for (double& x : state_) io(x);
  }

 private:
  typename Rules::Params params_;
  double state_[Rules::kState] = {};
};

}  // namespace bessemer
