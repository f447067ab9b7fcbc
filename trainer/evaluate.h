// Judging a policy: whole episodes in environments of their own.
#pragma once

#include <memory>

#include "envs/env.h"
#include "rollout/normalizer.h"
#include "rollout/policy.h"
#include "trainer/algorithm.h"

namespace bessemer {

struct EvaluateOptions {
  int64_t episodes = 20;
  int64_t seed = 9;  // of the first episode; the next one's is one more
  bool deterministic = true;
  bool clip_actions = true;
  int64_t sde_sample_freq = -1;
  int64_t at_once = 128;  // environments held at a time; changes nothing but the time it takes
  ThreadPool* pool = nullptr;
};

/// Runs episode i in an environment reset with seed + i; its draws are keyed by i and its step, so
/// that neither threads nor the other episodes matter. Statistics of `normalizer` stay as they are.
EvalResult evaluate_policy(const EnvFactory& make_envs, const Policy& policy,
                           const Normalizer& normalizer, const EvaluateOptions& options);

}  // namespace bessemer
