// CURVE keys (ZeroMQ's authenticated encryption) and tokens, in files that only their owner reads.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace bessemer::wire {

/// Keys are Z85 text of 40 characters.
struct CurveKeys {
  std::string public_key, secret_key;
  std::string server;                                        // a client's: the server's public key
  std::vector<std::pair<std::string, std::string>> clients;  // a server's: name and public key of
                                                             // those that may connect
};
using Keys = std::shared_ptr<const CurveKeys>;

/// Random bytes that nobody can guess, as hexadecimal digits.
std::string random_hex(size_t bytes);

/// False where ZeroMQ was built without libsodium.
bool curve_available();

/// `path` is the file, or a folder with server.key (client.key). Throws IoError naming the file
/// when it is missing or others may read it, ValueError when it holds something else.
Keys read_server_keys(const std::string& path);
Keys read_client_keys(const std::string& path);
/// The token in the file (one line). Throws like the above.
std::string read_token(const std::string& file);

/// Makes the folder's server.key, act.token and control.token where they are missing, and
/// `client`.key, whose public key is added to server.key. Files get mode 0600. Returns what was
/// written. Throws ValueError when the client has a key already or is no plain name, IoError.
std::vector<std::string> make_keys(const std::string& folder, const std::string& client);

/// What a server's token allows.
struct Tokens {
  std::string act, control;  // empty: nobody has to show one
  bool asked() const { return !act.empty() || !control.empty(); }
  bool may_act(const std::string& token) const;
  bool may_control(const std::string& token) const;
};
/// act.token and control.token beside server.key (`path` as in read_server_keys); a missing one
/// stays empty.
Tokens read_tokens(const std::string& path);

}  // namespace bessemer::wire
