#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>

#include "core/base/dtype.h"
#include "core/base/metrics.h"
#include "core/base/rng.h"
#include "core/base/thread_pool.h"

using namespace bessemer;

TEST_CASE("cat joins text, numbers and shapes") {
  const std::vector<int64_t> shape = {4, 8};
  CHECK(cat("[matmul] ", shape, " x ", std::vector<int64_t>{7}, ' ', 0.1, ' ', true) ==
        "[matmul] (4, 8) x (7,) 0.1 true");
}

TEST_CASE("the nearest name is suggested, a far one is not") {
  const std::vector<std::string> names = {"CartPole-v1", "Acrobot-v1", "LunarLander-v3"};
  CHECK(did_you_mean("cartpole-v1", names) == ", did you mean 'CartPole-v1'?");
  CHECK(did_you_mean("LunarLandr-v3", names) == ", did you mean 'LunarLander-v3'?");
  CHECK(did_you_mean("zzz", names).empty());
}

TEST_CASE("Philox4x32-10 gives the published vectors") {
  // Random123's known-answer file: all-zero, all-one and pi inputs.
  const PhiloxBlock zero = philox(0, 0, 0);
  CHECK(zero.word[0] == 0x6627e8d5u);
  CHECK(zero.word[1] == 0xe169c58du);
  CHECK(zero.word[2] == 0xbc57ac4cu);
  CHECK(zero.word[3] == 0x9b00dbd8u);
  const PhiloxBlock ones = philox(~0ull, ~0ull, ~0ull);
  CHECK(ones.word[0] == 0x408f276du);
  CHECK(ones.word[1] == 0x41c83b0eu);
  CHECK(ones.word[2] == 0xa20bc7c6u);
  CHECK(ones.word[3] == 0x6d5451fdu);
  const PhiloxBlock pi =
      philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull);
  CHECK(pi.word[0] == 0xd16cfe09u);
  CHECK(pi.word[1] == 0x94fdccebu);
  CHECK(pi.word[2] == 0x5001e420u);
  CHECK(pi.word[3] == 0x24126ea1u);
}

TEST_CASE("draws lie in range and have the right moments") {
  const Rng rng{.seed = 3, .stream = Stream::user};
  double sum = 0, squares = 0;
  const int n = 20000;
  for (int i = 0; i < n; ++i) {
    const PhiloxBlock block = rng.at(static_cast<uint64_t>(i));
    const float u = uniform_float(block.word[0]);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    REQUIRE(uniform_below(block.word[1], block.word[2], 7) < 7);
    double a, b;
    normal_pair(block.word[2], block.word[3], a, b);
    sum += a + b;
    squares += a * a + b * b;
  }
  CHECK(std::abs(sum / (2 * n)) < 0.02);
  CHECK(std::abs(squares / (2 * n) - 1) < 0.03);
}

TEST_CASE("half types: every value survives, rounding is to nearest even") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const f16 h{static_cast<uint16_t>(bits)};
    const float x = to_float(h);
    if (std::isnan(x)) {
      CHECK(std::isnan(to_float(to_f16(x))));
    } else {
      REQUIRE(to_f16(x).bits == bits);
    }
    const bf16 b{static_cast<uint16_t>(bits)};
    const float y = to_float(b);
    if (!std::isnan(y)) REQUIRE(to_bf16(y).bits == bits);
  }
  CHECK(to_float(to_f16(1.0f + 0x1p-11f)) == 1.0f);                // halfway, even below
  CHECK(to_float(to_f16(1.0f + 3 * 0x1p-11f)) == 1.0f + 0x1p-9f);  // halfway, even above
  CHECK(std::isinf(to_float(to_f16(65520.0f))));
  CHECK(to_float(to_f16(65519.0f)) == 65504.0f);
  CHECK(to_float(to_f16(0x1p-25f)) == 0.0f);
  CHECK(to_float(to_bf16(1.0f + 0x1p-8f)) == 1.0f);
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("dtype names are read in both forms") {
  CHECK(dtype_parse("float32") == Dtype::f32);
  CHECK(dtype_parse("bf16") == Dtype::bf16);
  CHECK_THROWS_WITH_AS(dtype_parse("flaot32"), "unknown dtype 'flaot32', did you mean 'float32'?",
                       ValueError);
}

TEST_CASE("the pool runs every task once, on any number of threads") {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(repeat % 17));
      pool.run(static_cast<int64_t>(seen.size()),
               [&](int64_t i) { seen[static_cast<size_t>(i)].fetch_add(1); });
      for (auto& count : seen) REQUIRE(count.load() == 1);
    }
  }
}

TEST_CASE("an error inside a task reaches the caller, and the pool lives on") {
  ThreadPool pool(2);
  CHECK_THROWS_AS(pool.run(64,
                           [](int64_t i) {
                             if (i == 40) fail<ValueError>("task ", i);
                           }),
                  ValueError);
  std::atomic<int> done{0};
  pool.run(8, [&](int64_t) {
    pool.run(4, [&](int64_t) { done.fetch_add(1); });  // nested: inline
  });
  CHECK(done.load() == 32);
}

TEST_CASE("metrics merge by weight") {
  Metrics a, b;
  a.mean("loss", 1, 3);
  b.mean("loss", 5, 1);
  b.add("peak", 7, Reduction::max);
  a.add("peak", 9, Reduction::max);
  a.merge(b);
  CHECK(a.get("loss") == 2);
  CHECK(a.get("peak") == 9);
  CHECK_FALSE(a.has("other"));
  CHECK_THROWS_AS(a.get("other"), ValueError);
}

TEST_CASE("an array view refuses another type") {
  float data[6] = {};
  ArrayView view{data, Dtype::f32, 2, {2, 3}};
  CHECK(view.as<float>().size() == 6);
  CHECK_THROWS_WITH_AS(view.as<double>(), "array is float32, expected float64", TypeError);
}
