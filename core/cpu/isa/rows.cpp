// Kernels over rows, in canonical order: element j of a row belongs to lane j mod 16, each lane is
// one chain in ascending order, and lanes are joined by a fixed tree. Rows of at most 16 elements
// are worked on 16 at a time, with one vector a column: the same operations on the same numbers,
// other layout.
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/row.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int64_t kNarrow = 16;

// ---- rows of at most 16 elements ----------------------------------------------------------------

/// Column j of 16 rows as a vector; lanes of missing rows hold 0.
struct Columns {
  alignas(64) float at[16][16];
};
/// The number of columns: a constant for the widths of action heads, so that loops over it unroll.
template <int kN>
struct Width {
  static constexpr bool kFixed = true;
  constexpr operator int64_t() const { return kN; }
};
struct AnyWidth {
  static constexpr bool kFixed = false;
  int64_t n;
  constexpr operator int64_t() const { return n; }
};

template <class N>
BESSEMER_INLINE void columns_load(Columns& c, const float* x, int64_t row_stride, int64_t rows,
                                  N n) {
  if (N::kFixed && rows == 16 && row_stride == n) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t r = 0; r < 16; ++r) c.at[j][r] = x[r * n + j];
    }
    return;
  }
  if (rows < 16) __builtin_memset(&c, 0, static_cast<size_t>(n) * sizeof c.at[0]);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) c.at[j][r] = x[r * row_stride + j];
  }
}
template <class N>
BESSEMER_INLINE void columns_store(const Columns& c, float* out, int64_t rows, N n) {
  if (N::kFixed && rows == 16) {
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t j = 0; j < n; ++j) out[r * n + j] = c.at[j][r];
    }
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j) out[r * n + j] = c.at[j][r];
  }
}
/// The tree of lanes_sum and lanes_max over columns, of which those from n on are `absent`.
template <class N, class Join>
BESSEMER_INLINE Lanes columns_join(const Columns& c, N n, float absent, Join join) {
  Lanes s[16];
#pragma GCC unroll 16
  for (int64_t j = 0; j < 16; ++j) s[j] = j < n ? lanes_load(c.at[j]) : lanes_all(absent);
#pragma GCC unroll 8
  for (int l = 0; l < 8; ++l) s[l] = join(s[l], s[l + 8]);
#pragma GCC unroll 4
  for (int l = 0; l < 4; ++l) s[l] = join(s[l], s[l + 4]);
  return join(join(s[0], s[2]), join(s[1], s[3]));
}
template <class N>
BESSEMER_INLINE Lanes columns_sum(const Columns& c, N n) {
  return columns_join(c, n, 0.0f, [](const Lanes& a, const Lanes& b) { return a + b; });
}
template <class N>
BESSEMER_INLINE Lanes columns_max(const Columns& c, N n) {
  return columns_join(c, n, -scalar::kInfinity,
                      [](const Lanes& a, const Lanes& b) { return lanes_max(a, b); });
}

/// Elements of the first n columns (n * 16 floats) through a scalar body. The count is hidden, so
/// that the loop is vectorised and not unrolled into scalars first.
template <class Body>
BESSEMER_INLINE void columns_map(float* x, int64_t n, Body body) {
  int64_t count = n * 16;
  asm("" : "+r"(count));
  count &= ~int64_t{15};
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) x[i] = body(x[i]);
}
BESSEMER_INLINE float body_exp(float x) { return scalar::exp(x); }
BESSEMER_INLINE float body_log(float x) { return scalar::log(x); }

/// Calls body(width, first row, count <= 16) over all rows of n <= 16 elements.
template <class Body>
BESSEMER_INLINE void each_sixteen(int64_t rows, int64_t n, Body body) {
  const auto each = [&](auto width) {
    for (int64_t first = 0; first < rows; first += 16) {
      body(width, first, rows - first < 16 ? rows - first : 16);
    }
  };
  switch (n) {
    case 2:
      return each(Width<2>());
    case 3:
      return each(Width<3>());
    case 4:
      return each(Width<4>());
    case 6:
      return each(Width<6>());
    default:
      return each(AnyWidth{n});
  }
}

// ---- the table's functions ----------------------------------------------------------------------

void sum_rows(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out) {
  if (n > kNarrow) {
    for (int64_t r = 0; r < rows; ++r) out[r] = row_sum(n, x + r * row_stride);
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns c;
    alignas(64) float sum[16];
    columns_load(c, x + first * row_stride, row_stride, count, width);
    // Lanes start at 0, so that a sum of -0 is 0 for every n.
    for (int64_t j = 0; j < width; ++j) lanes_store(c.at[j], lanes_load(c.at[j]) + lanes_all(0.0f));
    lanes_store(sum, columns_sum(c, width));
    for (int64_t r = 0; r < count; ++r) out[first + r] = sum[r];
  });
}

void max_rows(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out) {
  if (n > kNarrow) {
    for (int64_t r = 0; r < rows; ++r) out[r] = row_max(n, x + r * row_stride);
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns c;
    alignas(64) float max[16];
    columns_load(c, x + first * row_stride, row_stride, count, width);
    lanes_store(max, columns_max(c, width));
    for (int64_t r = 0; r < count; ++r) out[first + r] = max[r];
  });
}

void sum_columns(int64_t rows, int64_t n, const float* x, int64_t row_stride, float* out) {
  constexpr int64_t kRows = 256, kColumns = 64;
  alignas(64) float chain[kColumns];
  for (int64_t first = 0; first < n; first += kColumns) {
    const int64_t columns = n - first < kColumns ? n - first : kColumns;
    for (int64_t j = 0; j < columns; ++j) out[first + j] = 0.0f;
    for (int64_t block = 0; block < rows; block += kRows) {
      const int64_t end = rows < block + kRows ? rows : block + kRows;
      for (int64_t j = 0; j < kColumns; ++j) chain[j] = 0.0f;
      if (columns == kColumns) {
        Lanes s0 = lanes_all(0.0f), s1 = s0, s2 = s0, s3 = s0;
        for (int64_t r = block; r < end; ++r) {
          const float* row = x + r * row_stride + first;
          s0 = s0 + lanes_load(row);
          s1 = s1 + lanes_load(row + 16);
          s2 = s2 + lanes_load(row + 32);
          s3 = s3 + lanes_load(row + 48);
        }
        lanes_store(chain, s0);
        lanes_store(chain + 16, s1);
        lanes_store(chain + 32, s2);
        lanes_store(chain + 48, s3);
      } else {
        for (int64_t r = block; r < end; ++r) {
          const float* row = x + r * row_stride + first;
          for (int64_t j = 0; j < columns; ++j) chain[j] += row[j];
        }
      }
      for (int64_t j = 0; j < columns; ++j) out[first + j] += chain[j];
    }
  }
}

void softmax_rows(int64_t rows, int64_t n, const float* x, float* out) {
  if (n > kNarrow) {
    for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
      const float max = row_max(n, x);
      BESSEMER_ROW_LOOP(n, out, x, v, scalar::exp(v - max));
      const float scale = 1.0f / row_sum(n, out);
      for (int64_t i = 0; i < n; ++i) out[i] *= scale;
    }
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns c;
    columns_load(c, x + first * width, width, count, width);
    const Lanes max = columns_max(c, width);
    for (int64_t j = 0; j < width; ++j) lanes_store(c.at[j], lanes_load(c.at[j]) - max);
    columns_map(c.at[0], width, body_exp);
    const Lanes scale = lanes_all(1.0f) / columns_sum(c, width);
    for (int64_t j = 0; j < width; ++j) lanes_store(c.at[j], lanes_load(c.at[j]) * scale);
    columns_store(c, out + first * width, count, width);
  });
}

void log_softmax_rows(int64_t rows, int64_t n, const float* x, float* out) {
  if (n > kNarrow) {
    for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
      const float max = row_max(n, x), log_sum = scalar::log(row_sum_exp(n, x, max));
      for (int64_t i = 0; i < n; ++i) out[i] = (x[i] - max) - log_sum;
    }
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns c, e;
    alignas(64) float log_sum[16];
    columns_load(c, x + first * width, width, count, width);
    const Lanes max = columns_max(c, width);
    for (int64_t j = 0; j < width; ++j) {
      const Lanes shifted = lanes_load(c.at[j]) - max;
      lanes_store(c.at[j], shifted);
      lanes_store(e.at[j], shifted);
    }
    columns_map(e.at[0], width, body_exp);
    lanes_store(log_sum, columns_sum(e, width));
    columns_map(log_sum, 1, body_log);
    const Lanes shift = lanes_load(log_sum);
    for (int64_t j = 0; j < width; ++j) lanes_store(c.at[j], lanes_load(c.at[j]) - shift);
    columns_store(c, out + first * width, count, width);
  });
}

void softmax_backward_rows(int64_t rows, int64_t n, const float* y, const float* g, float* dx) {
  if (n > kNarrow) {
    for (int64_t r = 0; r < rows; ++r, y += n, g += n, dx += n) {
      const float dot = row_dot(n, g, y);
      for (int64_t i = 0; i < n; ++i) dx[i] = y[i] * (g[i] - dot);
    }
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns p, q, product;
    columns_load(p, y + first * width, width, count, width);
    columns_load(q, g + first * width, width, count, width);
    const Lanes zero = lanes_all(0.0f);
    for (int64_t j = 0; j < width; ++j) {
      lanes_store(product.at[j], lanes_fma(lanes_load(q.at[j]), lanes_load(p.at[j]), zero));
    }
    const Lanes dot = columns_sum(product, width);
    for (int64_t j = 0; j < width; ++j) {
      lanes_store(p.at[j], lanes_load(p.at[j]) * (lanes_load(q.at[j]) - dot));
    }
    columns_store(p, dx + first * width, count, width);
  });
}

void log_softmax_backward_rows(int64_t rows, int64_t n, const float* y, const float* g, float* dx) {
  if (n > kNarrow) {
    alignas(64) float block[256];
    for (int64_t r = 0; r < rows; ++r, y += n, g += n, dx += n) {
      const float sum = row_sum(n, g);
      for (int64_t first = 0; first < n; first += 256) {
        const int64_t count = n - first < 256 ? n - first : 256;
        BESSEMER_ROW_LOOP(count, block, y + first, v, scalar::exp(v));
        for (int64_t i = 0; i < count; ++i) {
          dx[first + i] = scalar::fma(-block[i], sum, g[first + i]);
        }
      }
    }
    return;
  }
  each_sixteen(rows, n, [&](auto width, int64_t first, int64_t count) {
    Columns p, q;
    columns_load(p, y + first * width, width, count, width);
    columns_load(q, g + first * width, width, count, width);
    const Lanes zero = lanes_all(0.0f);
    for (int64_t j = 0; j < width; ++j) lanes_store(q.at[j], lanes_load(q.at[j]) + zero);
    const Lanes negative = lanes_all(-1.0f) * columns_sum(q, width);
    columns_map(p.at[0], width, body_exp);
    for (int64_t j = 0; j < width; ++j) {
      lanes_store(p.at[j], lanes_fma(lanes_load(p.at[j]), negative, lanes_load(q.at[j])));
    }
    columns_store(p, dx + first * width, count, width);
  });
}

/// A square of a float is exact in double, so each lane's chain is the same with and without FMA.
double sum_squares(int64_t n, const float* x) {
  alignas(64) double lane[16] = {};
  const int64_t main = n & ~int64_t{15};
  typedef double Four __attribute__((vector_size(32)));
  typedef float FourFloats __attribute__((vector_size(16)));
  Four s0{}, s1{}, s2{}, s3{};
  for (int64_t i = 0; i < main; i += 16) {
    FourFloats f[4];
    __builtin_memcpy(f, x + i, sizeof f);
    const Four d0 = __builtin_convertvector(f[0], Four), d1 = __builtin_convertvector(f[1], Four);
    const Four d2 = __builtin_convertvector(f[2], Four), d3 = __builtin_convertvector(f[3], Four);
    s0 += d0 * d0;
    s1 += d1 * d1;
    s2 += d2 * d2;
    s3 += d3 * d3;
  }
  __builtin_memcpy(lane, &s0, sizeof s0);
  __builtin_memcpy(lane + 4, &s1, sizeof s1);
  __builtin_memcpy(lane + 8, &s2, sizeof s2);
  __builtin_memcpy(lane + 12, &s3, sizeof s3);
  for (int64_t i = main; i < n; ++i) lane[i - main] += static_cast<double>(x[i]) * x[i];
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  }
  return lane[0];
}

void activation_backward(Activation activation, int64_t n, const float* y, const float* g,
                         float* dx) {
  switch (activation) {
    case Activation::relu:
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) {
        const float slope = g[i];
        dx[i] = y[i] > 0.0f ? slope : 0.0f;
      }
      return;
    case Activation::tanh:
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) dx[i] = g[i] * scalar::fma(-y[i], y[i], 1.0f);
      return;
    case Activation::sigmoid:
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) dx[i] = g[i] * (y[i] * (1.0f - y[i]));
      return;
    default:
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) dx[i] = g[i];
      return;
  }
}

void adam(const AdamArgs& args) {
  const float decay = 1.0f - args.lr * args.weight_decay;
  const float step = args.lr / args.correction1;
  const float scale2 = 1.0f / scalar::sqrt(args.correction2);
  const float b1 = args.beta1, b2 = args.beta2, eps = args.eps, scale = args.grad_scale;
  const float c1 = 1.0f - b1, c2 = 1.0f - b2;
  float *p = args.p, *m = args.m, *v = args.v;
  const float* grad = args.g;
#pragma GCC ivdep
  for (int64_t i = 0; i < args.n; ++i) {
    const float g = grad[i] * scale;
    const float m1 = scalar::fma(c1, g, b1 * m[i]);
    const float v1 = scalar::fma(c2 * g, g, b2 * v[i]);
    m[i] = m1;
    v[i] = v1;
    const float ratio = m1 / scalar::fma(scalar::sqrt(v1), scale2, eps);
    p[i] = scalar::fma(-step, ratio, p[i] * decay);
  }
}

}  // namespace

void fill_rows(KernelTable& table) {
  table.sum_rows = sum_rows;
  table.sum_columns = sum_columns;
  table.max_rows = max_rows;
  table.softmax_rows = softmax_rows;
  table.log_softmax_rows = log_softmax_rows;
  table.softmax_backward_rows = softmax_backward_rows;
  table.log_softmax_backward_rows = log_softmax_backward_rows;
  table.sum_squares = sum_squares;
  table.activation_backward = activation_backward;
  table.adam = adam;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
