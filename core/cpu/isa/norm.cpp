// Normalisation over rows and its gradients, rotary positions, the gated activation. Several rows
// are worked on at once, because one row's sum is a single chain of lanes; each row's order of
// additions is the canonical one.
#include <type_traits>

#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/row.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

constexpr int kTogether = 4;  // rows

/// body(lanes of every row at column i) for whole lanes, then once for the padded rest.
struct Columns {
  int64_t at, count;  // count < 16: the row's end
};
BESSEMER_INLINE Lanes load(const float* p, const Columns& c) {
  return c.count == 16 ? lanes_load(p + c.at) : lanes_load_part(p + c.at, c.count, 0.0f);
}
BESSEMER_INLINE void store(float* p, const Columns& c, const Lanes& x) {
  if (c.count == 16) return lanes_store(p + c.at, x);
  alignas(64) float block[16];
  lanes_store(block, x);
  for (int64_t i = 0; i < c.count; ++i) p[c.at + i] = block[i];
}
template <class Body>
BESSEMER_INLINE void each_lanes(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(Columns{i, 16});
  if (i < n) body(Columns{i, n - i});
}
/// body(constant number of rows, first row) over all rows.
template <class Body>
BESSEMER_INLINE void each_rows(int64_t rows, Body body) {
  int64_t r = 0;
  for (; r + kTogether <= rows; r += kTogether) {
    body(std::integral_constant<int, kTogether>(), r);
  }
  for (; r < rows; ++r) body(std::integral_constant<int, 1>(), r);
}
#define BESSEMER_EACH_ROW _Pragma("GCC unroll 4") for (int q = 0; q < kRows; ++q)

// ---- rms_norm: y = x r w, r = 1 / sqrt(mean(x^2) + eps)
// ------------------------------------------

template <int kRows>
BESSEMER_INLINE void rms_norm_some(int64_t n, const float* x, const float* weight, float eps,
                                   float* out) {
  Lanes square[kRows];
  BESSEMER_EACH_ROW square[q] = lanes_all(0.0f);
  each_lanes(n, [&](const Columns& c) {
    BESSEMER_EACH_ROW {
      const Lanes v = load(x + q * n, c);
      square[q] = lanes_fma(v, v, square[q]);
    }
  });
  Lanes scale[kRows];
  BESSEMER_EACH_ROW {
    scale[q] = lanes_all(1.0f / scalar::sqrt(lanes_sum(square[q]) / static_cast<float>(n) + eps));
  }
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    BESSEMER_EACH_ROW store(out + q * n, c, load(x + q * n, c) * scale[q] * w);
  });
}

void rms_norm_rows(int64_t rows, int64_t n, const float* x, const float* weight, float eps,
                   float* out) {
  each_rows(rows, [&](auto count, int64_t r) {
    rms_norm_some<decltype(count)::value>(n, x + r * n, weight, eps, out + r * n);
  });
}

/// dx = r (gw - x r^2 mean(gw x)); dweight = sum over rows of g x r, one chain down the rows.
template <int kRows>
BESSEMER_INLINE void rms_norm_backward_some(int64_t n, const float* x, const float* weight,
                                            const float* g, float eps, float* dx, float* dweight) {
  Lanes square[kRows], dot[kRows];
  BESSEMER_EACH_ROW square[q] = dot[q] = lanes_all(0.0f);
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    BESSEMER_EACH_ROW {
      const Lanes v = load(x + q * n, c);
      square[q] = lanes_fma(v, v, square[q]);
      dot[q] = lanes_fma(load(g + q * n, c) * w, v, dot[q]);
    }
  });
  const float size = static_cast<float>(n);
  Lanes scale[kRows], back[kRows];
  BESSEMER_EACH_ROW {
    const float r = 1.0f / scalar::sqrt(lanes_sum(square[q]) / size + eps);
    scale[q] = lanes_all(r);
    back[q] = lanes_all(-(r * r * r * (lanes_sum(dot[q]) / size)));
  }
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    Lanes sum = dweight ? load(dweight, c) : lanes_all(0.0f);
    BESSEMER_EACH_ROW {
      const Lanes v = load(x + q * n, c), slope = load(g + q * n, c);
      sum = lanes_fma(slope, v * scale[q], sum);
      if (dx) store(dx + q * n, c, lanes_fma(v, back[q], slope * w * scale[q]));
    }
    if (dweight) store(dweight, c, sum);
  });
}

void rms_norm_backward_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                            const float* g, float eps, float* dx, float* dweight) {
  for (int64_t j = 0; dweight && j < n; ++j) dweight[j] = 0.0f;
  each_rows(rows, [&](auto count, int64_t r) {
    rms_norm_backward_some<decltype(count)::value>(n, x + r * n, weight, g + r * n, eps,
                                                   dx ? dx + r * n : nullptr, dweight);
  });
}

// ---- layer_norm: y = (x - mean) r w + b
// ----------------------------------------------------------

struct Moments {
  float mean, rstd;
};
template <int kRows>
BESSEMER_INLINE void moments(int64_t n, const float* x, float eps, Moments* out) {
  const float size = static_cast<float>(n);
  Lanes sum[kRows], mean[kRows], square[kRows];
  BESSEMER_EACH_ROW sum[q] = square[q] = lanes_all(0.0f);
  each_lanes(n, [&](const Columns& c) { BESSEMER_EACH_ROW sum[q] = sum[q] + load(x + q * n, c); });
  BESSEMER_EACH_ROW {
    out[q].mean = lanes_sum(sum[q]) / size;
    mean[q] = lanes_all(out[q].mean);
  }
  each_lanes(n, [&](const Columns& c) {
    BESSEMER_EACH_ROW {
      const Lanes v = c.count == 16 ? lanes_load(x + q * n + c.at)
                                    : lanes_load_part(x + q * n + c.at, c.count, out[q].mean);
      const Lanes d = v - mean[q];
      square[q] = lanes_fma(d, d, square[q]);
    }
  });
  BESSEMER_EACH_ROW out[q].rstd = 1.0f / scalar::sqrt(lanes_sum(square[q]) / size + eps);
}

template <int kRows>
BESSEMER_INLINE void layer_norm_some(int64_t n, const float* x, const float* weight,
                                     const float* bias, float eps, float* out, Moments* m) {
  moments<kRows>(n, x, eps, m);
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    const Lanes b = bias ? load(bias, c) : lanes_all(0.0f);
    BESSEMER_EACH_ROW {
      const Lanes normal = (load(x + q * n, c) - lanes_all(m[q].mean)) * lanes_all(m[q].rstd);
      Lanes y = weight && bias ? lanes_fma(normal, w, b) : normal;
      if (weight && !bias) y = normal * w;
      if (bias && !weight) y = normal + b;
      store(out + q * n, c, y);
    }
  });
}

void layer_norm_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                     const float* bias, float eps, float* out, float* mean_out, float* rstd_out) {
  each_rows(rows, [&](auto count, int64_t r) {
    constexpr int kRows = decltype(count)::value;
    Moments m[kRows];
    layer_norm_some<kRows>(n, x + r * n, weight, bias, eps, out + r * n, m);
    BESSEMER_EACH_ROW {
      if (mean_out) mean_out[r + q] = m[q].mean;
      if (rstd_out) rstd_out[r + q] = m[q].rstd;
    }
  });
}

/// With normal = (x - mean) r: dx = r (gw - mean(gw) - normal mean(gw normal)), dweight and dbias
/// sums over rows of g normal and g, chains down the rows.
template <int kRows>
BESSEMER_INLINE void layer_norm_backward_some(int64_t n, const float* x, const float* weight,
                                              const float* g, float eps, float* dx, float* dweight,
                                              float* dbias) {
  Moments m[kRows];
  moments<kRows>(n, x, eps, m);
  Lanes sum[kRows], dot[kRows];
  BESSEMER_EACH_ROW sum[q] = dot[q] = lanes_all(0.0f);
  const auto normal = [&](int q, const Columns& c) {
    return (load(x + q * n, c) - lanes_all(m[q].mean)) * lanes_all(m[q].rstd);
  };
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    BESSEMER_EACH_ROW {
      const Lanes gw = load(g + q * n, c) * w;
      sum[q] = sum[q] + gw;
      dot[q] = lanes_fma(gw, normal(q, c), dot[q]);
    }
  });
  const float size = static_cast<float>(n);
  Lanes mean_g[kRows], mean_dot[kRows];
  BESSEMER_EACH_ROW {
    mean_g[q] = lanes_all(lanes_sum(sum[q]) / size);
    mean_dot[q] = lanes_all(-(lanes_sum(dot[q]) / size));
  }
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    Lanes dw = dweight ? load(dweight, c) : lanes_all(0.0f);
    Lanes db = dbias ? load(dbias, c) : lanes_all(0.0f);
    BESSEMER_EACH_ROW {
      const Lanes slope = load(g + q * n, c), y = normal(q, c);
      dw = lanes_fma(slope, y, dw);
      db = db + slope;
      if (dx) {
        store(dx + q * n, c,
              lanes_all(m[q].rstd) * lanes_fma(y, mean_dot[q], slope * w - mean_g[q]));
      }
    }
    if (dweight) store(dweight, c, dw);
    if (dbias) store(dbias, c, db);
  });
}

void layer_norm_backward_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                              const float* g, float eps, float* dx, float* dweight, float* dbias) {
  for (int64_t j = 0; dweight && j < n; ++j) dweight[j] = 0.0f;
  for (int64_t j = 0; dbias && j < n; ++j) dbias[j] = 0.0f;
  each_rows(rows, [&](auto count, int64_t r) {
    layer_norm_backward_some<decltype(count)::value>(n, x + r * n, weight, g + r * n, eps,
                                                     dx ? dx + r * n : nullptr, dweight, dbias);
  });
}

// ---- rotary positions
// ----------------------------------------------------------------------------

void rope_rows(int64_t tokens, int64_t heads, int64_t half, const float* x, const float* angles,
               const int64_t* places, float sign, float* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    const float* cosine = angles + places[t] * 2 * half;
    const float* sine = cosine + half;
    for (int64_t h = 0; h < heads; ++h, x += 2 * half, out += 2 * half) {
#pragma GCC ivdep
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[half + i], c = cosine[i], s = sine[i] * sign;
        out[i] = scalar::fma(a, c, -(b * s));
        out[half + i] = scalar::fma(b, c, a * s);
      }
    }
  }
}

// ---- silu(gate) * up
// -----------------------------------------------------------------------------

void swiglu(int64_t n, const float* gate, const float* up, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = scalar::silu(gate[i]) * up[i];
}

void swiglu_backward(int64_t n, const float* gate, const float* up, const float* g, float* dgate,
                     float* dup) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    // Far below 0 the sigmoid is 0 and its product with an infinite gate would be NaN.
    const float x = gate[i] < -120.0f ? -120.0f : gate[i], s = scalar::sigmoid(x);
    const float slope = s * scalar::fma(x, 1.0f - s, 1.0f), u = up[i], d = g[i];
    dgate[i] = d * u * slope;
    dup[i] = d * (x * s);
  }
}

}  // namespace

void fill_norms(KernelTable& table) {
  table.rms_norm_rows = rms_norm_rows;
  table.rms_norm_backward_rows = rms_norm_backward_rows;
  table.layer_norm_rows = layer_norm_rows;
  table.layer_norm_backward_rows = layer_norm_backward_rows;
  table.rope_rows = rope_rows;
  table.swiglu = swiglu;
  table.swiglu_backward = swiglu_backward;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
