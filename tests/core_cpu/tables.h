// What the kernel tests share: the tables of this machine, numbers to feed them, hashes of bits.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/cpu/kernels.h"

namespace bessemer::cpu {

inline std::vector<const KernelTable*> tables() {
  std::vector<const KernelTable*> all;
  for (const std::string& name : available_isas()) all.push_back(&kernels(name));
  return all;
}
/// Those that promise the canonical bits: all but the baseline of a machine without FMA in it.
inline std::vector<const KernelTable*> exact_tables() {
  std::vector<const KernelTable*> all;
  for (const KernelTable* table : tables()) {
    if (std::string(table->isa) != "baseline") all.push_back(table);
  }
  return all;
}

/// n numbers in [low, high), the same for the same seed.
inline std::vector<float> draw(int64_t n, uint64_t seed, float low = -1.0f, float high = 1.0f) {
  const Rng rng{seed};
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    x[static_cast<size_t>(i)] =
        low + (high - low) * uniform_float(rng.at(static_cast<uint64_t>(i)).word[0]);
  }
  return x;
}

/// FNV-1a over bytes.
inline uint64_t hash_bytes(const void* data, size_t bytes, uint64_t hash = 0xcbf29ce484222325u) {
  const auto* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ p[i]) * 0x100000001b3u;
  return hash;
}
template <class T>
uint64_t hash_of(const std::vector<T>& x, uint64_t hash = 0xcbf29ce484222325u) {
  return hash_bytes(x.data(), x.size() * sizeof(T), hash);
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Distance in units in the last place of `expected` rounded to float; 0 for two NaN, huge for one.
inline double ulps(float got, double expected) {
  const auto rounded = static_cast<float>(expected);
  if (got != got || rounded != rounded) return (got != got) == (rounded != rounded) ? 0 : 1e30;
  if (got == rounded) return 0;
  if (rounded - rounded != 0 || got - got != 0) return 1e30;
  const float a = rounded < 0 ? -rounded : rounded;
  uint32_t bits;
  std::memcpy(&bits, &a, sizeof bits);
  float next;
  bits = bits < 0x00800000u ? 0x00800000u : bits;  // subnormals share one unit
  const uint32_t above = bits + 1;
  std::memcpy(&next, &above, sizeof next);
  float base;
  std::memcpy(&base, &bits, sizeof base);
  const double error = static_cast<double>(got) - expected;
  return (error < 0 ? -error : error) / (static_cast<double>(next) - base);
}

}  // namespace bessemer::cpu
