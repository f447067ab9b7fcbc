// Damage to files, the same in every run of a test: what reads them ends with a result or a typed
// error, and takes no more memory than the file accounts for.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/base/rng.h"

namespace bessemer {

/// Rounds of a fuzz test: `fast` of them, or that times BESSEMER_FUZZ for a long search by hand.
inline uint64_t fuzz_rounds(uint64_t fast) {
  const char* factor = std::getenv("BESSEMER_FUZZ");
  return fast * (factor ? std::strtoull(factor, nullptr, 10) : 1);
}

/// `good` after one to four edits, which follow from the round.
inline std::string damaged(const std::string& good, uint64_t round) {
  static constexpr std::array<std::string_view, 20> kWords = {"null",
                                                              "true",
                                                              "{}",
                                                              "[]",
                                                              "\"\"",
                                                              "-1",
                                                              "0",
                                                              "0.5",
                                                              "1e300",
                                                              "1e999",
                                                              "2147483648",
                                                              "9223372036854775807",
                                                              "18446744073709551615",
                                                              "99999999999999999999",
                                                              "\\ud800",
                                                              "\\u0000",
                                                              "\xff",
                                                              "\xf0\x9f",
                                                              "\n",
                                                              "<script>&\""};
  static constexpr std::string_view kStructure = "0123456789[]{},:\"-\\";
  const Rng rng{2024, Stream::user};
  std::string text = good;
  const uint64_t edits = 1 + rng.at(round, 0).word[0] % 4;
  for (uint64_t e = 0; e < edits && !text.empty(); ++e) {
    const PhiloxBlock kind = rng.at(round, 2 * e + 1), draw = rng.at(round, 2 * e + 2);
    const size_t at = draw.word[0] % text.size();
    const uint32_t a = draw.word[1], b = draw.word[2];
    switch (kind.word[0] % 9) {
      case 0:
        text[at] = static_cast<char>(a);
        break;
      case 1:
        text[at] = kStructure[a % kStructure.size()];
        break;
      case 2:
        text[at] = static_cast<char>(text[at] ^ (1 << a % 8));
        break;
      case 3:
        text.erase(at, 1 + a % 32);
        break;
      case 4:  // a piece of the file once more
        text.insert(at, text.substr(a % text.size(), 1 + b % 48));
        break;
      case 5:
      case 6: {  // another value where one stands
        size_t from = text.find_first_of(":[,", at);
        if (from == std::string::npos) break;
        const size_t to = text.find_first_of(",]}\n", ++from);
        text.replace(from, (to == std::string::npos ? text.size() : to) - from,
                     kWords[a % kWords.size()]);
        break;
      }
      case 7:  // the stack, where something walks by recursion
        text.insert(at, b % 8 ? size_t{3} : size_t{60'000}, a % 2 ? '[' : '{');
        break;
      default:
        if (a % 4 == 0) text.resize(at);
    }
  }
  return text;
}

}  // namespace bessemer
