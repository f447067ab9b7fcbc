// How a rate falls over a run.
#pragma once

#include <cmath>
#include <string_view>

namespace bessemer {

/// The factor of a schedule at `progress` (0 to 1) of the run: constant 1, linear to 0, or half a
/// cosine to 0 (Loshchilov & Hutter 2017, without restarts).
inline double schedule_factor(std::string_view schedule, double progress) {
  if (schedule == "linear") return 1 - progress;
  if (schedule == "cosine") return 0.5 * (1 + std::cos(3.141592653589793 * progress));
  return 1;
}

}  // namespace bessemer
