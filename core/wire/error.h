// What can go wrong between two processes. Every code is a word of the protocol (docs/protocol.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/error.h"

namespace bessemer::wire {

enum class Code : uint8_t {
  malformed,  // not this protocol: bad msgpack, a missing field, frames that do not fit the header
  too_large,  // more bytes, frames or nesting than the limit stated in the welcome
  version,    // no protocol version in common
  unknown_type,  // a request that the service does not have
  unknown_name,  // an environment, option or channel that is not served
  mismatch,      // the other side's specification is another one
  bad_value,     // the right type with a wrong value; nothing was done
  bad_type,      // a wrong dtype, shape or kind; nothing was done
  no_session,    // unknown, expired or closed; a restarted server knows none
  capacity,      // the server's limit on sessions or instances
  no_credit,     // more requests in flight than granted
  draining,      // the server finishes what is open and takes nothing new
  denied,        // a wrong key or token, or none
  unsupported,   // this environment cannot do it
  deadline,      // no answer in time (raised by the client, never sent)
  internal,      // the service failed; the message has the reason
};
std::string_view code_name(Code code);
/// `internal` for a word that this version does not know.
Code code_parse(std::string_view name);

/// An error with its code.
class WireError : public IoError {
 public:
  WireError(Code code, const std::string& text) : IoError(text), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

/// The exception being handled as the error that a peer is told: ValueError and IndexError are
/// bad_value, TypeError is bad_type, what is no WireError otherwise is internal.
WireError current_error();

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void refuse(Code code, const Parts&... parts) {
  throw WireError(code, cat(parts...));
}

}  // namespace bessemer::wire
