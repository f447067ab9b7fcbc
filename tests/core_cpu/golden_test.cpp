// Pinned hashes of canonical results: a compiler flag or an edit that changes a bit anywhere is
// seen, even when all instruction sets change together. A change on purpose pins new ones.
#include <doctest/doctest.h>

#include "core/base/error.h"
#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

uint64_t unary_hash(const KernelTable& t, OpId op, float low, float high) {
  const auto x = draw(4099, 77, low, high);
  std::vector<float> y(x.size());
  t.unary_f32[static_cast<int>(op)](4099, y.data(), 1, x.data(), 1);
  return hash_of(y);
}

}  // namespace

TEST_CASE("golden hashes") {
  for (const KernelTable* t : exact_tables()) {
    CAPTURE(t->isa);
    CHECK(unary_hash(*t, OpId::exp, -100, 85) == 0xa694294c89eb0e51u);
    CHECK(unary_hash(*t, OpId::log, 0, 100) == 0xb6bec903bbdafe19u);
    CHECK(unary_hash(*t, OpId::tanh, -6, 6) == 0x804e09688ee652b9u);
    CHECK(unary_hash(*t, OpId::gelu, -6, 6) == 0x5e05aff730a651u);
    CHECK(unary_hash(*t, OpId::sin, -50, 50) == 0xeadaad822050e6fau);
    const auto x = draw(4096, 5, -4, 4), w = draw(4096 * 5, 6);
    std::vector<float> y(4096);
    t->softmax_rows(4, 1024, x.data(), y.data());
    CHECK(hash_of(y) == 0x1a31ae6478f6a88cu);
    t->softmax_rows(2048, 2, x.data(), y.data());
    CHECK(hash_of(y) == 0xdca929d8ce26db1bu);
    t->sum_rows(4, 1024, x.data(), 1024, y.data());
    CHECK(hash_bytes(y.data(), 16) == 0x33ed6de18335057fu);
    std::vector<float> c(7 * 40);
    t->gemm({.m = 7,
             .n = 40,
             .k = 500,
             .a = x.data(),
             .a_row = 500,
             .b = w.data(),
             .b_row = 1,
             .b_col = 500,
             .c = c.data(),
             .c_row = 40,
             .activation = Activation::tanh},
            nullptr);
    CHECK(hash_of(c) == 0xa3eefbed210cbeccu);
  }
}

TEST_CASE("an instruction set can be named, and a wrong name says which there are") {
  for (const std::string& name : available_isas()) CHECK(name == kernels(name).isa);
  CHECK(available_isas().front() == "baseline");
  CHECK_THROWS_WITH_AS(kernels("avx2 "), doctest::Contains("this machine runs baseline"),
                       ValueError);
  CHECK_THROWS_AS(set_threads(-1), ValueError);
  set_threads(2);
  CHECK(pool().threads() == 2);
  set_threads(1);
  CHECK(pool().threads() == 1);
}

}  // namespace bessemer::cpu
