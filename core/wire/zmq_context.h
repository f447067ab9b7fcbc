// What the files that include ZeroMQ share.
#pragma once

#include <string>

#include "core/wire/curve.h"

namespace bessemer::wire {

/// The process's context: one, so that inproc addresses meet.
void* zmq_shared_context();

/// Lets the server's clients in under the returned ZAP domain, until `zap_leave`.
std::string zap_join(const CurveKeys& keys);
void zap_leave(const std::string& domain);

}  // namespace bessemer::wire
