// V-trace: values and advantages of a policy from what an older policy experienced.
#pragma once

#include <cstdint>
#include <vector>

namespace bessemer {

/// A flat [time, row] buffer. Values and `log_prob` are of the policy that learns.
struct VtraceInputs {
  int64_t steps = 0, rows = 0;
  const float* log_prob = nullptr;      // [steps, rows]: log pi(a_t | s_t)
  const float* old_log_prob = nullptr;  // [steps, rows]: log mu(a_t | s_t) of the policy that acted
  const float* reward = nullptr;        // [steps, rows]
  const float* value = nullptr;         // [steps, rows]: V(s_t)
  const uint8_t* ended = nullptr;       // [steps, rows]: the episode ended in this step
  const uint8_t* fault = nullptr;       // [steps, rows]: the step has no outcome; null: none
  const float* last_value = nullptr;    // [rows]: V of the observation after the last step
  double gamma = 0.99, lambda = 1;
  double rho = 1, c = 1;  // bounds of the importance weights
};

struct Vtrace {
  std::vector<float> target;     // v_t, what the value learns
  std::vector<float> advantage;  // A_t, without an importance weight
  std::vector<float> weight;  // rho_t, what multiplies A_t in a policy gradient without surrogate
  std::vector<float> ratio;   // pi(a_t | s_t) / mu(a_t | s_t)
};

/// ratio_t = exp(log pi - log mu),  rho_t = min(rho, ratio_t),  c_t = min(c, ratio_t)
/// delta_t = r_t + gamma (1 - ended_t) V(s_{t+1}) - V(s_t), 0 where the step has no outcome
/// e_t = rho_t delta_t + gamma lambda c_t (1 - ended_t) e_{t+1},  v_t = V(s_t) + e_t
/// A_t = delta_t + gamma lambda (1 - ended_t) e_{t+1}
///     = r_t + gamma (1 - ended_t) (lambda v_{t+1} + (1 - lambda) V(s_{t+1})) - V(s_t)
/// (Espeholt et al. 2018, "IMPALA", eq. 1 and section 4.2, where lambda is 1; with lambda as in
/// remark 2 and in rlax's vtrace_td_error_and_advantage.) On the policy's own experience, with both
/// bounds at least 1, A is generalised advantage estimation to the bit. Where a time limit cut an
/// episode the caller has added gamma V(final observation) to r_t. Each row is one chain backwards
/// in time, in float32. Columns of `out` are resized to steps * rows.
void vtrace(const VtraceInputs& in, Vtrace& out);

}  // namespace bessemer
