// Gymnasium environments written in Python as an EnvBatch: their instances live in worker
// processes. An exception, a hang, a death, a wrong shape or a NaN reward makes the row a fault
// with its reason; the others go on.
#pragma once

#include <memory>
#include <string>

#include "envs/env.h"
#include "envs/server/python_host.h"

namespace bessemer {

/// Options of the host among an environment's own: host_processes, host_deadline,
/// host_start_deadline (seconds), host_memory (MiB). Takes them out of `options`. Throws
/// ValueError.
HostOptions take_host_options(Options& options, HostOptions defaults = {});

/// True for py:file.py:Class, py:module:Class and file.py:Class.
bool is_python_environment(const std::string& id);

/// What the class says of itself, made with `options`; asked once and kept. Numeric infos are those
/// that a reset and a step with a random action show. Throws ValueError, IoError, HostError.
const Spec& python_spec(const std::string& id, const Options& options, const HostOptions& host);

/// `make_batch` does this for an id that is a Python environment. Saved states are pickles: `load`
/// runs what they say, so they must not come from strangers.
std::unique_ptr<EnvBatch> make_python_batch(const std::string& id, const BatchOptions& options,
                                            const HostOptions& host);

}  // namespace bessemer
