// Drawing tokens. The reported log-probability is that of softmax(logits / temperature) over the
// whole vocabulary, before truncation, with the bits of linear_cross_entropy for the same logits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/family.h"

namespace bessemer {

namespace {

/// One row: weights exp(z - max) of its tokens (unnormalised probabilities, the largest 1), their
/// sums over blocks of tokens, and how to truncate them.
template <class T>
struct Row {
  static constexpr int64_t kBlock = cpu::kWeightBlock;
  std::vector<T> weight, block;
  T max = 0, log_sum = 0;  // of z
  int64_t top_block = 0;   // the first with the largest z
  double total = 0;
  int64_t top_k = 0;
  double top_p = 1;

  int64_t size() const { return static_cast<int64_t>(weight.size()); }
};

/// From z = logits * scale; false where a logit or the largest z is not finite.
bool fill(Row<double>& row, const double* logits, double scale) {
  const int64_t n = row.size();
  if (!std::all_of(logits, logits + n, [](double x) { return std::isfinite(x); })) return false;
  const auto top = std::max_element(logits, logits + n) - logits;
  row.max = logits[top] * scale;
  row.top_block = top / Row<double>::kBlock;
  if (!std::isfinite(row.max)) return false;
  row.total = 0;
  for (size_t b = 0; b < row.block.size(); ++b) {
    const int64_t first = static_cast<int64_t>(b) * Row<double>::kBlock;
    row.block[b] = 0;
    for (int64_t i = first; i < std::min(first + Row<double>::kBlock, n); ++i)
      row.block[b] += row.weight[static_cast<size_t>(i)] = std::exp(logits[i] * scale - row.max);
    row.total += row.block[b];
  }
  row.log_sum = std::log(row.total);
  return true;
}
bool fill(Row<float>& row, const float* logits, float scale) {
  const cpu::TokenWeights t =
      cpu::kernels().token_weights(row.size(), logits, scale, row.weight.data(), row.block.data());
  if (!std::isfinite(t.max)) return false;
  row.max = t.max;
  row.log_sum = t.log_sum;
  row.top_block = t.block;
  row.total = 0;
  for (const float sum : row.block) row.total += static_cast<double>(sum);
  return true;
}

/// Tokens by falling weight, equal ones by index.
template <class T>
void sort_tokens(const Row<T>& row, std::vector<int64_t>& tokens) {
  const T* weight = row.weight.data();
  std::sort(tokens.begin(), tokens.end(), [weight](int64_t a, int64_t b) {
    return weight[a] > weight[b] || (weight[a] == weight[b] && a < b);
  });
}

/// What truncation leaves, by falling weight: the top_k heaviest, of these the shortest run from
/// the heaviest on whose share reaches top_p (Holtzman et al. 2020). Only tokens above a threshold
/// are sorted; it falls until they are enough.
template <class T>
void truncate(const Row<T>& row, std::vector<int64_t>& tokens) {
  const T* weight = row.weight.data();
  for (T threshold = T(1) / 16;; threshold /= 64) {
    const bool all = threshold < T(1e-36);
    double sum = 0;
    tokens.clear();
    for (size_t b = 0; b < row.block.size(); ++b) {
      if (!all && !(row.block[b] >= threshold)) continue;  // no weight is above its block's sum
      const int64_t first = static_cast<int64_t>(b) * Row<T>::kBlock;
      for (int64_t i = first; i < std::min(first + Row<T>::kBlock, row.size()); ++i) {
        if (!all && !(weight[i] >= threshold)) continue;
        tokens.push_back(i);
        sum += static_cast<double>(weight[i]);
      }
    }
    const bool enough = row.top_k > 0 ? static_cast<int64_t>(tokens.size()) >= row.top_k
                                      : sum >= row.top_p * row.total;
    if (enough || all) break;
  }
  sort_tokens(row, tokens);
  if (row.top_k > 0 && static_cast<int64_t>(tokens.size()) > row.top_k)
    tokens.resize(static_cast<size_t>(row.top_k));
  if (row.top_p >= 1) return;
  double total = row.total, sum = 0;
  if (row.top_k > 0) {
    total = 0;
    for (const int64_t token : tokens) total += static_cast<double>(weight[token]);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    sum += static_cast<double>(weight[tokens[i]]);
    if (sum >= row.top_p * total) return tokens.resize(i + 1);
  }
}

/// The first of the tokens given by body(i), i < count, at which the running sum of weights, from
/// `sum` on, exceeds `target`; weight 0 is never drawn, the last other one stands for rounding.
template <class T, class Token>
int64_t walk(const Row<T>& row, int64_t count, double sum, double target, Token&& token) {
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double weight = static_cast<double>(row.weight[static_cast<size_t>(token(i))]);
    if (!(weight > 0)) continue;
    sum += weight;
    last = token(i);
    if (sum > target) break;
  }
  return last;
}

/// Inverts the distribution function, tokens in order of index, at u: over the whole row by blocks,
/// whose sums are added in order, then inside one.
template <class T>
int64_t invert(const Row<T>& row, double u) {
  const double target = u * row.total;
  double before = 0;
  size_t block = 0;
  for (size_t b = 0; b < row.block.size(); ++b) {
    if (!(row.block[b] > 0)) continue;
    block = b;
    const double sum = before + static_cast<double>(row.block[b]);
    if (sum > target || b + 1 == row.block.size()) break;
    // The last block of any weight stands for rounding.
    if (std::none_of(row.block.begin() + static_cast<int64_t>(b) + 1, row.block.end(),
                     [](T s) { return s > 0; }))
      break;
    before = sum;
  }
  const auto first = static_cast<int64_t>(block) * Row<T>::kBlock;
  return walk(row, std::min(Row<T>::kBlock, row.size() - first), before, target,
              [first](int64_t i) { return first + i; });
}
/// The same over kept tokens.
template <class T>
int64_t invert(const Row<T>& row, std::vector<int64_t>& kept, double u) {
  std::sort(kept.begin(), kept.end());
  double total = 0;
  for (const int64_t token : kept)
    total += static_cast<double>(row.weight[static_cast<size_t>(token)]);
  return walk(row, static_cast<int64_t>(kept.size()), 0, u * total,
              [&](int64_t i) { return kept[static_cast<size_t>(i)]; });
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
[[noreturn]] void refuse_logits(const T* logits, int64_t n, int64_t row, double temperature) {
  for (int64_t i = 0; i < n; ++i)
    BESSEMER_CHECK(std::isfinite(logits[i]), NotFiniteError, "[sample_tokens] logits[", row, ", ",
                   i, "] is ", logits[i]);
  fail<NotFiniteError>("[sample_tokens] logits of row ", row, " over a temperature of ",
                       temperature, " are not finite");
}

template <class T>
struct Draw {
  int64_t token;
  T log_prob;
};
template <class T>
Draw<T> draw(const T* logits, int64_t r, const RowOptions& o, Row<T>& row,
             std::vector<int64_t>& tokens) {
  const int64_t n = row.size();
  const T scale = o.temperature == 0 ? T(1) : T(1) / static_cast<T>(o.temperature);
  if (!std::isfinite(scale) || !fill(row, logits, scale))
    refuse_logits(logits, n, r, o.temperature);
  row.top_k = o.top_k < n ? o.top_k : 0;
  row.top_p = o.top_p;
  int64_t token;
  if (o.temperature == 0) {
    const T* first = logits + row.top_block * Row<T>::kBlock;
    token = std::max_element(first, std::min(first + Row<T>::kBlock, logits + n)) - logits;
  } else if (row.top_k == 0 && row.top_p >= 1) {
    token = invert(row, o.uniform);
  } else {
    truncate(row, tokens);
    token = invert(row, tokens, o.uniform);
  }
  return {token, (logits[token] * scale - row.max) - row.log_sum};
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
    const auto some = [&](int64_t r, Row<T>& row, std::vector<int64_t>& tokens) {
      const RowOptions o{uniform.data<double>()[r], temperature.data<double>()[r],
                         top_p.data<double>()[r], top_k.data<int64_t>()[r]};
      check_options(o, r);
      const Draw<T> drawn = draw(logits.data<T>() + r * n, r, o, row, tokens);
      out[0].data<int64_t>()[r] = drawn.token;
      out[1].data<T>()[r] = drawn.log_prob;
    };
    constexpr int64_t kTogether = 4;  // rows a task
    cpu::pool().run((rows + kTogether - 1) / kTogether, [&](int64_t task) {
      // Kept by the thread: memory of this size would be mapped and cleared anew for every step.
      static thread_local Row<T> row;
      static thread_local std::vector<int64_t> tokens;
      row.weight.resize(static_cast<size_t>(n));
      row.block.resize(static_cast<size_t>((n + Row<T>::kBlock - 1) / Row<T>::kBlock));
      for (int64_t r = task * kTogether; r < std::min(rows, (task + 1) * kTogether); ++r)
        some(r, row, tokens);
    });
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
