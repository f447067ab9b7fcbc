// Attention: one set of bits from the scalar definition, packed batches, pages in any order and a
// cache that grows token by token; gradients against differences and against primitives.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>

#include "core/cpu/attention.h"
#include "tests/core_ops/gradcheck.h"

using namespace bessemer;
using bessemer::testing::draw;

namespace {

constexpr int64_t kBlock = cpu::kKeyBlock;

Tensor floats(const Shape& shape, uint64_t stream) { return cast(draw(shape, stream), Dtype::f32); }
Tensor longs(const std::vector<int64_t>& values, const Shape& shape) {
  return Tensor::from<int64_t>(values, shape);
}
Tensor range(int64_t first, int64_t end) {
  return Tensor::arange(end - first) + Tensor::scalar(static_cast<double>(first), Dtype::i64);
}
/// Rows (first token, prefix).
Tensor segments_of(const std::vector<int64_t>& values) {
  return longs(values, {static_cast<int64_t>(values.size() / 2), 2});
}
std::vector<float> flat(const Tensor& x) {
  const Tensor dense = contiguous(cast(x, Dtype::f32));
  return {dense.data<float>(), dense.data<float>() + dense.numel()};
}
bool same_bits(const Tensor& a, const Tensor& b) {
  const auto x = flat(a), y = flat(b);
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}
double largest_difference(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return 0;
  return amax(abs(cast(a, Dtype::f64) - cast(b, Dtype::f64))).item();
}
template <class Body>
std::string message(Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
/// Machines without FMA are held to tolerances.
bool exact() { return std::string(cpu::kernels().isa) != "baseline"; }

float weight(float x) {
  if (x < -87.3f) return 0;
  float y;
  cpu::kernels().unary_f32[static_cast<int>(OpId::exp)](1, &y, 1, &x, 1);
  return y;
}

struct DefinedRow {
  std::vector<float> out;
  float max, inverse;
};
/// core/cpu/attention.h word for word, for one query over the given tokens' keys.
DefinedRow defined_row(const float* q, const Tensor& k, const Tensor& v, int64_t head,
                       const std::vector<int64_t>& keys, float scale) {
  const int64_t dim = k.size(2), heads = k.size(1), count = static_cast<int64_t>(keys.size());
  const auto at = [&](const Tensor& x, int64_t j, int64_t d) {
    return x.data<float>()[(keys[static_cast<size_t>(j)] * heads + head) * dim + d];
  };
  std::vector<float> o(static_cast<size_t>(dim));
  float m = -std::numeric_limits<float>::infinity(), l[16] = {};
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t n = std::min(kBlock, count - first);
    float s[kBlock], p[kBlock] = {}, next = m;
    for (int64_t j = 0; j < n; ++j) {
      s[j] = 0;
      for (int64_t d = 0; d < dim; ++d) s[j] = std::fma(q[d] * scale, at(k, first + j, d), s[j]);
      next = std::max(next, s[j]);
    }
    const float a = weight(m - next);
    m = next;
    for (int64_t j = 0; j < n; ++j) p[j] = weight(s[j] - m);
    for (int i = 0; i < 16; ++i) l[i] = l[i] * a + (p[i] + p[i + 16]);
    for (int64_t d = 0; d < dim; ++d) {
      float& out = o[static_cast<size_t>(d)];
      out = out * a;
      for (int64_t j = 0; j < n; ++j) out = std::fma(p[j], at(v, first + j, d), out);
    }
  }
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) l[i] += l[i + half];
  const float inverse = 1.0f / l[0];
  for (float& x : o) x *= inverse;
  return {o, m, inverse};
}

/// The tokens that each token of a packed batch sees, in order.
std::vector<std::vector<int64_t>> seen_tokens(const Tensor& segments, int64_t tokens) {
  const int64_t* row = segments.data<int64_t>();
  const int64_t count = segments.size(0);
  std::vector<std::vector<int64_t>> seen(static_cast<size_t>(tokens));
  for (int64_t s = 0; s < count; ++s) {
    const auto end = [&](int64_t i) { return i + 1 < count ? row[2 * i + 2] : tokens; };
    std::vector<int64_t> keys;
    if (row[2 * s + 1] >= 0)
      for (int64_t t = row[2 * row[2 * s + 1]]; t < end(row[2 * s + 1]); ++t) keys.push_back(t);
    for (int64_t t = row[2 * s]; t < end(s); ++t) {
      keys.push_back(t);
      seen[static_cast<size_t>(t)] = keys;
    }
  }
  return seen;
}

Tensor defined_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                         const Tensor& segments) {
  const int64_t heads = q.size(1), dim = q.size(2), group = heads / k.size(1);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  const auto seen = seen_tokens(segments, q.size(0));
  const Tensor out = Tensor::empty(q.sizes());
  for (int64_t t = 0; t < q.size(0); ++t)
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (t * heads + h) * dim;
      const auto row =
          defined_row(q.data<float>() + at, k, v, h / group, seen[static_cast<size_t>(t)], scale);
      std::copy(row.out.begin(), row.out.end(), out.data<float>() + at);
    }
  return out;
}

struct Packed {
  Tensor q, k, v, segments;
};

/// AttendBackward's comment word for word.
std::vector<Tensor> defined_gradients(const Packed& in, const Tensor& out, const Tensor& g) {
  const int64_t tokens = in.q.size(0), heads = in.q.size(1), dim = in.q.size(2);
  const int64_t kv_heads = in.k.size(1), group = heads / kv_heads, count = in.segments.size(0);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  const auto seen = seen_tokens(in.segments, tokens);
  const Tensor dq = Tensor::zeros(in.q.sizes()), dk = Tensor::zeros(in.k.sizes());
  const Tensor dv = Tensor::zeros(in.v.sizes());
  std::vector<float> chain_k(static_cast<size_t>(tokens * dim)), chain_v(chain_k.size());
  for (int64_t s = 0; s < count; ++s) {
    const int64_t* row = in.segments.data<int64_t>() + 2 * s;
    const int64_t end = s + 1 < count ? row[2] : tokens;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t kv = h / group;
      std::fill(chain_k.begin(), chain_k.end(), 0.0f);
      std::fill(chain_v.begin(), chain_v.end(), 0.0f);
      for (int64_t i = row[0]; i < end; ++i) {
        const auto& keys = seen[static_cast<size_t>(i)];
        const int64_t at = (i * heads + h) * dim;
        const float *q = in.q.data<float>() + at, *slope = g.data<float>() + at;
        const DefinedRow row_sums = defined_row(q, in.k, in.v, kv, keys, scale);
        float lane[16] = {};
        for (int64_t d = 0; d < dim; ++d)
          lane[d % 16] = std::fma(slope[d], out.data<float>()[at + d], lane[d % 16]);
        for (int half = 8; half > 0; half /= 2)
          for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
        float* to = dq.data<float>() + at;
        for (const int64_t key : keys) {
          const int64_t from = (key * kv_heads + kv) * dim;
          const float *k = in.k.data<float>() + from, *v = in.v.data<float>() + from;
          float score = 0, dp = 0;
          for (int64_t d = 0; d < dim; ++d) score = std::fma(q[d] * scale, k[d], score);
          for (int64_t d = 0; d < dim; ++d) dp = std::fma(slope[d], v[d], dp);
          const float p = weight(score - row_sums.max) * row_sums.inverse;
          const float ds = p * (dp - lane[0]);
          for (int64_t d = 0; d < dim; ++d) {
            float& into_k = chain_k[static_cast<size_t>(key * dim + d)];
            float& into_v = chain_v[static_cast<size_t>(key * dim + d)];
            to[d] = std::fma(ds, k[d], to[d]);
            into_k = std::fma(ds, q[d] * scale, into_k);
            into_v = std::fma(p, slope[d], into_v);
          }
        }
        for (int64_t d = 0; d < dim; ++d) to[d] *= scale;
      }
      for (int64_t j = 0; j < tokens; ++j)
        for (int64_t d = 0; d < dim; ++d) {
          const auto from = static_cast<size_t>(j * dim + d);
          dk.data<float>()[(j * kv_heads + kv) * dim + d] += chain_k[from];
          dv.data<float>()[(j * kv_heads + kv) * dim + d] += chain_v[from];
        }
    }
  }
  return {dq, dk, dv};
}

Packed packed(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
              const std::vector<int64_t>& segments, uint64_t stream = 1) {
  return {floats({tokens, heads, dim}, stream), floats({tokens, kv_heads, dim}, stream + 1),
          floats({tokens, kv_heads, dim}, stream + 2), segments_of(segments)};
}
Tensor run(const Packed& p) { return attention(p.q, p.k, p.v, p.segments); }

/// A cache for `sequences` of `length` tokens at most, its pages given out in a scattered order
/// and everything unused NaN.
struct Cache {
  Tensor k, v, table;
  int64_t width;

  Cache(int64_t sequences, int64_t length, int64_t heads, int64_t dim, Dtype dtype = Dtype::f32)
      : width((length + kBlock - 1) / kBlock) {
    const int64_t pages = sequences * width + 3;
    k = Tensor::full({pages, heads, dim, kBlock}, std::nan(""), dtype);
    v = Tensor::full({pages, heads, kBlock, dim}, std::nan(""), dtype);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < sequences * width; ++i) ids.push_back((i * 7 + 5) % pages);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (int64_t i = 0; static_cast<int64_t>(ids.size()) < sequences * width; ++i)
      if (std::find(ids.begin(), ids.end(), i) == ids.end()) ids.push_back(i);
    for (size_t i = 0; i + 1 < ids.size(); i += 2) std::swap(ids[i], ids[ids.size() - 1 - i / 2]);
    table = longs(ids, {sequences, width});
  }
  Tensor slots(int64_t sequence, int64_t first, int64_t end) const {
    std::vector<int64_t> list;
    for (int64_t i = first; i < end; ++i)
      list.push_back(table.data<int64_t>()[sequence * width + i / kBlock] * kBlock + i % kBlock);
    return longs(list, {end - first});
  }
};

}  // namespace

TEST_CASE("attention has the bits of its definition") {
  struct Case {
    int64_t tokens, heads, kv_heads, dim;
    std::vector<int64_t> segments;
  };
  const std::vector<Case> cases = {
      {1, 1, 1, 64, {0, -1}},
      {70, 2, 2, 64, {0, -1}},
      {131, 3, 1, 16, {0, -1, 40, 0, 77, 0, 78, -1}},
      {100, 4, 2, 32, {0, -1, 64, 0, 96, 0}},
      {67, 1, 1, 128, {0, -1, 33, 0}},
      {80, 6, 3, 24, {0, -1, 5, -1, 45, 1, 46, 1, 70, 0}},
      {50, 2, 1, 7, {0, -1, 20, 0}},
  };
  for (const Case& c : cases) {
    const Packed p = packed(c.tokens, c.heads, c.kv_heads, c.dim, c.segments);
    CAPTURE(c.dim);
    const Tensor got = run(p), expected = defined_attention(p.q, p.k, p.v, p.segments);
    if (exact()) CHECK(same_bits(got, expected));
    CHECK(largest_difference(got, expected) < 1e-5);
    const Tensor in[] = {p.q, p.k, p.v, p.segments};
    const Tensor* inputs[] = {&in[0], &in[1], &in[2], &in[3]};
    Tensor primitives[2];
    op_info(OpId::attention)
        .decompose(inputs, Attrs::of(1 / std::sqrt(static_cast<double>(c.dim))), primitives);
    CHECK(largest_difference(got, primitives[0]) < 1e-5);
  }
}

TEST_CASE("scores of every size, and weights too small to count") {
  Packed p = packed(90, 2, 1, 32, {0, -1});
  p.q = p.q * 40.0;  // scores of several hundred
  const Tensor got = run(p), expected = defined_attention(p.q, p.k, p.v, p.segments);
  if (exact()) CHECK(same_bits(got, expected));
  const Tensor wide =
      attention(cast(p.q, Dtype::f64), cast(p.k, Dtype::f64), cast(p.v, Dtype::f64), p.segments);
  CHECK(largest_difference(got, wide) < 1e-3);
}

TEST_CASE("a segment's bits do not depend on what it is packed with") {
  const int64_t lengths[] = {45, 1, 64, 33, 7};
  std::vector<Packed> alone;
  std::vector<Tensor> results;
  for (int i = 0; i < 5; ++i) {
    alone.push_back(packed(lengths[i], 4, 2, 64, {0, -1}, 10 + 3 * static_cast<uint64_t>(i)));
    results.push_back(run(alone.back()));
  }
  for (const auto& order : {std::vector<int>{0, 1, 2, 3, 4}, {4, 2, 0, 3, 1}, {2, 1}}) {
    std::vector<Tensor> q, k, v, expected;
    std::vector<int64_t> segments;
    int64_t first = 0;
    for (const int i : order) {
      const auto at = static_cast<size_t>(i);
      q.push_back(alone[at].q);
      k.push_back(alone[at].k);
      v.push_back(alone[at].v);
      expected.push_back(results[at]);
      segments.insert(segments.end(), {first, -1});
      first += lengths[i];
    }
    for (const int threads : {1, 2, 3}) {
      cpu::set_threads(threads);
      CHECK(same_bits(attention(concat(q), concat(k), concat(v), segments_of(segments)),
                      concat(expected)));
    }
    cpu::set_threads(1);
  }
}

TEST_CASE("a shared prefix gives the bits and gradients of a repeated one") {
  constexpr int64_t kHeads = 4, kKv = 2, kDim = 16;
  for (const int64_t prompt : {1, 20, 32, 50, 64}) {
    const std::vector<int64_t> tails = {5, 40, 1};
    std::vector<int64_t> shared = {0, -1}, repeated;
    std::vector<Tensor> order;  // tokens of the shared batch, as the repeated one has them
    int64_t tokens = prompt, first = 0;
    for (const int64_t tail : tails) {
      shared.insert(shared.end(), {tokens, 0});
      repeated.insert(repeated.end(), {first, -1});
      order.push_back(Tensor::arange(prompt));
      order.push_back(range(tokens, tokens + tail));
      tokens += tail;
      first += prompt + tail;
    }
    const Tensor index = concat(order);
    const Packed p = packed(tokens, kHeads, kKv, kDim, shared);
    Packed r = p;
    for (Tensor* x : {&r.q, &r.k, &r.v}) *x = index_select(*x, 0, index);
    r.segments = segments_of(repeated);
    const Tensor together = index_select(run(p), 0, index), apart = run(r);
    CHECK(same_bits(together, apart));

    // The prompt's own outputs count once for each continuation in both.
    const Tensor g = floats(apart.sizes(), 77);
    const auto slopes = [&](bool share) {
      std::vector<Tensor> in = {p.q.detach(), p.k.detach(), p.v.detach()};
      for (Tensor& x : in) {
        x = contiguous(x * 1.0);
        set_requires_grad(x);
      }
      Tensor y;
      if (share) {
        y = index_select(attention(in[0], in[1], in[2], p.segments), 0, index);
      } else {
        y = attention(index_select(in[0], 0, index), index_select(in[1], 0, index),
                      index_select(in[2], 0, index), r.segments);
      }
      return gradients(std::array{sum(y * g)}, in);
    };
    const auto a = slopes(true), b = slopes(false);
    for (int i = 0; i < 3; ++i)
      CHECK(largest_difference(a[static_cast<size_t>(i)], b[static_cast<size_t>(i)]) < 2e-5);
  }
}

TEST_CASE("a cache that grows, prefill in parts and the packed forward agree bit for bit") {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const int64_t dim : {16, 64, 20}) {
      const std::vector<int64_t> lengths = {70, 33, 96, 1};
      constexpr int64_t kHeads = 6, kKv = 2;
      std::vector<int64_t> segments;
      int64_t tokens = 0;
      for (const int64_t n : lengths) {
        segments.insert(segments.end(), {tokens, -1});
        tokens += n;
      }
      Packed p = packed(tokens, kHeads, kKv, dim, segments);
      if (dtype == Dtype::bf16)
        for (Tensor* x : {&p.k, &p.v}) *x = cast(cast(*x, dtype), Dtype::f32);
      const Tensor expected = run(p);

      // Step t: every sequence that still has tokens adds `chunk` of them.
      for (const int64_t chunk : {1, 5, 32, 96}) {
        Cache cache(4, 96, kKv, dim, dtype);
        const Tensor got = Tensor::zeros(expected.sizes());
        for (int64_t done = 0; done < 96; done += chunk) {
          std::vector<Tensor> rows, slots;
          std::vector<int64_t> bounds = {0}, ends;
          for (int64_t s = 0; s < 4; ++s) {
            const int64_t n = lengths[static_cast<size_t>(s)];
            const int64_t from = std::min(n, done), to = std::min(n, done + chunk);
            const int64_t first = segments[static_cast<size_t>(2 * s)];
            rows.push_back(range(first + from, first + to));
            slots.push_back(cache.slots(s, from, to));
            bounds.push_back(bounds.back() + to - from);
            ends.push_back(to);
          }
          const Tensor index = concat(rows);
          kv_write(cache.k, cache.v, index_select(p.k, 0, index), index_select(p.v, 0, index),
                   concat(slots));
          const Tensor out = attention_paged(index_select(p.q, 0, index), cache.k, cache.v,
                                             cache.table, longs(bounds, {5}), longs(ends, {4}));
          for (int64_t i = 0; i < index.numel(); ++i)
            assign(slice(got, 0, index.data<int64_t>()[i], index.data<int64_t>()[i] + 1),
                   slice(out, 0, i, i + 1));
        }
        CAPTURE(chunk);
        CAPTURE(dim);
        CHECK(same_bits(got, expected));  // and no NaN of the unused cache came through
      }
    }
  }
}

TEST_CASE("bfloat16 is widened, computed in float32 and rounded once") {
  const Packed p = packed(50, 4, 2, 16, {0, -1, 20, 0, 35, 0});
  const Tensor q = cast(p.q, Dtype::bf16), k = cast(p.k, Dtype::bf16), v = cast(p.v, Dtype::bf16);
  const Tensor got = attention(q, k, v, p.segments);
  CHECK(got.dtype() == Dtype::bf16);
  const Tensor wide =
      attention(cast(q, Dtype::f32), cast(k, Dtype::f32), cast(v, Dtype::f32), p.segments);
  CHECK(same_bits(got, cast(wide, Dtype::bf16)));
}

TEST_CASE("gradients in float64: prefixes, grouped queries, second derivatives") {
  const Tensor one = segments_of({0, -1}), tree = segments_of({0, -1, 2, 0, 4, 0, 5, -1});
  CHECK_GRADIENTS(attention(x[0], x[1], x[2], one), draw({4, 1, 2}, 1), draw({4, 1, 2}, 2),
                  draw({4, 1, 2}, 3));
  CHECK_GRADIENTS(attention(x[0], x[1], x[2], tree, 0.4), draw({6, 4, 2}, 1), draw({6, 2, 2}, 2),
                  draw({6, 2, 2}, 3));
}

TEST_CASE("gradients have the bits of their definition") {
  for (const int64_t dim : {16, 64, 20}) {
    const Packed p = packed(150, 4, 2, dim, {0, -1, 45, 0, 60, 0, 61, 0, 110, -1});
    const Tensor g = floats(p.q.sizes(), 30);
    std::vector<Tensor> in = {contiguous(p.q * 1.0), contiguous(p.k * 1.0), contiguous(p.v * 1.0)};
    for (const Tensor& x : in) set_requires_grad(x);
    const Tensor y = attention(in[0], in[1], in[2], p.segments);
    const auto found = gradients(std::array{sum(y * g)}, in);
    const auto expected = defined_gradients(p, y.detach(), g);
    for (size_t i = 0; i < 3; ++i) {
      CAPTURE(i);
      if (exact()) CHECK(same_bits(found[i], expected[i]));
      CHECK(largest_difference(found[i], expected[i]) < 1e-5);
    }
  }
}

TEST_CASE("gradients in float32 and bfloat16 are those of float64") {
  const Packed p = packed(200, 6, 2, 24, {0, -1, 50, 0, 90, 0, 91, 0, 130, -1});
  const Tensor g = floats(p.q.sizes(), 50);
  const auto slopes = [&](Dtype dtype) {
    std::vector<Tensor> in;
    for (const Tensor& x : {p.q, p.k, p.v}) {
      in.push_back(cast(x, dtype));
      if (dtype == x.dtype()) in.back() = contiguous(x * 1.0);
      set_requires_grad(in.back());
    }
    return gradients(std::array{sum(attention(in[0], in[1], in[2], p.segments) * cast(g, dtype))},
                     in);
  };
  const auto exactly = slopes(Dtype::f64), single = slopes(Dtype::f32), half = slopes(Dtype::bf16);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(largest_difference(exactly[i], single[i]) < 1e-5);
    CHECK(half[i].dtype() == Dtype::bf16);
    CHECK(largest_difference(exactly[i], half[i]) < 0.1);
  }
}

TEST_CASE("gradients do not depend on threads or packing") {
  const Packed a = packed(90, 4, 2, 64, {0, -1, 40, 0, 75, 0}, 5);
  const Packed b = packed(60, 4, 2, 64, {0, -1, 31, 0}, 15);
  const auto slopes = [](const Packed& p) {
    std::vector<Tensor> in = {contiguous(p.q * 1.0), contiguous(p.k * 1.0), contiguous(p.v * 1.0)};
    for (const Tensor& x : in) set_requires_grad(x);
    const Tensor y = attention(in[0], in[1], in[2], p.segments);
    return gradients(std::array{sum(y * y)}, in);
  };
  const auto first = slopes(a), second = slopes(b);
  const Packed both = {concat(std::vector{b.q, a.q}), concat(std::vector{b.k, a.k}),
                       concat(std::vector{b.v, a.v}),
                       segments_of({0, -1, 31, 0, 60, -1, 100, 2, 135, 2})};
  for (const int threads : {1, 2, 3}) {
    cpu::set_threads(threads);
    const auto together = slopes(both);
    for (size_t i = 0; i < 3; ++i) {
      CHECK(same_bits(slice(together[i], 0, 0, 60), second[i]));
      CHECK(same_bits(slice(together[i], 0, 60, 150), first[i]));
    }
  }
  cpu::set_threads(1);
}

TEST_CASE("positions of a packed batch") {
  const Tensor got = segment_positions(segments_of({0, -1, 3, 0, 5, 0, 6, -1}), 8);
  const std::vector<int64_t> expected = {0, 1, 2, 3, 4, 3, 0, 1};
  CHECK(std::equal(expected.begin(), expected.end(), got.data<int64_t>()));
}

TEST_CASE("attention refuses what does not fit") {
  const Packed p = packed(6, 4, 2, 8, {0, -1});
  const auto with = [&](const std::vector<int64_t>& segments) {
    return message([&] { attention(p.q, p.k, p.v, segments_of(segments)); });
  };
  CHECK(with({}).find("[attention] no segments for 6 tokens") == 0);
  CHECK(with({1, -1}).find("[attention] segment 0 begins at token 1, expected 0") == 0);
  CHECK(with({0, -1, 4, -1, 4, -1}).find("[attention] segment 1 begins at token 4 and ends at 4") ==
        0);
  CHECK(with({0, -1, 6, -1}).find("segment 1 begins at token 6 and ends at 6 of 6") !=
        std::string::npos);
  CHECK(with({0, -1, 2, 1}).find("[attention] segment 1 has prefix 1, expected an earlier") == 0);
  CHECK(with({0, -2}).find("has prefix -2") != std::string::npos);
  CHECK(
      with({0, -1, 2, 0, 4, 1}).find("segment 2 has prefix 1, which has a prefix of its own (0)") !=
      std::string::npos);
  CHECK_THROWS_AS(attention(p.q, p.k, p.v, longs({0}, {1})), ValueError);
  CHECK_THROWS_AS(attention(p.q, p.k, p.v, floats({1, 2}, 1)), TypeError);
  const Tensor three = floats({6, 3, 8}, 1), longer = floats({7, 2, 8}, 1);
  CHECK(message([&] { attention(three, p.k, p.v, p.segments); }) ==
        "[attention] 3 query heads are not a multiple of 2 key and value heads");
  CHECK(message([&] {
          attention(p.q, longer, longer, p.segments);
        }).find("q (6, 4, 8), k (7, 2, 8)") != std::string::npos);
  CHECK_THROWS_AS(attention(cast(p.q, Dtype::i64), p.k, p.v, p.segments), TypeError);
  CHECK_THROWS_AS(attention(p.q, p.k, cast(p.v, Dtype::i64), p.segments), TypeError);
}

TEST_CASE("pages refuse what does not fit") {
  const Cache c(2, 64, 2, 8);
  const Tensor q = floats({3, 4, 8}, 1), bounds = longs({0, 1, 3}, {3}), ends = longs({4, 33}, {2});
  const auto with = [&](const Tensor& table, const Tensor& queries, const Tensor& lengths) {
    return message([&] { attention_paged(q, c.k, c.v, table, queries, lengths); });
  };
  CHECK(with(c.table, bounds, longs({4, 65}, {2})) ==
        "[attention_paged] sequence 1 has length 65, its row of the table holds 2 pages of 32");
  CHECK(with(c.table, bounds, longs({4, 1}, {2})) ==
        "[attention_paged] sequence 1 has length 1 and 2 queries");
  CHECK(with(c.table, longs({0, 1, 2}, {3}), ends).find("from 0 to 2, expected 0 to 3") !=
        std::string::npos);
  CHECK(with(c.table, longs({0, 4, 3}, {3}), ends).find("queries of sequence 1 go from 4 to 3") !=
        std::string::npos);
  CHECK(with(longs({0, 1, 2, 7}, {2, 2}), bounds, ends) ==
        "[attention_paged] page 7 of sequence 1 is outside the 7 pages");
  CHECK_THROWS_AS(attention_paged(q, c.k, c.v, longs({0, 1, -1, 2}, {2, 2}), bounds, ends),
                  IndexError);
  CHECK_THROWS_AS(attention_paged(floats({3, 3, 8}, 1), c.k, c.v, c.table, bounds, ends),
                  ValueError);
  CHECK_THROWS_AS(attention_paged(floats({3, 4, 16}, 1), c.k, c.v, c.table, bounds, ends),
                  ValueError);
  CHECK_THROWS_AS(attention_paged(q, c.v, c.k, c.table, bounds, ends), ValueError);
  CHECK_THROWS_AS(attention_paged(q, cast(c.k, Dtype::f64), c.v, c.table, bounds, ends), TypeError);

  const Tensor k = floats({2, 2, 8}, 1);
  CHECK(message([&] {
          kv_write(c.k, c.v, k, k, longs({0, 224}, {2}));
        }) == "[kv_write] slot 224 of token 1 is outside the 224 places of 7 pages");
  CHECK_THROWS_AS(kv_write(c.k, c.v, k, k, longs({0}, {1})), ValueError);
  CHECK_THROWS_AS(kv_write(c.k, c.v, floats({2, 3, 8}, 1), k, longs({0, 1}, {2})), ValueError);
  // A page that is not needed may be anything.
  CHECK(with(longs({0, -5, 2, 3}, {2, 2}), bounds, ends).empty());
}
