// The half formats to float and back, branch-free, with the results of core/base/dtype.h.
#pragma once

#include "core/cpu/isa/isa.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

BESSEMER_INLINE float widen(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t shifted = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t exponent = shifted & 0x0f800000u;
  const uint32_t rebias = shifted + (112u << 23);
  const uint32_t special = shifted + (224u << 23);
  // A subnormal half: 2^-14 * (1 + mantissa) - 2^-14, exact.
  const uint32_t subnormal = scalar::bits_of(scalar::float_of(rebias + (1u << 23)) - 0x1p-14f);
  uint32_t bits = exponent == 0 ? subnormal : rebias;
  bits = exponent == 0x0f800000u ? special : bits;
  return scalar::float_of(bits | sign);
}
BESSEMER_INLINE float widen(bf16 x) {
  return scalar::float_of(static_cast<uint32_t>(x.bits) << 16);
}

BESSEMER_INLINE f16 narrow_f16(float x) {
  const uint32_t u = scalar::bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  const uint32_t subnormal = scalar::bits_of(scalar::float_of(a) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13;
  uint32_t bits = a < 0x38800000u ? subnormal : normal;
  bits = a >= 0x47800000u ? 0x7c00u : bits;
  bits = a > 0x7f800000u ? 0x7e00u | ((a >> 13) & 0x3ffu) : bits;
  return f16{static_cast<uint16_t>(sign | bits)};
}
BESSEMER_INLINE bf16 narrow_bf16(float x) {
  const uint32_t u = scalar::bits_of(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  return bf16{static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : rounded)};
}

}  // namespace bessemer::cpu::BESSEMER_ISA
