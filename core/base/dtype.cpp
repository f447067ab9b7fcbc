#include "core/base/dtype.h"

#include <array>

namespace bessemer {

Dtype dtype_parse(std::string_view name) {
  constexpr std::array<std::string_view, kDtypes> brief = {"bool", "u8",   "i8",  "i32", "i64",
                                                           "f16",  "bf16", "f32", "f64"};
  std::vector<std::string> known;
  for (int i = 0; i < kDtypes; ++i) {
    const auto d = static_cast<Dtype>(i);
    if (name == dtype_name(d) || name == brief[i]) return d;
    known.emplace_back(dtype_name(d));
  }
  fail<ValueError>("unknown dtype '", name, "'", did_you_mean(name, known));
}

float to_float(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu, mantissa = x.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;  // exact
  return sign ? -subnormal : subnormal;
}

f16 to_f16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  const auto with_sign = [&](uint32_t bits) { return f16{static_cast<uint16_t>(sign | bits)}; };
  if (a > 0x7f800000u) return with_sign(0x7e00u | ((a >> 13) & 0x3ffu));
  if (a >= 0x47800000u) return with_sign(0x7c00u);  // 65536 and above, infinity
  if (a < 0x38800000u) {                            // below 2^-14: a subnormal half
    // Adding 0.5 puts the unit of 2^-24 at the float's last bit, so the hardware rounds for us.
    const float shifted = std::bit_cast<float>(a) + 0.5f;
    return with_sign(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u);
  return with_sign((rounded - 0x38000000u) >> 13);
}

}  // namespace bessemer
