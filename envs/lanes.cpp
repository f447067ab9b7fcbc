#include "envs/lanes.h"

#include <cstdlib>
#include <string>

namespace bessemer {

LaneIsa lane_isa() {
  std::vector<std::string> names = {"baseline"};
#if defined(BESSEMER_LANE_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    names.push_back("avx2");
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      names.push_back("avx512");
    }
  }
#endif
  const char* forced = std::getenv("BESSEMER_ISA");
  if (!forced || !*forced) return static_cast<LaneIsa>(names.size() - 1);
  const auto found = std::ranges::find(names, forced);
  BESSEMER_CHECK(found != names.end(), ValueError, "[env] BESSEMER_ISA is '", forced,
                 "', which this machine does not run", did_you_mean(forced, names));
  return static_cast<LaneIsa>(found - names.begin());
}
}  // namespace bessemer
