// Generalised advantage estimation over a flat [time, row] buffer.
#pragma once

#include <cstdint>

namespace bessemer {

struct GaeInputs {
  int64_t steps = 0, rows = 0;
  const float* reward = nullptr;      // [steps, rows]
  const float* value = nullptr;       // [steps, rows]: V(s_t)
  const uint8_t* ended = nullptr;     // [steps, rows]: the episode ended in this step
  const float* last_value = nullptr;  // [rows]: V of the observation after the last step
  double gamma = 0.99, lambda = 0.95;
};

/// delta_t = r_t + gamma (1 - ended_t) V(s_{t+1}) - V(s_t)
/// A_t = delta_t + gamma lambda (1 - ended_t) A_{t+1},  return_t = A_t + V(s_t)
/// (Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage
/// Estimation"; detail 5.) Each row is one chain backwards in time, in float32.
void gae(const GaeInputs& in, float* advantage, float* returns);

}  // namespace bessemer
