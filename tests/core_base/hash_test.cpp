#include "core/base/hash.h"

#include <doctest/doctest.h>

#include <string>

using namespace bessemer;

// Reference values: libxxhash 0.8.1.
TEST_CASE("xxh64 is the reference's at every kind of tail, with and without a seed") {
  CHECK(xxh64("") == 0xef46db3751d8e999ull);
  CHECK(xxh64("a") == 0xd24ec4f1a98c6e5bull);
  std::string bytes;
  for (int i = 0; i < 77; ++i) bytes.push_back(static_cast<char>(i));
  const auto check = [&](size_t n, uint64_t plain, uint64_t seeded) {
    CHECK(xxh64(std::string_view(bytes).substr(0, n)) == plain);
    CHECK(xxh64(std::string_view(bytes).substr(0, n), (1ull << 63) + 5) == seeded);
  };
  check(31, 0xc346d2b59b4d8ee1, 0xae518946bb041451);
  check(32, 0xcbf59c5116ff32b4, 0xe2d6f425e34e19de);
  check(64, 0xf7c67301db6713f0, 0xe4f216dac1634757);
  check(77, 0x93f85c1b6280ead3, 0x26c174c4b3695d58);
}
