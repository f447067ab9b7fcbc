// Golden values printed by NumPy 2.4.
#include "core/base/pcg64.h"

#include <doctest/doctest.h>

#include "core/base/error.h"

using namespace bessemer;

TEST_CASE("PCG64 gives NumPy's words") {
  Pcg64 rng(123);
  CHECK(rng.next64() == 0xaeae9c9903f3e9cdull);
  CHECK(rng.next64() == 0x0dc736db97cb6d23ull);
  CHECK(rng.next64() == 0x3869812ee8b9ea96ull);
}

TEST_CASE("integers, doubles and uniforms share one stream as in NumPy") {
  Pcg64 rng(7);
  CHECK(rng.integers(0, 5) == 4);
  CHECK(rng.integers(0, 5) == 3);
  CHECK(rng.integers(0, 5) == 3);
  CHECK(rng.random() == 0.7756856902451935);
  CHECK(rng.integers(-9999, 9999) == 7943);  // the half word buffered before the double
  CHECK(rng.integers(0, int64_t{1} << 40) == 247617924053);
  CHECK(rng.integers(-5, (int64_t{1} << 32) - 5) == 238506304);
  CHECK(rng.uniform(-1, 2) == 1.6206603361887857);
}

TEST_CASE("a seed of two words") {
  Pcg64 rng(0xdeadbeefcafe1234ull);
  CHECK(rng.random() == 0.46621027054950304);
  CHECK(rng.integers(0, 3) == 1);
}

TEST_CASE("ranges that reject: sums over many draws") {
  Pcg64 rng(5);
  int64_t sum = 0;
  for (int i = 0; i < 100; ++i) sum += rng.integers(0, 3'000'000'000);
  CHECK(sum == 145600091205);
  CHECK(rng.integers(0, int64_t{3} << 61) == 1342176862380609126);
  unsigned __int128 wide = 0;
  for (int i = 0; i < 50; ++i)
    wide += static_cast<unsigned __int128>(rng.integers(0, int64_t{3} << 61));
  CHECK(static_cast<uint64_t>(wide >> 64) == 9);  // 167235010194551047201
  CHECK(static_cast<uint64_t>(wide) == 0x10da1bb90f0b8421ull);
}

TEST_CASE("a saved state goes on with the same numbers, the buffered half word included") {
  Pcg64 rng(9);
  rng.integers(0, 10);
  const Pcg64::State state = rng.state();
  CHECK(state.has_half == 1);
  Pcg64 other(1);
  other.set_state(state);
  CHECK(other.state() == state);
  for (int i = 0; i < 5; ++i) CHECK(other.integers(0, 1000) == rng.integers(0, 1000));
  CHECK(other.random() == rng.random());
}

TEST_CASE("an empty range and a state that no generator has are refused") {
  Pcg64 rng(1);
  CHECK_THROWS_AS(rng.integers(3, 3), ValueError);
  CHECK_THROWS_AS(rng.set_state({}), ValueError);
}
