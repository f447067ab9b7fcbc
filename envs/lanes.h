// Batches of classic control as SIMD code. The state is a struct of arrays, and one step of a block
// of environments is a loop over `Rules::step<Lane>` that the compiler vectorises, because Lane's
// functions are branch-free. The loop is instantiated in three functions with their own target
// attribute inside one translation unit, everything inlined into them (flatten): no other function
// of the program is compiled for AVX, so the linker has no wide copy of an inline function that it
// could pick by mistake.
//
// Lane arithmetic never contracts, so all instruction sets, batch sizes and thread counts give the
// same bits. It differs from the plain build by the rounding of sin and cos alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/base/math.h"
#include "envs/batch_base.h"
#include "envs/registry.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define BESSEMER_LANE_X86 1
#define BESSEMER_LANE_AVX2 [[gnu::target("avx2"), gnu::flatten]]
#if defined(__clang__)  // prefers wide vectors by itself and does not know the option
#define BESSEMER_LANE_AVX512_TARGET "avx2,avx512f,avx512bw,avx512dq,avx512vl"
#else
#define BESSEMER_LANE_AVX512_TARGET \
  "avx2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
#define BESSEMER_LANE_AVX512 [[gnu::target(BESSEMER_LANE_AVX512_TARGET), gnu::flatten]]
#endif

// The iterations of the loop that follows are independent, whatever the pointers look like.
#if defined(__clang__)
#define BESSEMER_LANE_LOOP _Pragma("clang loop vectorize(assume_safety)")
#else
#define BESSEMER_LANE_LOOP _Pragma("GCC ivdep")
#endif

namespace bessemer {

enum class LaneIsa : uint8_t { baseline, avx2, avx512 };
/// The widest that this machine has, or BESSEMER_ISA=baseline|avx2|avx512. Throws ValueError for
/// one that it lacks. Read whenever a batch is made.
LaneIsa lane_isa();

template <class Rules, class T>
inline void classic_observe(const double* state, float* to) {
  double obs[Rules::kObs];
  const auto plain = [&] {
    T in[Rules::kState], values[Rules::kObs];
    for (int k = 0; k < Rules::kState; ++k) in[k] = state[k];
    Rules::template observe<T>(in, values);
    for (int k = 0; k < Rules::kObs; ++k) {
      if constexpr (std::is_same_v<T, double>) {
        obs[k] = values[k];
      } else {
        obs[k] = values[k].v;
      }
    }
  };
  if constexpr (requires { Rules::kFresh; }) {
    if (state[Rules::kFresh] != 0) {
      Rules::observe_start(state, obs);
    } else {
      plain();
    }
  } else {
    plain();
  }
  for (int k = 0; k < Rules::kObs; ++k) to[k] = static_cast<float>(obs[k]);
}

/// One block of environments that follow each other. All arrays are of the block's first
/// environment.
template <class Rules>
struct LaneBlock {
  static constexpr int64_t kSize = 256;
  int64_t count;  // at most kSize
  int64_t limit;  // steps of an episode; the largest integer for none
  double* __restrict state[Rules::kState];
  const typename Rules::Action* __restrict actions;
  const typename Rules::Params* params;
  float* __restrict obs;     // [count, kObs]
  float* __restrict reward;  // [count]
  uint8_t* __restrict terminated;
  uint8_t* __restrict truncated;
  uint8_t* __restrict over;  // terminated or truncated
  int64_t* __restrict length;
  double* __restrict total;  // return so far
};

/// A small non-negative integer as a double, by bits: AVX2 has no conversion from 64-bit integers.
inline double lane_action(int64_t action) {
  return std::bit_cast<double>(action | 0x4330000000000000) - 0x1p52;
}
inline double lane_action(float action) { return static_cast<double>(action); }

template <class Rules>
inline void lane_step(const LaneBlock<Rules>& block) {
  using math::Lane;
  constexpr int kState = Rules::kState, kObs = Rules::kObs;
  // Local copies, so that stores of bytes cannot alias the pointers.
  const LaneBlock<Rules> b = block;
  const typename Rules::Params params = *b.params;
  const int64_t count = b.count, limit = b.limit;
  double reward[LaneBlock<Rules>::kSize];
  int64_t ended[LaneBlock<Rules>::kSize];
  float obs[kObs][LaneBlock<Rules>::kSize];
  BESSEMER_LANE_LOOP
  for (int64_t i = 0; i < count; ++i) {
    Lane s[kState], o[kObs], r;
    math::LaneMask terminated;
#pragma GCC unroll 8
    for (int k = 0; k < kState; ++k) s[k] = b.state[k][i];
    Rules::template step<Lane>(s, lane_action(b.actions[i]), params, r, terminated);
    Rules::template observe<Lane>(s, o);
#pragma GCC unroll 8
    for (int k = 0; k < kState; ++k) b.state[k][i] = s[k].v;
#pragma GCC unroll 8
    for (int k = 0; k < kObs; ++k) obs[k][i] = static_cast<float>(o[k].v);
    reward[i] = r.v;
    ended[i] = terminated.bits & 1;
  }
  float* __restrict const to = b.obs;
  BESSEMER_LANE_LOOP
  for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kObs; ++k) to[i * kObs + k] = obs[k][i];
  }
  int64_t* __restrict const lengths = b.length;
  double* __restrict const totals = b.total;
  float* __restrict const rewards = b.reward;
  BESSEMER_LANE_LOOP
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = lengths[i] + 1;
    lengths[i] = length;
    totals[i] += reward[i];
    rewards[i] = static_cast<float>(reward[i]);
    ended[i] |= length >= limit ? 2 : 0;
  }
  uint8_t* __restrict const terminated = b.terminated;
  uint8_t* __restrict const truncated = b.truncated;
  uint8_t* __restrict const over = b.over;
  BESSEMER_LANE_LOOP
  for (int64_t i = 0; i < count; ++i) {
    const auto flags = static_cast<uint8_t>(ended[i]);
    terminated[i] = flags & 1;
    truncated[i] = flags >> 1;
    over[i] = flags;
  }
}

template <class Rules>
void lane_step_baseline(const LaneBlock<Rules>& block) {
  lane_step(block);
}
#if defined(BESSEMER_LANE_X86)
template <class Rules>
BESSEMER_LANE_AVX2 void lane_step_avx2(const LaneBlock<Rules>& block) {
  lane_step(block);
}
template <class Rules>
BESSEMER_LANE_AVX512 void lane_step_avx512(const LaneBlock<Rules>& block) {
  lane_step(block);
}
#endif

template <class Rules>
auto lane_kernel(LaneIsa isa) -> void (*)(const LaneBlock<Rules>&) {
#if defined(BESSEMER_LANE_X86)
  if (isa == LaneIsa::avx512) return lane_step_avx512<Rules>;
  if (isa == LaneIsa::avx2) return lane_step_avx2<Rules>;
#endif
  return lane_step_baseline<Rules>;
}

template <class Rules>
class LaneBatch final : public BatchBase {
 public:
  LaneBatch(const Spec& spec, const BatchOptions& options)
      : BatchBase(spec, options),
        params_(Rules::params(settings_)),
        kernel_(lane_kernel<Rules>(lane_isa())) {
    for (std::vector<double>& column : state_) column.resize(envs_);
  }

 protected:
  void step_range(const Range& range, const StepBuffers& out) override {
    constexpr int64_t kSize = LaneBlock<Rules>::kSize;
    float obs[kSize * Rules::kObs], reward[kSize];
    uint8_t terminated[kSize], truncated[kSize], over[kSize];
    float* const obs_out = out.obs.empty() ? nullptr : static_cast<float*>(out.obs[0]);
    LaneBlock<Rules> block;
    block.params = &params_;
    block.limit = limit_ > 0 ? limit_ : INT64_MAX;
    block.over = over;
    for (int64_t low = range.low; low < range.high; low += kSize) {
      const int64_t row = range.out_row + low - range.low;
      block.count = std::min(kSize, range.high - low);
      for (int k = 0; k < Rules::kState; ++k) block.state[k] = state_[k].data() + low;
      block.actions = static_cast<const typename Rules::Action*>(range.actions) + (low - range.low);
      block.obs = obs_out ? obs_out + row * Rules::kObs : obs;
      block.reward = out.reward ? out.reward + row : reward;
      block.terminated = out.terminated ? out.terminated + row : terminated;
      block.truncated = out.truncated ? out.truncated + row : truncated;
      block.length = length_.data() + low;
      block.total = return_.data() + low;
      // Environments to restart are stepped as well, which costs nothing and is overwritten below.
      kernel_(block);
      if (out.fault) std::memset(out.fault + row, 0, block.count);
      settle(low, row, block.count, over, out);
    }
  }

  bool start_world(int64_t env, const Settings& reset_options) override {
    double state[Rules::kState];
    Rules::reset(state, rng_[env], reset_options);
    for (int k = 0; k < Rules::kState; ++k) state_[k][env] = state[k];
    return true;
  }

  void observe_world(int64_t env, int64_t row, const StepBuffers& out) const override {
    observe_into(out.obs, env, row);
  }
  void observe_final(int64_t env, int64_t row, const StepBuffers& out) const override {
    observe_into(out.final_obs, env, row);
  }

  void world_state(int64_t env, StateIo& io) override {
    for (std::vector<double>& column : state_) io(column[env]);
  }

  void draw_world(int64_t env, Canvas& canvas) const override {
    double state[Rules::kState];
    gather(env, state);
    Rules::draw(state, canvas);
  }

 private:
  void gather(int64_t env, double* state) const {
    for (int k = 0; k < Rules::kState; ++k) state[k] = state_[k][env];
  }

  void observe_into(const std::vector<void*>& to, int64_t env, int64_t row) const {
    if (to.empty() || !to[0]) return;
    double state[Rules::kState];
    gather(env, state);
    classic_observe<Rules, math::Lane>(state, static_cast<float*>(to[0]) + row * Rules::kObs);
  }

  /// What the kernel left: restarts that were due, and episodes that ended now.
  void settle(int64_t low, int64_t row, int64_t count, const uint8_t* over,
              const StepBuffers& out) {
    static_assert(static_cast<int>(Phase::ended) == 2 && static_cast<int>(Phase::running) == 1);
    const auto* phases = reinterpret_cast<const uint8_t*>(phase_.data()) + low;
    int64_t i = 0;
    while (i < count) {
      if (count - i >= 8) {  // eight at a time: mostly nothing has happened
        uint64_t now, before;
        std::memcpy(&now, over + i, 8);
        std::memcpy(&before, phases + i, 8);
        const uint64_t events = now | (before & 0x0202020202020202u);
        if (events == 0) {
          i += 8;
          continue;
        }
      }
      for (const int64_t end = std::min(count, i + 8); i < end; ++i) {
        if (phase_[low + i] == Phase::ended) {
          clear_row(row + i, out);
          restart(low + i, row + i, fallback_, out);
        } else if (over[i]) {
          finish(low + i, row + i, out);
        }
      }
    }
  }

  typename Rules::Params params_;
  void (*kernel_)(const LaneBlock<Rules>&);
  std::vector<double> state_[Rules::kState];
};

}  // namespace bessemer
