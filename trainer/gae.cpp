#include "trainer/gae.h"

namespace bessemer {

void gae(const GaeInputs& in, float* advantage, float* returns) {
  const auto gamma = static_cast<float>(in.gamma);
  const auto decay = static_cast<float>(in.gamma * in.lambda);
  for (int64_t t = in.steps - 1; t >= 0; --t) {
    const bool last = t == in.steps - 1;
    const float* next_value = last ? in.last_value : in.value + (t + 1) * in.rows;
    const float* next_advantage = last ? nullptr : advantage + (t + 1) * in.rows;
    for (int64_t r = 0; r < in.rows; ++r) {
      const int64_t i = t * in.rows + r;
      const float on = in.ended[i] ? 0.0f : 1.0f;
      const float delta = in.reward[i] + gamma * on * next_value[r] - in.value[i];
      advantage[i] = delta + decay * on * (next_advantage ? next_advantage[r] : 0.0f);
      returns[i] = advantage[i] + in.value[i];
    }
  }
}

}  // namespace bessemer
