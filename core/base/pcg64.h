// NumPy's default generator, bit for bit: SeedSequence -> PCG64 (XSL-RR). Simulators that mirror
// Gymnasium draw from it in Gymnasium's order. Everything else uses core/base/rng.h.
// Sources: M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
// Algorithms for Random Number Generation", HMC-CS-2014-0905; NumPy's random/bit_generator
// (seed_seq by M. E. O'Neill); D. Lemire, "Fast Random Integer Generation in an Interval", TOMACS
// 2019.
#pragma once

#include <cstdint>
#include <span>

namespace bessemer {

/// NumPy's SeedSequence with a pool of four words. `entropy`: the seed's 32-bit words, low first,
/// without leading zeros (seed 0 is one word 0). Writes `out.size()` words of
/// generate_state(uint32).
void seed_sequence(std::span<const uint32_t> entropy, std::span<uint32_t> out);

class Pcg64 {
 public:
  /// The whole state, for saving. `half` is the buffered upper half of a word, valid if `has_half`.
  struct State {
    uint64_t state_high = 0, state_low = 0, inc_high = 0, inc_low = 0;
    uint32_t half = 0;
    uint32_t has_half = 0;
    bool operator==(const State&) const = default;
  };

  /// As np.random.default_rng(seed).
  explicit Pcg64(uint64_t seed = 0);
  /// As np.random.default_rng(): 128 bits of the operating system's entropy.
  static Pcg64 from_entropy();

  uint64_t next64() {
    state_ = state_ * kMultiplier + inc_;
    const auto high = static_cast<uint64_t>(state_ >> 64);
    const uint64_t word = high ^ static_cast<uint64_t>(state_);
    const auto turn = static_cast<unsigned>(high >> 58);
    return (word >> turn) | (word << ((64 - turn) & 63));
  }
  /// Two 32-bit words a 64-bit draw, low half first.
  uint32_t next32() {
    if (has_half_) {
      has_half_ = false;
      return half_;
    }
    const uint64_t word = next64();
    half_ = static_cast<uint32_t>(word >> 32);
    has_half_ = true;
    return static_cast<uint32_t>(word);
  }

  /// Generator.random(): [0, 1) with 53 bits.
  double random() { return static_cast<double>(next64() >> 11) * 0x1p-53; }
  /// Generator.uniform(low, high).
  double uniform(double low, double high) { return low + (high - low) * random(); }
  /// Generator.integers(low, high) of dtype int64: low <= x < high. Throws ValueError if low >=
  /// high.
  int64_t integers(int64_t low, int64_t high);

  State state() const;
  void set_state(const State& state);

 private:
  static constexpr unsigned __int128 kMultiplier =
      (static_cast<unsigned __int128>(0x2360ED051FC65DA4ull) << 64) | 0x4385DF649FCCF645ull;

  void seed_words(std::span<const uint32_t> entropy);

  unsigned __int128 state_ = 0, inc_ = 1;
  uint32_t half_ = 0;
  bool has_half_ = false;
};

}  // namespace bessemer
