// The table of environments, filled by static initialisers of the simulators' files.
#pragma once

#include <memory>

#include "envs/env.h"

namespace bessemer {

using BatchFactory = std::unique_ptr<EnvBatch> (*)(const Spec&, const BatchOptions&);
/// Adds an environment. Throws ValueError when the id is taken or the Spec is wrong.
void register_environment(Spec spec, BatchFactory factory);
/// What registration asks of a Spec. Throws ValueError.
void check_spec(const Spec& spec);

/// Environments that are not registered but named by where their code is (envs/server has those
/// written in Python).
struct PythonEnvironments {
  bool (*named)(const std::string& id);
  const Spec& (*spec)(const std::string& id);
  std::unique_ptr<EnvBatch> (*make)(const std::string& id, const BatchOptions& options);
};
void set_python_environments(const PythonEnvironments& environments);

}  // namespace bessemer
