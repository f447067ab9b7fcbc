// Attention's kernels: the same bits from every instruction set and every division into calls, and
// pinned hashes of them. tests/core_ops/attention_test.cpp holds them to their definition.
#include "core/cpu/attention.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/core_cpu/tables.h"

namespace bessemer::cpu {
namespace {

constexpr int64_t kHeads = 6, kKvHeads = 2;

/// One packed sequence with random numbers, its keys and values also as pages.
struct Sequence {
  int64_t tokens, dim, pages, padded;
  std::vector<float> q, k, v, g, k_pages, v_pages;
  std::vector<int64_t> table;

  Sequence(int64_t tokens, int64_t dim)
      : tokens(tokens),
        dim(dim),
        pages((tokens + kKeyBlock - 1) / kKeyBlock),
        padded((dim + 15) / 16 * 16),
        q(draw(tokens * kHeads * dim, 1, -3, 3)),
        k(draw(tokens * kKvHeads * dim, 2)),
        v(draw(tokens * kKvHeads * dim, 3)),
        g(draw(tokens * kHeads * dim, 4)),
        k_pages(static_cast<size_t>(pages * kKvHeads * dim * kKeyBlock)),
        v_pages(k_pages.size()) {
    for (int64_t i = 0; i < pages; ++i) table.push_back(pages - 1 - i);
    for (int64_t i = 0; i < tokens; ++i)
      for (int64_t h = 0; h < kKvHeads; ++h)
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t page = table[static_cast<size_t>(i / kKeyBlock)], place = i % kKeyBlock;
          const int64_t at = (page * kKvHeads + h) * dim * kKeyBlock;
          const auto from = static_cast<size_t>((i * kKvHeads + h) * dim + d);
          k_pages[static_cast<size_t>(at + d * kKeyBlock + place)] = k[from];
          v_pages[static_cast<size_t>(at + place * dim + d)] = v[from];
        }
  }

  struct Forward {
    std::vector<float> out, statistics;
  };
  Forward forward(const KernelTable& t, int64_t queries_a_call) const {
    Forward result{std::vector<float>(q.size()),
                   std::vector<float>(static_cast<size_t>(2 * kHeads * tokens))};
    Attend a{};
    a.heads = kHeads;
    a.kv_heads = kKvHeads;
    a.dim = dim;
    a.scale = 0.3f;
    a.q = q.data();
    a.out = result.out.data();
    a.table = table.data();
    a.k_pages = k_pages.data();
    a.v_pages = v_pages.data();
    a.max = result.statistics.data();
    a.inverse = a.max + kHeads * tokens;
    a.statistics_head = tokens;
    for (int64_t head = 0; head < kKvHeads; ++head)
      for (int64_t first = 0; first < tokens; first += queries_a_call)
        t.attend(a, head, first, std::min(tokens, first + queries_a_call));
    return result;
  }

  /// dq, dk, dv one after another; the sequence as a root of `root` tokens and a continuation.
  std::vector<float> backward(const KernelTable& t, const Forward& done, int64_t root) const {
    const size_t nq = q.size(), nk = k.size();
    std::vector<float> result(nq + 2 * nk);
    const auto area = static_cast<size_t>(kHeads * tokens * padded);
    std::vector<float> rows(3 * area), delta(static_cast<size_t>(kHeads * tokens));
    AttendBackward a{};
    a.tokens = tokens;
    a.heads = kHeads;
    a.kv_heads = kKvHeads;
    a.dim = dim;
    a.scale = 0.3f;
    a.q = q.data();
    a.g = g.data();
    a.out = done.out.data();
    a.k = k.data();
    a.v = v.data();
    a.max = done.statistics.data();
    a.inverse = a.max + kHeads * tokens;
    a.rows_q = rows.data();
    a.rows_g = a.rows_q + area;
    a.rows_dq = a.rows_g + area;
    a.delta = delta.data();
    a.dq = result.data();
    a.dk = a.dq + nq;
    a.dv = a.dk + nk;
    t.attend_backward_rows(a, 0, tokens);
    const TokenRange family[] = {{0, root}, {root, tokens - root}};
    for (int64_t head = 0; head < kKvHeads; ++head)
      t.attend_backward(a, family, root < tokens ? 2 : 1, head);
    return result;
  }
};

}  // namespace

TEST_CASE("attention: every instruction set and division into calls gives the same bits") {
  for (const int64_t dim : {16, 24, 64, 128}) {
    const Sequence s(107, dim);
    const auto exact = exact_tables();
    if (exact.empty()) return;
    const auto first = s.forward(*exact.front(), 107);
    const auto slopes = s.backward(*exact.front(), first, 107);
    const auto shared = s.backward(*exact.front(), first, 45);
    for (const KernelTable* t : exact) {
      CAPTURE(t->isa);
      for (const int64_t calls : {1, 3, 32, 107}) {
        const auto got = s.forward(*t, calls);
        CHECK(same_bits(got.out, first.out));
        CHECK(same_bits(got.statistics, first.statistics));
      }
      CHECK(same_bits(s.backward(*t, first, 107), slopes));
      CHECK(same_bits(s.backward(*t, first, 45), shared));
    }
    const auto near = s.forward(kernels("baseline"), 107);
    float worst = 0;
    for (size_t i = 0; i < near.out.size(); ++i)
      worst = std::max(worst, std::abs(near.out[i] - first.out[i]));
    CHECK(worst < 1e-5f);
  }
}

TEST_CASE("attention: golden hashes") {
  const Sequence s(70, 48);
  for (const KernelTable* t : exact_tables()) {
    CAPTURE(t->isa);
    const auto done = s.forward(*t, 32);
    CHECK(hash_of(done.out) == 0xb037fbb1189fd4edu);
    CHECK(hash_of(s.backward(*t, done, 40)) == 0x5525e160f983a5e5u);
  }
}

}  // namespace bessemer::cpu
