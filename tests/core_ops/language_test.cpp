// Rows of a decoder: what they refuse, half types beside float32 weights, log-probabilities of the
// sampler beside those of the loss. Values and gradients are in the sweep
// (tests/python/test_ops.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "tests/core_ops/gradcheck.h"

using namespace bessemer;

namespace {

Tensor floats(const Shape& shape, uint64_t stream, double low = -2, double high = 2) {
  return cast(testing::draw(shape, stream, low, high), Dtype::f32);
}
Tensor longs(std::initializer_list<int64_t> values) {
  return Tensor::from<int64_t>(std::span(values.begin(), values.size()),
                               {static_cast<int64_t>(values.size())});
}
/// Token ids below `size`, the same for a stream.
Tensor tokens(int64_t count, int64_t size, uint64_t stream) {
  Tensor out = Tensor::empty({count}, Dtype::i64);
  const Rng rng{stream};
  for (int64_t i = 0; i < count; ++i)
    out.data<int64_t>()[i] = static_cast<int64_t>(rng.at(static_cast<uint64_t>(i)).word[0]) % size;
  return out;
}
bool same_bits(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.numel()) * dtype_size(a.dtype())) == 0;
}
double largest_difference(const Tensor& a, const Tensor& b) {
  return amax(abs(cast(a, Dtype::f64) - cast(b, Dtype::f64))).item();
}

}  // namespace

TEST_CASE("token ids outside the vocabulary are named") {
  const Tensor weight = floats({5, 3}, 1), x = floats({2, 3}, 2);
  CHECK_THROWS_WITH_AS(embedding(weight, longs({1, 7})),
                       "[embedding] token id 7 at position 1 is outside the vocabulary of 5",
                       IndexError);
  CHECK_THROWS_WITH_AS(embedding(weight, longs({-1})),
                       "[embedding] token id -1 at position 0 is outside the vocabulary of 5",
                       IndexError);
  CHECK_THROWS_WITH_AS(
      linear_cross_entropy(x, weight, longs({0, 5})),
      "[linear_cross_entropy] token id 5 at position 1 is outside the vocabulary of 5", IndexError);
  CHECK_THROWS_AS(linear_nll(x, weight, longs({0, -2}), floats({2}, 3)), IndexError);
  CHECK_THROWS_AS(embedding(weight, floats({2}, 4)), TypeError);
}

TEST_CASE("rows of a decoder name shapes that do not fit") {
  const Tensor x = floats({2, 3}, 1), weight = floats({5, 3}, 2), ids = longs({0, 1});
  CHECK_THROWS_WITH_AS(rms_norm(x, floats({4}, 3)), "[rms_norm] weight (4,) does not fit (2, 3)",
                       ValueError);
  CHECK_THROWS_AS(rms_norm(ids), TypeError);
  CHECK_THROWS_AS(embedding(floats({5}, 3), ids), ValueError);
  CHECK_THROWS_WITH_AS(rope(floats({2, 1, 3}, 3), ids),
                       "[rope] x has shape (2, 1, 3), expected [tokens, heads, an even width]",
                       ValueError);
  CHECK_THROWS_AS(rope(floats({3, 1, 4}, 3), ids), ValueError);
  CHECK_THROWS_AS(rope(floats({2, 1, 4}, 3), ids, -1), ValueError);
  CHECK_THROWS_WITH_AS(swiglu(x, weight), "[swiglu] gate (2, 3) and up (5, 3) differ", ValueError);
  CHECK_THROWS_AS(linear_cross_entropy(floats({2, 4}, 3), weight, ids), ValueError);
  CHECK_THROWS_AS(linear_cross_entropy(x, weight, longs({0})), ValueError);
  CHECK_THROWS_AS(linear_cross_entropy(x, weight, ids, floats({2}, 3)), ValueError);
  CHECK_THROWS_AS(linear_cross_entropy(x, floats({0, 3}, 3), longs({0, 0})), ValueError);
  CHECK_THROWS_AS(linear_nll(x, weight, ids, floats({3}, 3)), ValueError);
}

TEST_CASE("sample_tokens refuses what is no distribution and no option") {
  const auto sample = [](float logit, float uniform, float temperature, int64_t top_k,
                         float top_p) {
    Tensor logits = Tensor::zeros({1, 4});
    logits.data<float>()[2] = logit;
    return sample_tokens(logits, Tensor::full({1}, uniform), Tensor::full({1}, temperature),
                         longs({top_k}), Tensor::full({1}, top_p));
  };
  CHECK(sample(9, 0.5f, 0, 0, 1)[0].item() == 2);
  CHECK_THROWS_WITH_AS(sample(std::numeric_limits<float>::infinity(), 0, 1, 0, 1),
                       "[sample_tokens] logits[0, 2] is inf", NotFiniteError);
  CHECK_THROWS_AS(sample(std::nanf(""), 0, 0, 0, 1), NotFiniteError);
  CHECK_THROWS_AS(sample(0, 1, 1, 0, 1), ValueError);
  CHECK_THROWS_AS(sample(0, 0, -1, 0, 1), ValueError);
  CHECK_THROWS_AS(sample(0, 0, 1, -1, 1), ValueError);
  CHECK_THROWS_AS(sample(0, 0, 1, 0, 0), ValueError);
  CHECK_THROWS_AS(sample(0, 0, 1, 0, 1.5f), ValueError);
  CHECK_THROWS_AS(sample_tokens(floats({2, 3}, 1), floats({1}, 1, 0, 1), Tensor::ones({2}),
                                longs({0, 0}), Tensor::ones({2})),
                  ValueError);
}

TEST_CASE("log_prob and entropy have the bits of the rows they stand for") {
  for (const int64_t vocabulary : {2, 16, 100, 4099, 9000}) {
    for (const bool scaled : {false, true}) {
      const int64_t count = 150;
      const Tensor x = floats({count, 24}, 1), weight = floats({vocabulary, 24}, 2);
      const Tensor ids = tokens(count, vocabulary, 3);
      const Tensor scale = scaled ? Tensor::scalar(1.37) : Tensor();
      Tensor z = linear(x, weight);
      if (scaled) z = z * scale;
      const Tensor l = log_softmax(z), entropy = -sum(exp(l) * l, -1);
      const Tensor log_prob = squeeze(gather(l, 1, unsqueeze(ids, 1)), 1);
      const auto fused = linear_cross_entropy(x, weight, ids, scale);
      CAPTURE(vocabulary);
      CAPTURE(scaled);
      CHECK(same_bits(fused[0], log_prob));
      CHECK(same_bits(fused[1], entropy));
      // Any batch of the tokens.
      const auto one =
          linear_cross_entropy(slice(x, 0, 140, 141), weight, slice(ids, 0, 140, 141), scale);
      CHECK(same_bits(one[0], slice(log_prob, 0, 140, 141)));
      CHECK(same_bits(one[1], slice(entropy, 0, 140, 141)));
    }
  }
}

TEST_CASE("a target is hit where it is the first largest logit") {
  const int64_t count = 150;
  for (const int64_t vocabulary : {1, 2, 17, 300, 4099}) {
    Tensor weight = floats({vocabulary, 8}, 2);
    for (int64_t v = vocabulary / 2; v < vocabulary; ++v)  // the second half repeats the first
      for (int64_t i = 0; i < 8; ++i)
        weight.data<float>()[v * 8 + i] = weight.data<float>()[(v - vocabulary / 2) * 8 + i];
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64}) {
      const Tensor x = cast(floats({count, 8}, 1), dtype);
      for (const double scale : {1.0, 0.37}) {
        const Tensor inverse = Tensor::scalar(scale, dtype == Dtype::f64 ? dtype : Dtype::f32);
        const Tensor z = linear(x, weight, Tensor(), cpu::Activation::none, true) * inverse;
        const Tensor best = argmax(z), w = Tensor::ones({count});
        const Tensor ids = Tensor::empty({count}, Dtype::i64);
        for (int64_t t = 0; t < count; ++t) {  // the first, its double, any other
          int64_t& id = ids.data<int64_t>()[t] = best.data<int64_t>()[t];
          if (t % 3 == 1 && id + vocabulary / 2 < vocabulary) id += vocabulary / 2;
          if (t % 3 == 2) id = t * 7 % vocabulary;
        }
        const Tensor expected = eq(best, ids);
        CAPTURE(vocabulary);
        CAPTURE(dtype_name(dtype));
        CHECK(same_bits(linear_nll(x, weight, ids, w, inverse)[1], expected));
        Tensor leaf = x.detach(), slopes = Tensor::ones({count});
        set_requires_grad(leaf);
        const auto [loss, hit] = linear_nll(leaf, weight, ids, w, inverse);
        CHECK(same_bits(hit, expected));
        CHECK(!hit.requires_grad());
        set_requires_grad(slopes);
        CHECK(same_bits(linear_nll(leaf, weight, ids, slopes, inverse)[1], expected));
      }
    }
  }
}

TEST_CASE("blocks of logits give the gradients of the whole, for any number of threads") {
  const int64_t count = 300, vocabulary = 90;
  const Tensor x = testing::draw({count, 12}, 1), weight = testing::draw({vocabulary, 12}, 2);
  const Tensor ids = tokens(count, vocabulary, 3), w = testing::draw({count}, 4, 0, 1);
  const auto gradients_of = [&](Dtype dtype, bool entropy) {
    std::vector<Tensor> leaves = {cast(x, dtype), cast(weight, dtype), Tensor::scalar(0.8, dtype)};
    if (!entropy) leaves.pop_back();
    for (Tensor& leaf : leaves) leaf = contiguous(leaf.detach());
    for (const Tensor& leaf : leaves) set_requires_grad(leaf);
    if (entropy) {
      const auto [l, h] = linear_cross_entropy(leaves[0], leaves[1], ids, leaves[2]);
      backward(sum(cast(w, dtype) * l) + sum(cast(w, dtype) * square(h)));
    } else {
      backward(linear_nll(leaves[0], leaves[1], ids, w)[0]);
    }
    std::vector<Tensor> out;
    for (const Tensor& leaf : leaves) out.push_back(grad(leaf));
    return out;
  };
  for (const bool entropy : {false, true}) {
    const auto expected = gradients_of(Dtype::f64, entropy);
    const auto got = gradients_of(Dtype::f32, entropy);
    cpu::set_threads(2);
    const auto threaded = gradients_of(Dtype::f32, entropy);
    cpu::set_threads(1);
    for (size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      CHECK(largest_difference(got[i], expected[i]) < 2e-5 * (1 + amax(abs(expected[i])).item()));
      CHECK(same_bits(got[i], threaded[i]));
    }
  }
}

TEST_CASE("the logits are never held") {
  const int64_t count = 1024, vocabulary = 16384, width = 8;
  const Tensor x = floats({count, width}, 1), ids = tokens(count, vocabulary, 3);
  Tensor weight = floats({vocabulary, width}, 2);
  set_requires_grad(weight);
  const MemoryStats before = memory_stats();
  const Tensor loss = linear_nll(x, weight, ids, Tensor::ones({count}))[0];
  backward(loss);
  // 64 MiB of logits; blocks of 128 tokens are 8.
  CHECK(memory_stats().peak <= std::max(before.peak, before.current + (10 << 20)));
}

TEST_CASE("fused gradients of float32 are those of the composition in float64") {
  using Row = std::function<Tensor(const std::vector<Tensor>&)>;
  const Tensor places = longs({0, 70000, 3, 12, 500, 1, 2, 9, 30});
  const std::pair<const char*, Row> rows[] = {
      {"rms_norm", [](auto& in) { return rms_norm(in[0], in[2]); }},
      {"layer_norm", [](auto& in) { return layer_norm(in[0], in[2], in[3]); }},
      {"swiglu", [](auto& in) { return swiglu(in[0], in[1]); }},
      {"rope", [&](auto& in) {
         return reshape(rope(reshape(slice(in[0], 0, 0, 9), {9, 2, 18}), places), {9, 36});
       }}};
  for (const auto& [name, row] : rows) {
    const auto gradients_of = [&, &row = row](Dtype dtype) {
      std::vector<Tensor> in = {testing::draw({600, 36}, 1), testing::draw({600, 36}, 2),
                                testing::draw({36}, 3, 0.5, 1.5), testing::draw({36}, 4)};
      for (Tensor& leaf : in) {
        leaf = cast(leaf, dtype).detach();
        set_requires_grad(leaf);
      }
      const Tensor y = row(in);
      backward(sum(y * cast(testing::draw(y.sizes(), 5), y.dtype())));
      std::vector<Tensor> out;
      for (const Tensor& leaf : in)
        if (const Tensor g = grad(leaf); g.defined()) out.push_back(g);
      return out;
    };
    const auto expected = gradients_of(Dtype::f64), got = gradients_of(Dtype::f32);
    cpu::set_threads(2);
    const auto threaded = gradients_of(Dtype::f32);
    cpu::set_threads(1);
    const auto half = gradients_of(Dtype::bf16);
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      CAPTURE(name);
      CAPTURE(i);
      const double size = 1 + amax(abs(expected[i])).item();
      CHECK(largest_difference(got[i], expected[i]) < 2e-5 * size);
      CHECK(largest_difference(half[i], expected[i]) < 3e-2 * size);
      CHECK(same_bits(got[i], threaded[i]));
    }
  }
}

TEST_CASE("bfloat16 layers: one row as many, gradients near those of float64") {
  const Tensor x = cast(floats({130, 71}, 1), Dtype::bf16), weight = floats({37, 71}, 2);
  const Tensor y = linear(x, weight);
  for (const int64_t row : {0, 64, 129})
    CHECK(same_bits(contiguous(slice(y, 0, row, row + 1)),
                    linear(slice(x, 0, row, row + 1), weight)));
  const auto gradients_of = [&](bool half) {
    const Dtype dtype = half ? Dtype::bf16 : Dtype::f64;
    Tensor a = cast(x, dtype).detach();
    Tensor w = cast(cast(weight, Dtype::bf16), half ? Dtype::f32 : Dtype::f64).detach();
    set_requires_grad(a);
    set_requires_grad(w);
    const Tensor g = cast(cast(floats({130, 37}, 3), Dtype::bf16), dtype);
    backward(sum(cast(linear(a, w) * g, Dtype::f64)));
    return std::vector{grad(a), grad(w)};
  };
  const auto expected = gradients_of(false), got = gradients_of(true);
  CHECK(got[1].dtype() == Dtype::f32);
  CHECK(largest_difference(got[0], expected[0]) < 1e-2 * amax(abs(expected[0])).item());
  CHECK(largest_difference(got[1], expected[1]) < 1e-5 * amax(abs(expected[1])).item());
  // An updated weight is packed again.
  const Tensor other = weight.detach();
  fill(other, 0.5);
  CHECK(same_bits(linear(x, weight), linear(x, cast(other, Dtype::bf16))));
}

TEST_CASE("truncation keeps the heaviest tokens, ties by index") {
  const int64_t n = 40000, rows = 64;
  Tensor logits = floats({1, n}, 1, -4, 4);
  for (const int64_t tie : {7, 900, 31000}) logits.data<float>()[tie] = 4.5f;
  const Tensor u = floats({rows}, 2, 0, 1);
  const auto sample = [&](double temperature, int64_t top_k, double top_p) {
    return sample_tokens(
        contiguous(expand(logits, {rows, n})), u, Tensor::full({rows}, temperature),
        contiguous(expand(longs({top_k}), {rows})), Tensor::full({rows}, top_p))[0];
  };
  const Tensor two = sample(1, 2, 1);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = two.data<int64_t>()[r];
    CHECK((token == 7 || token == 900));
  }
  CHECK(same_bits(sample(1, 0, 1e-6), sample(0, 0, 1)));
  CHECK(sample(0, 0, 1).data<int64_t>()[0] == 7);
  // Truncation that keeps everything changes nothing.
  CHECK(same_bits(sample(0.8, 0, 1), sample(0.8, n, 1)));
  // Of the nucleus: every drawn token is at least as likely as one outside it.
  const Tensor p = softmax(logits), order = argsort(p, -1, true);
  double mass = 0;
  int64_t count = 0;
  while (mass < 0.4) mass += p.data<float>()[order.data<int64_t>()[count++]];
  const Tensor nucleus = sample(1, 0, 0.4);
  for (int64_t r = 0; r < rows; ++r)
    CHECK(p.data<float>()[nucleus.data<int64_t>()[r]] >=
          p.data<float>()[order.data<int64_t>()[count]]);
}

TEST_CASE("linear_nll has no second derivative and says so") {
  const Tensor x = floats({3, 4}, 1), ids = tokens(3, 5, 3);
  Tensor weight = floats({5, 4}, 2);
  set_requires_grad(weight);
  const Tensor loss = linear_nll(x, weight, ids, Tensor::ones({3}))[0];
  const std::array inputs{weight};
  CHECK_THROWS_AS(gradients(std::array{loss}, inputs, {}, true, true), ValueError);
}

TEST_CASE("the sampler and the loss report the same bits") {
  for (const int64_t vocabulary : {2, 7, 16, 17, 300, 5000}) {
    for (const double temperature : {0.0, 0.7, 1.0, 1.3}) {
      const int64_t rows = 9;
      const Tensor x = floats({rows, 24}, 1), weight = floats({vocabulary, 24}, 2);
      const Tensor t = Tensor::full({rows}, temperature);
      const auto [token, log_prob] = sample_tokens(linear(x, weight), floats({rows}, 3, 0, 1), t,
                                                   tokens(rows, 5, 4), floats({rows}, 5, 0.3, 1));
      const Tensor inverse = 1.0 / Tensor::full({}, temperature == 0 ? 1 : temperature);
      const auto loss = linear_cross_entropy(x, weight, token, inverse);
      CAPTURE(vocabulary);
      CAPTURE(temperature);
      CHECK(same_bits(log_prob, loss[0]));
    }
  }
}

TEST_CASE("a bfloat16 x is multiplied in bfloat16 and summed in float32") {
  const Tensor x = cast(floats({9, 70}, 1), Dtype::bf16), weight = floats({40, 70}, 2);
  const Tensor rounded = cast(weight, Dtype::bf16);
  const Tensor exact = matmul(cast(x, Dtype::f64), transpose(cast(rounded, Dtype::f64)));
  const Tensor wide = linear(x, weight, Tensor(), cpu::Activation::none, true);
  CHECK(wide.dtype() == Dtype::f32);
  CHECK(largest_difference(wide, exact) < 1e-4);
  const Tensor narrow = linear(x, weight);
  CHECK(narrow.dtype() == Dtype::bf16);
  CHECK(same_bits(narrow, cast(wide, Dtype::bf16)));
  CHECK(same_bits(narrow, linear(x, rounded)));
  const Tensor y = floats({9, 70}, 3);
  CHECK(same_bits(linear(y, rounded), linear(y, cast(rounded, Dtype::f32))));
}

TEST_CASE("gradients beside float32 master weights are float32") {
  const Tensor x = cast(floats({9, 12}, 1), Dtype::bf16), ids = tokens(9, 20, 3);
  Tensor weight = floats({20, 12}, 2), scale = floats({12}, 4, 0.5, 1.5);
  for (Tensor* leaf : {&weight, &scale}) set_requires_grad(*leaf);
  Tensor leaf = x.detach();
  set_requires_grad(leaf);
  const Tensor h = rms_norm(leaf, scale);
  CHECK(h.dtype() == Dtype::bf16);
  backward(linear_nll(h, weight, ids, Tensor::ones({9}))[0] + sum(linear(h, weight)));
  CHECK(grad(weight).dtype() == Dtype::f32);
  CHECK(grad(scale).dtype() == Dtype::f32);
  CHECK(grad(leaf).dtype() == Dtype::bf16);
}
