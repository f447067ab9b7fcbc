#include "core/base/crc32c.h"

#include <array>
#include <cstring>

namespace bessemer {

namespace {

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0);
    table[i] = value;
  }
  return table;
}

}  // namespace

uint32_t crc32c(std::string_view bytes, uint32_t crc) {
  uint64_t state = ~crc;
#ifdef __SSE4_2__
  while (bytes.size() >= 8) {  // the instruction has this very polynomial
    uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof word);
    state = __builtin_ia32_crc32di(state, word);
    bytes.remove_prefix(8);
  }
#endif
  static constexpr std::array<uint32_t, 256> table = crc_table();
  auto value = static_cast<uint32_t>(state);
  for (char c : bytes) value = table[(value ^ static_cast<uint8_t>(c)) & 0xFF] ^ (value >> 8);
  return ~value;
}

}  // namespace bessemer
