// Conversations over the wire: what is to be played, and token rows. docs/protocol.md section 8 has
// the format.
#pragma once

#include "core/wire/message.h"
#include "rollout/token_samples.h"

namespace bessemer {

/// ValueError for reset options and stop strings, which only evaluations have, and for no groups.
void check_play(const PlayOptions& play);
/// Adds what is to be played, which passed check_play() and must outlive the sending.
void write_play(wire::Message& message, const PlayOptions& play);
PlayOptions read_play(const wire::Message& message);

/// Adds token rows; they must outlive the sending.
void write_tokens(wire::Message& message, const TokenSamples& samples);
/// Throws WireError (malformed, bad_type) where the columns do not fit each other.
TokenSamples read_tokens(const wire::Message& message);

}  // namespace bessemer
