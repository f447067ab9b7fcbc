// What every algorithm of control builds from its configuration: environments, policy, normaliser,
// sampler, and an actor for people who watch. Workers build the same from the same recipe.
#pragma once

#include <memory>
#include <string_view>

#include "rollout/sampler.h"
#include "trainer/algorithm.h"
#include "trainer/evaluate.h"

namespace bessemer {

/// Environments of the registry, or of the server at env.address, which is waited for `patience`
/// seconds when it goes away.
EnvFactory registry_factory(const EnvConfig& env, double patience = 30);

/// The same for the `split` of a text task whose Spec has that option.
EnvFactory split_factory(EnvConfig env, const Spec& spec, const std::string& split);

/// Throws ValueError for what no algorithm here can learn in: several agents, several observation
/// or action channels.
void check_control_spec(const Spec& spec, std::string_view algo);

std::unique_ptr<Policy> make_policy(const Spec& spec, const RunConfig& config);
std::unique_ptr<Normalizer> make_normalizer(const Spec& spec, const RunConfig& config,
                                            int64_t rows);
SamplerOptions sampler_options(const RunConfig& config);
/// The columns of a rollout of `rows` rows.
RolloutShape rollout_shape(const Spec& spec, const RunConfig& config, const Policy& policy,
                           const Normalizer& normalizer, int64_t rows);
/// `rows` environments of the run, from the global row `first_row` on, with the policy that acts in
/// them.
std::unique_ptr<Sampler> make_sampler(std::unique_ptr<EnvBatch> envs, const Policy& policy,
                                      const Normalizer& normalizer, const RunConfig& config,
                                      int64_t first_row = 0);

std::unique_ptr<Actor> make_actor(const Policy& policy, const Normalizer& normalizer,
                                  const Channel& action, const RunConfig& config,
                                  bool deterministic, int64_t seed);

}  // namespace bessemer
