// Drawing tokens. The reported log-probability is that of softmax(logits / temperature) over the
// whole vocabulary, before truncation, with the bits of linear_cross_entropy for the same logits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/family.h"

namespace bessemer {

namespace {

/// One row: the weights (unnormalised probabilities) of its tokens, and how to truncate them.
template <class T>
struct Row {
  const T* weight;
  int64_t size;
  int64_t top_k;
  double top_p;
};

/// Tokens by falling weight, equal ones by index.
template <class T>
auto heavier(const T* weight) {
  return [weight](int64_t a, int64_t b) {
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
  };
}

/// The `count` heaviest tokens in order.
template <class T>
void heaviest(const Row<T>& row, int64_t count, std::vector<int64_t>& tokens) {
  tokens.resize(static_cast<size_t>(row.size));
  for (int64_t i = 0; i < row.size; ++i) tokens[static_cast<size_t>(i)] = i;
  if (count < row.size) {
    std::nth_element(tokens.begin(), tokens.begin() + count, tokens.end(), heavier(row.weight));
    tokens.resize(static_cast<size_t>(count));
  }
  std::sort(tokens.begin(), tokens.end(), heavier(row.weight));
}

/// What truncation leaves, by falling weight: the top_k heaviest, of these the shortest run from
/// the heaviest on whose share reaches top_p (Holtzman et al. 2020).
template <class T>
void truncate(const Row<T>& row, std::vector<int64_t>& tokens) {
  constexpr int64_t kFirst = 256;
  const int64_t most = row.top_k > 0 ? std::min(row.top_k, row.size) : row.size;
  double total = 0;
  // A nucleus is usually short: sort as many of the heaviest as it needs.
  int64_t count = row.top_p < 1 && row.top_k == 0 ? std::min(kFirst, most) : most;
  if (count < most)
    for (int64_t i = 0; i < row.size; ++i) total += static_cast<double>(row.weight[i]);
  for (;; count = std::min(count * 8, most)) {
    heaviest(row, count, tokens);
    if (row.top_p >= 1) return;
    if (count == most) {
      total = 0;
      for (const int64_t token : tokens) total += static_cast<double>(row.weight[token]);
    }
    double sum = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      sum += static_cast<double>(row.weight[tokens[i]]);
      if (sum >= row.top_p * total) return tokens.resize(i + 1);
    }
    if (count == most) return;
  }
}

/// The first kept token, by index, whose cumulative weight exceeds u of the whole; weight 0 is
/// never drawn.
template <class T>
int64_t invert(const Row<T>& row, std::vector<int64_t>* kept, double u) {
  const int64_t count = kept ? static_cast<int64_t>(kept->size()) : row.size;
  if (kept) std::sort(kept->begin(), kept->end());
  const auto token = [&](int64_t i) { return kept ? (*kept)[static_cast<size_t>(i)] : i; };
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += static_cast<double>(row.weight[token(i)]);
  const double target = u * total;
  double sum = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!(row.weight[token(i)] > 0)) continue;
    sum += static_cast<double>(row.weight[token(i)]);
    last = token(i);
    if (sum > target) break;
  }
  return last;
}

struct RowOptions {
  double uniform, temperature, top_p;
  int64_t top_k;
};

void check_options(const RowOptions& o, int64_t row) {
  BESSEMER_CHECK(o.uniform >= 0 && o.uniform < 1, ValueError, "[sample_tokens] uniform[", row,
                 "] is ", o.uniform, ", expected [0, 1)");
  BESSEMER_CHECK(o.temperature >= 0 && std::isfinite(o.temperature), ValueError,
                 "[sample_tokens] temperature[", row, "] is ", o.temperature,
                 ", expected 0 or more");
  BESSEMER_CHECK(o.top_k >= 0, ValueError, "[sample_tokens] top_k[", row, "] is ", o.top_k,
                 ", expected 0 (all) or more");
  BESSEMER_CHECK(o.top_p > 0 && o.top_p <= 1, ValueError, "[sample_tokens] top_p[", row, "] is ",
                 o.top_p, ", expected (0, 1]");
}

template <class T>
int64_t draw(const T* logits, const T* log_prob, int64_t n, const RowOptions& o,
             std::vector<T>& weight, std::vector<int64_t>& tokens) {
  if (o.temperature == 0) return std::max_element(logits, logits + n) - logits;
  weight.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) weight[static_cast<size_t>(i)] = std::exp(log_prob[i]);
  const Row<T> row{weight.data(), n, o.top_k < n ? o.top_k : 0, o.top_p};
  if (row.top_k == 0 && row.top_p >= 1) return invert<T>(row, nullptr, o.uniform);
  truncate(row, tokens);
  return invert(row, &tokens, o.uniform);
}

void sample_cpu(const Tensor* const* in, const Attrs&, Tensor* out) {
  NoGrad guard;
  const Dtype wide = in[0]->dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Tensor logits = dense(cast(*in[0], wide));
  const Tensor uniform = dense(cast(*in[1], Dtype::f64));
  const Tensor temperature = dense(cast(*in[2], Dtype::f64)), top_k = dense(*in[3]);
  const Tensor top_p = dense(cast(*in[4], Dtype::f64));
  const int64_t rows = logits.size(0), n = logits.size(1);
  out[0] = Tensor::empty({rows}, Dtype::i64);
  out[1] = Tensor::empty({rows}, wide);
  visit_float("sample_tokens", wide, [&]<class T>() {
    const Tensor scaled = Tensor::empty({1, n}, wide);
    std::vector<T> weight;
    std::vector<int64_t> tokens;
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = logits.data<T>() + r * n;
      const RowOptions o{uniform.data<double>()[r], temperature.data<double>()[r],
                         top_p.data<double>()[r], top_k.data<int64_t>()[r]};
      check_options(o, r);
      for (int64_t i = 0; i < n; ++i)
        BESSEMER_CHECK(std::isfinite(row[i]), NotFiniteError, "[sample_tokens] logits[", r, ", ", i,
                       "] is ", row[i]);
      const T inverse = o.temperature == 0 ? T(1) : T(1) / static_cast<T>(o.temperature);
      for (int64_t i = 0; i < n; ++i) scaled.data<T>()[i] = row[i] * inverse;
      const Tensor log_prob = log_softmax(scaled);
      const int64_t token = draw<T>(row, log_prob.data<T>(), n, o, weight, tokens);
      out[0].data<int64_t>()[r] = token;
      out[1].data<T>()[r] = log_prob.data<T>()[token];
    }
  });
}

}  // namespace

TensorPair sample_tokens(const Tensor& logits, const Tensor& uniform, const Tensor& temperature,
                         const Tensor& top_k, const Tensor& top_p) {
  BESSEMER_CHECK(logits.ndim() == 2 && logits.size(1) > 0, ValueError,
                 "[sample_tokens] logits have shape ", logits.shape(),
                 ", expected [rows, vocabulary]");
  const std::pair<const char*, const Tensor*> numbers[] = {
      {"logits", &logits}, {"uniform", &uniform}, {"temperature", &temperature}, {"top_p", &top_p}};
  for (const auto& [name, x] : numbers)
    BESSEMER_CHECK(dtype_is_float(x->dtype()), TypeError, "[sample_tokens] ", name, " is ",
                   dtype_name(x->dtype()), ", expected a floating dtype");
  const std::pair<const char*, const Tensor*> columns[] = {
      {"uniform", &uniform}, {"temperature", &temperature}, {"top_k", &top_k}, {"top_p", &top_p}};
  for (const auto& [name, x] : columns)
    BESSEMER_CHECK(x->ndim() == 1 && x->size(0) == logits.size(0), ValueError, "[sample_tokens] ",
                   name, " ", x->shape(), " does not fit logits ", logits.shape());
  return apply_many<2>(OpId::sample_tokens, Attrs(), logits, uniform, temperature,
                       as_index("sample_tokens", "top_k", top_k), top_p);
}

constexpr OpInfo BESSEMER_ROW(sample_tokens) = {
    .name = "sample_tokens",
    .kind = Kind::random,
    .inputs = 5,
    .outputs = 2,
    .cpu = sample_cpu,
    .numpy = "np_sample_tokens(logits, uniform, temperature, top_k, top_p)",
    .samples =
        "[dict(logits=R(5, 3), uniform=U(5), temperature=U(5), top_k=I(1, 5), top_p=1 - U(5)), "
        "dict(logits=R(7, 40), uniform=U(7), temperature=U(7), top_k=I(9, 7), top_p=1 - U(7)), "
        "dict(logits=R(4, 600), uniform=U(4), temperature=1 - 0 * U(4), top_k=I(1, 4), "
        "top_p=1 - 0 * U(4)), "
        "dict(logits=R(2, 3), uniform=U(2), temperature=0 * U(2), top_k=I(1, 2), "
        "top_p=1 - 0 * U(2)), "
        "dict(logits=R(0, 3), uniform=U(0), temperature=U(0), top_k=I(1, 0), top_p=U(0))]"};

}  // namespace bessemer
