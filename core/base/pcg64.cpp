#include "core/base/pcg64.h"

#include <random>

#include "core/base/error.h"

namespace bessemer {

namespace {
constexpr int kPool = 4;

uint32_t hashed(uint32_t value, uint32_t& constant, uint32_t multiplier) {
  value ^= constant;
  constant *= multiplier;
  value *= constant;
  return value ^ (value >> 16);
}

uint32_t mixed(uint32_t x, uint32_t y) {
  const uint32_t word = 0xca01f9ddu * x - 0x4973f715u * y;
  return word ^ (word >> 16);
}
}  // namespace

void seed_sequence(std::span<const uint32_t> entropy, std::span<uint32_t> out) {
  constexpr uint32_t kMultA = 0x931e8875u, kMultB = 0x58f38dedu;
  uint32_t constant = 0x43b0d7e5u;
  uint32_t pool[kPool];
  for (size_t i = 0; i < kPool; ++i) {
    pool[i] = hashed(i < entropy.size() ? entropy[i] : 0, constant, kMultA);
  }
  for (int from = 0; from < kPool; ++from) {
    for (int to = 0; to < kPool; ++to) {
      if (from != to) pool[to] = mixed(pool[to], hashed(pool[from], constant, kMultA));
    }
  }
  for (size_t from = kPool; from < entropy.size(); ++from) {
    for (uint32_t& to : pool) to = mixed(to, hashed(entropy[from], constant, kMultA));
  }
  constant = 0x8b51f9ddu;
  for (size_t i = 0; i < out.size(); ++i) out[i] = hashed(pool[i % kPool], constant, kMultB);
}

Pcg64::Pcg64(uint64_t seed) {
  const uint32_t words[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  seed_words({words, words[1] ? size_t{2} : size_t{1}});
}

Pcg64 Pcg64::from_entropy() {
  std::random_device device;
  uint32_t words[4];
  for (uint32_t& word : words) word = device();
  Pcg64 rng;
  rng.seed_words(words);
  return rng;
}

void Pcg64::seed_words(std::span<const uint32_t> entropy) {
  uint32_t words[8];
  seed_sequence(entropy, words);
  uint64_t wide[4];
  for (int i = 0; i < 4; ++i) wide[i] = words[2 * i] | (uint64_t{words[2 * i + 1]} << 32);
  const auto start = (static_cast<unsigned __int128>(wide[0]) << 64) | wide[1];
  const auto sequence = (static_cast<unsigned __int128>(wide[2]) << 64) | wide[3];
  inc_ = (sequence << 1) | 1;
  state_ = (inc_ + start) * kMultiplier + inc_;  // step, add the start, step
  has_half_ = false;
  half_ = 0;
}

int64_t Pcg64::integers(int64_t low, int64_t high) {
  BESSEMER_CHECK(low < high, ValueError, "[pcg64] integers: low ", low, " is not below high ",
                 high);
  const uint64_t range = static_cast<uint64_t>(high) - static_cast<uint64_t>(low) - 1;
  const auto from = static_cast<uint64_t>(low);
  if (range == 0) return low;
  if (range <= 0xFFFFFFFFull) {
    if (range == 0xFFFFFFFFull) return static_cast<int64_t>(from + next32());
    const auto count = static_cast<uint32_t>(range + 1);
    uint64_t product = uint64_t{next32()} * count;
    if (static_cast<uint32_t>(product) < count) {
      const uint32_t threshold = (0xFFFFFFFFu - static_cast<uint32_t>(range)) % count;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{next32()} * count;
    }
    return static_cast<int64_t>(from + (product >> 32));
  }
  if (range == ~0ull) return static_cast<int64_t>(from + next64());
  const uint64_t count = range + 1;
  auto product = static_cast<unsigned __int128>(next64()) * count;
  if (static_cast<uint64_t>(product) < count) {
    const uint64_t threshold = (~0ull - range) % count;
    while (static_cast<uint64_t>(product) < threshold) {
      product = static_cast<unsigned __int128>(next64()) * count;
    }
  }
  return static_cast<int64_t>(from + static_cast<uint64_t>(product >> 64));
}

Pcg64::State Pcg64::state() const {
  return {static_cast<uint64_t>(state_ >> 64),
          static_cast<uint64_t>(state_),
          static_cast<uint64_t>(inc_ >> 64),
          static_cast<uint64_t>(inc_),
          half_,
          has_half_ ? 1u : 0u};
}

void Pcg64::set_state(const State& s) {
  BESSEMER_CHECK((s.inc_low & 1) == 1, ValueError, "[pcg64] increment of a saved state is even");
  state_ = (static_cast<unsigned __int128>(s.state_high) << 64) | s.state_low;
  inc_ = (static_cast<unsigned __int128>(s.inc_high) << 64) | s.inc_low;
  half_ = s.half;
  has_half_ = s.has_half != 0;
}

}  // namespace bessemer
