// XXH64 by Yann Collet (github.com/Cyan4973/xxHash, doc/xxhash_spec.md): a fast 64-bit hash of
// bytes for telling contents apart. It does not withstand an adversary.
#pragma once

#include <cstdint>
#include <string_view>

namespace bessemer {

uint64_t xxh64(std::string_view bytes, uint64_t seed = 0);

}  // namespace bessemer
