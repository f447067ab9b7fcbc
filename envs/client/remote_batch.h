// Environments of a server behind the same interface as those of this process.
#pragma once

#include <memory>
#include <string>

#include "core/wire/client.h"
#include "envs/env.h"

namespace bessemer {

struct RemoteOptions {
  wire::ClientOptions wire;
  std::string token;     // that the server asks for, if it does; keys are in wire.socket
  bool shared = true;    // shared memory when the server runs on this host
  double deadline = 60;  // seconds for one request
  double silence = 0;    // seconds without a word from the server; 0: as for the request
  /// Seconds to wait for a server that went away. A server that comes back (or another in its
  /// place) gets the session rebuilt: from the last seeded reset of everything, or the last
  /// snapshot, and the actions since. 0: WireError (no_session) at once, as for environments
  /// without the capability `snapshot`.
  double reconnect = 30;
  int64_t replay_steps = 1024;  // actions kept before a snapshot is taken in their place
};

/// `BatchOptions::pool` is the server's affair and ignored; so are the checks of actions, which the
/// server always makes. Throws wire::WireError; ValueError and TypeError as the environment would.
/// `send` and `recv` overlap: each `send` is one message, at most the server's credits under way.
std::unique_ptr<EnvBatch> connect_batch(const std::string& address, const std::string& id,
                                        const BatchOptions& options = {},
                                        const RemoteOptions& remote = {});

/// What a server says of itself (docs/protocol.md section 7, `info`).
wire::Map server_info(const std::string& address, double deadline = 5, wire::Keys keys = {});
/// One of the verbs of `control`, with the token that allows it among the fields.
wire::Map server_control(const std::string& address, const std::string& verb, wire::Map fields,
                         wire::Keys keys = {}, double deadline = 5);

/// Reads what `env.keys` and `env.token` name (empty: none) into the options.
void read_credentials(const std::string& keys, const std::string& token, RemoteOptions& remote);

}  // namespace bessemer
