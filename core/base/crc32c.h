// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78): finds damaged bytes, keeps no secrets.
#pragma once

#include <cstdint>
#include <string_view>

namespace bessemer {

/// `crc` continues an earlier call: crc32c(b, crc32c(a)) is the checksum of a followed by b.
uint32_t crc32c(std::string_view bytes, uint32_t crc = 0);

}  // namespace bessemer
