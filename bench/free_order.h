// Reductions in the order that suits the machine best, several accumulators along what is summed:
// what bench_language_order holds the canonical order against. Included once an instruction set
// by language_order.cpp, which says what a vector is, hence no guard.

/// y[i] = x · w[i], rows of w as they are stored: four rows at a time, two accumulators each.
inline void product_row(int64_t n, int64_t k, const float* x, const float* w, float* y) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    V s[8];
    for (V& v : s) v = all(0);
    int64_t p = 0;
    for (; p + 2 * kWidth <= k; p += 2 * kWidth) {
      const V a = load(x + p), b = load(x + p + kWidth);
      for (int r = 0; r < 4; ++r) {
        s[2 * r] = fma(a, load(w + (i + r) * k + p), s[2 * r]);
        s[2 * r + 1] = fma(b, load(w + (i + r) * k + p + kWidth), s[2 * r + 1]);
      }
    }
    for (int r = 0; r < 4; ++r) {
      float sum = total(s[2 * r] + s[2 * r + 1]);
      for (int64_t q = p; q < k; ++q) sum += x[q] * w[(i + r) * k + q];
      y[i + r] = sum;
    }
  }
  for (; i < n; ++i) {
    V s[4] = {all(0), all(0), all(0), all(0)};
    int64_t p = 0;
    for (; p + 4 * kWidth <= k; p += 4 * kWidth)
      for (int r = 0; r < 4; ++r)
        s[r] = fma(load(x + p + r * kWidth), load(w + i * k + p + r * kWidth), s[r]);
    float sum = total((s[0] + s[1]) + (s[2] + s[3]));
    for (; p < k; ++p) sum += x[p] * w[i * k + p];
    y[i] = sum;
  }
}

inline float row_sum(int64_t n, const float* x) {
  V s[4] = {all(0), all(0), all(0), all(0)};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int r = 0; r < 4; ++r) s[r] = s[r] + load(x + i + r * kWidth);
  float sum = total((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; ++i) sum += x[i];
  return sum;
}

inline void rms_norm_row(int64_t n, const float* x, const float* weight, float eps, float* out) {
  V s[4] = {all(0), all(0), all(0), all(0)};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int r = 0; r < 4; ++r) {
      const V a = load(x + i + r * kWidth);
      s[r] = fma(a, a, s[r]);
    }
  float sum = total((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1 / std::sqrt(sum / static_cast<float>(n) + eps);
  const V scales = all(scale);
  for (i = 0; i + kWidth <= n; i += kWidth) store(out + i, load(x + i) * scales * load(weight + i));
  for (; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

/// 2^(x log2 e) by a polynomial of degree 6; relative error below 1e-6.
inline V exponential(V x) {
  const V scaled = x * all(1.44269504f), whole = rounded(scaled);
  const V f = (scaled - whole) * all(0.693147181f);
  V y = all(1.0f / 720);
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = fma(y, f, all(c));
  return times_power_of_two(y, whole);
}

/// n a multiple of the vector's width; elements from `seen` on count as absent.
inline void softmax_row(int64_t n, int64_t seen, const float* x, float* out) {
  V high[4] = {all(-INFINITY), all(-INFINITY), all(-INFINITY), all(-INFINITY)};
  int64_t i = 0;
  for (; i + 4 * kWidth <= seen; i += 4 * kWidth)
    for (int r = 0; r < 4; ++r) high[r] = larger(high[r], load(x + i + r * kWidth));
  float most = highest(larger(larger(high[0], high[1]), larger(high[2], high[3])));
  for (; i < seen; ++i) most = std::max(most, x[i]);
  const V shift = all(most);
  V s[4] = {all(0), all(0), all(0), all(0)};
  for (i = 0; i + 4 * kWidth <= seen; i += 4 * kWidth)
    for (int r = 0; r < 4; ++r) {
      const V e = exponential(larger(load(x + i + r * kWidth) - shift, all(-87.0f)));
      store(out + i + r * kWidth, e);
      s[r] = s[r] + e;
    }
  for (; i < n; i += kWidth) store(out + i, exponential(larger(load(x + i) - shift, all(-87.0f))));
  for (i = std::min(seen, n); i < n; ++i) out[i] = 0;
  float sum = total((s[0] + s[1]) + (s[2] + s[3]));
  for (i = seen / (4 * kWidth) * (4 * kWidth); i < seen; ++i) sum += out[i];
  const V scale = all(1 / sum);
  for (i = 0; i < n; i += kWidth) store(out + i, load(out + i) * scale);
}

inline const FreeOrder kFreeOrder = {product_row, row_sum, rms_norm_row, softmax_row};
