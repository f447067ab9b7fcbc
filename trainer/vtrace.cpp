#include "trainer/vtrace.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/cpu/kernels.h"

namespace bessemer {

void vtrace(const VtraceInputs& in, Vtrace& out) {
  BESSEMER_CHECK(in.rho > 0 && in.c > 0, ValueError, "[vtrace] bounds of weights are above 0, got ",
                 in.rho, " and ", in.c);
  const int64_t n = in.steps * in.rows;
  for (auto* column : {&out.target, &out.advantage, &out.weight, &out.ratio})
    column->resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out.weight[i] = in.log_prob[i] - in.old_log_prob[i];
  cpu::kernels().unary_f32[static_cast<int>(OpId::exp)](n, out.ratio.data(), 1, out.weight.data(),
                                                        1);
  const auto gamma = static_cast<float>(in.gamma);
  const auto decay = static_cast<float>(in.gamma * in.lambda);
  const auto rho = static_cast<float>(in.rho), c = static_cast<float>(in.c);
  std::vector<float> error(static_cast<size_t>(in.rows), 0.0f);  // e_{t+1} of each row
  for (int64_t t = in.steps - 1; t >= 0; --t) {
    const float* next_value = t == in.steps - 1 ? in.last_value : in.value + (t + 1) * in.rows;
    for (int64_t r = 0; r < in.rows; ++r) {
      const int64_t i = t * in.rows + r;
      const float on = in.ended[i] ? 0.0f : 1.0f;
      const bool outcome = !in.fault || !in.fault[i];
      const float delta = outcome ? in.reward[i] + gamma * on * next_value[r] - in.value[i] : 0.0f;
      const float trace = decay * on * error[r];
      out.weight[i] = std::min(rho, out.ratio[i]);
      out.advantage[i] = delta + trace;
      error[r] = out.weight[i] * delta + std::min(c, out.ratio[i]) * trace;
      out.target[i] = error[r] + in.value[i];
    }
  }
}

}  // namespace bessemer
