// A Spec as the map that travels in a welcome (docs/protocol.md section 6), and its hash.
#pragma once

#include <string>

#include "core/wire/value.h"
#include "envs/spec.h"

namespace bessemer {

wire::Map spec_to_map(const Spec& spec);
/// Throws wire::WireError (malformed) where the map is not a Spec.
Spec spec_from_map(const wire::Map& map);
/// 16 hexadecimal digits: FNV-1a over the map's msgpack bytes, without `doc` lines, so that wording
/// may change and channels may not.
std::string spec_hash(const Spec& spec);

}  // namespace bessemer
