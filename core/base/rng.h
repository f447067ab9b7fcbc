// Random numbers. `philox` is counter-based: a draw is a pure function of (seed, stream, index), so
// nothing depends on threads, batches or workers. Source: Salmon et al., "Parallel Random Numbers:
// As Easy as 1, 2, 3", SC 2011. Simulators that mirror Gymnasium draw from core/base/pcg64.h.
#pragma once

#include <cmath>
#include <cstdint>

namespace bessemer {

struct PhiloxBlock {
  uint32_t word[4];
};

/// Philox4x32-10: ten rounds over a 128-bit counter with a 64-bit key.
inline PhiloxBlock philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

/// Names what a draw is for, so that no two purposes ever share numbers.
enum class Stream : uint64_t {
  init = 1,     // parameters
  action = 2,   // action and token draws: index = global instance or sequence, counter = step
  shuffle = 3,  // minibatch order
  environment = 4,
  exploration = 5,
  data = 6,
  evaluation = 7,
  user = 64,  // from here on free for callers
};

/// A keyed source: `at(index, counter)` gives four words, always the same ones.
struct Rng {
  uint64_t seed = 0;
  Stream stream = Stream::user;

  PhiloxBlock at(uint64_t index, uint64_t counter = 0) const {
    // splitmix64 finaliser: seeds 0, 1, 2 ... give unrelated keys
    uint64_t z = seed * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(stream);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return philox(z ^ (z >> 31), counter, index);
  }
};

/// [0, 1) with 24 bits.
inline float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }
/// [0, 1) with 53 bits.
inline double uniform_double(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 21) ^ (low >> 11)) * 0x1p-53;
}
/// [0, bound) without modulo bias worth naming: multiply-shift of 64 bits.
inline uint64_t uniform_below(uint32_t high, uint32_t low, uint64_t bound) {
  const uint64_t word = (uint64_t{high} << 32) | low;
  return static_cast<uint64_t>((static_cast<unsigned __int128>(word) * bound) >> 64);
}
/// Two independent standard normals from two words (Box–Muller, in double).
inline void normal_pair(uint32_t a, uint32_t b, double& x, double& y) {
  const double u = (static_cast<double>(a) + 0.5) * 0x1p-32;
  const double angle = 6.283185307179586 * ((static_cast<double>(b) + 0.5) * 0x1p-32);
  const double radius = std::sqrt(-2.0 * std::log(u));
  x = radius * std::cos(angle);
  y = radius * std::sin(angle);
}

}  // namespace bessemer
