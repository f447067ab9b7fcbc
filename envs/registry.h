// The table of environments, filled by static initialisers of the simulators' files.
#pragma once

#include <memory>

#include "envs/env.h"

namespace bessemer {

using BatchFactory = std::unique_ptr<EnvBatch> (*)(const Spec&, const BatchOptions&);
/// Adds an environment. Throws ValueError when the id is taken or the Spec is wrong.
void register_environment(Spec spec, BatchFactory factory);

}  // namespace bessemer
