// Classic control: a handful of numbers, explicit dynamics. The rules of such a task are one struct
// of functions on a scalar type T:
//
//     struct Rules {
//       using Action = int64_t;                       // from 0, or float
//       struct Params { ... };                        // options, as numbers
//       static constexpr int kState, kObs;            // state[kState], observation[kObs]
//       static Spec spec();
//       static Params params(const Settings& options);
//       static void reset(double* state, Pcg64& rng, const Settings& reset_options);
//       template <class T>                            // branch-free: select(), no if on T
//       static void step(T* state, T action, const Params&, T& reward, math::Mask<T>& terminated);
//       template <class T>
//       static void observe(const T* state, T* obs);
//       static void draw(const double* state, Canvas& canvas);
//       // optional: an observation of its own while state[kFresh] is not 0, i.e. before the first
//       step static constexpr int kFresh; static void observe_start(const double* state, double*
//       obs);
//     };
//     BESSEMER_CLASSIC(Rules)
//
// `Classic<Rules>` is their simulator in plain doubles and libm, bit-equal to Gymnasium;
// `LaneBatch<Rules>` (envs/lanes.h) steps a batch of them as SIMD code.
#pragma once

#include <utility>

#include "core/base/math.h"
#include "envs/batch.h"
#include "envs/lanes.h"
#include "envs/render/canvas.h"

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

  void observe(RowOut& out) const { classic_observe<Rules, double>(state_, out.dense<float>(0)); }

  void state(StateIo& io) {
    for (double& x : state_) io(x);
  }

  void draw(Canvas& canvas) const { Rules::draw(state_, canvas); }

 private:
  typename Rules::Params params_;
  double state_[Rules::kState] = {};
};

template <class Rules>
std::unique_ptr<EnvBatch> classic_batch_of(const Spec& spec, const BatchOptions& options) {
  if (options.arithmetic == Arithmetic::plain) {
    return std::make_unique<Batch<Classic<Rules>>>(spec, options);
  }
  return std::make_unique<LaneBatch<Rules>>(spec, options);
}

}  // namespace bessemer

#if defined(BESSEMER_RULES_ONLY)  // bench programs include the rules and register nothing
#define BESSEMER_CLASSIC(Rules)
#else
#define BESSEMER_CLASSIC(Rules)                                                              \
  [[maybe_unused]] static const bool bessemer_classic_environment =                          \
      (::bessemer::register_environment(Rules::spec(), ::bessemer::classic_batch_of<Rules>), \
       true);
#endif
