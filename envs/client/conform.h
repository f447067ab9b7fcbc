// Holds any server of environments against docs/protocol.md.
#pragma once

#include <string>
#include <vector>

namespace bessemer {

struct ConformCheck {
  std::string name;
  bool passed = false;
  std::string text;  // what went wrong, or why it was left out
};

/// Runs every check against `id` (empty: the first environment that the server names). Each answer
/// must come within `deadline` seconds. Throws wire::WireError (deadline) when nobody answers at
/// all.
std::vector<ConformCheck> conform(const std::string& address, const std::string& id = {},
                                  double deadline = 5);

}  // namespace bessemer
