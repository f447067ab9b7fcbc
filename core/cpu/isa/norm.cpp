// Normalisation over rows and its gradients, rotary positions, the gated activation, each row in
// canonical order. Rows are worked on one by one: four at a time, to hide the latency of a row's
// one chain of lanes, fell from 100 % of a copy to 70, because rows of 4 KiB alias in L1.
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/row.h"
#include "core/ops/scalar.h"

namespace bessemer::cpu::BESSEMER_ISA {

namespace {

/// 16 columns of a row, or its last `count`, padded with zeros.
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

// ---- rms_norm: y = x r w, r = 1 / sqrt(mean(x^2) + eps) ----

void rms_norm_rows(int64_t rows, int64_t n, const float* x, const float* weight, float eps,
                   float* out) {
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    Lanes square = lanes_all(0.0f);
    each_lanes(n, [&](const Columns& c) {
      const Lanes v = load(x, c);
      square = lanes_fma(v, v, square);
    });
    const Lanes scale =
        lanes_all(1.0f / scalar::sqrt(lanes_sum(square) / static_cast<float>(n) + eps));
    each_lanes(n, [&](const Columns& c) {
      const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
      store(out, c, load(x, c) * scale * w);
    });
  }
}

/// dx = r (gw - x r^2 mean(gw x)); dweight = sum over rows of g x r, one chain down the rows.
BESSEMER_INLINE void rms_norm_backward_row(int64_t n, const float* x, const float* weight,
                                           const float* g, float eps, float* dx, float* dweight) {
  Lanes square = lanes_all(0.0f), dot = square;
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f), v = load(x, c);
    square = lanes_fma(v, v, square);
    dot = lanes_fma(load(g, c) * w, v, dot);
  });
  const float size = static_cast<float>(n);
  const float r = 1.0f / scalar::sqrt(lanes_sum(square) / size + eps);
  const Lanes scale = lanes_all(r), back = lanes_all(-(r * r * r * (lanes_sum(dot) / size)));
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    const Lanes v = load(x, c), slope = load(g, c);
    if (dx) store(dx, c, lanes_fma(v, back, slope * w * scale));
    if (dweight) store(dweight, c, lanes_fma(slope, v * scale, load(dweight, c)));
  });
}

void rms_norm_backward_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                            const float* g, float eps, float* dx, float* dweight) {
  for (int64_t j = 0; dweight && j < n; ++j) dweight[j] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    rms_norm_backward_row(n, x + r * n, weight, g + r * n, eps, dx ? dx + r * n : nullptr, dweight);
  }
}

// ---- layer_norm: y = (x - mean) r w + b ----

struct Moments {
  float mean, rstd;
};
BESSEMER_INLINE Moments moments(int64_t n, const float* x, float eps) {
  const float size = static_cast<float>(n), mean = row_sum(n, x) / size;
  Lanes square = lanes_all(0.0f);
  each_lanes(n, [&](const Columns& c) {
    const Lanes v = c.count == 16 ? lanes_load(x + c.at) : lanes_load_part(x + c.at, c.count, mean);
    const Lanes d = v - lanes_all(mean);
    square = lanes_fma(d, d, square);
  });
  return {mean, 1.0f / scalar::sqrt(lanes_sum(square) / size + eps)};
}

void layer_norm_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                     const float* bias, float eps, float* out, float* mean_out, float* rstd_out) {
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    const Moments m = moments(n, x, eps);
    each_lanes(n, [&](const Columns& c) {
      const Lanes normal = (load(x, c) - lanes_all(m.mean)) * lanes_all(m.rstd);
      if (weight && bias) return store(out, c, lanes_fma(normal, load(weight, c), load(bias, c)));
      if (weight) return store(out, c, normal * load(weight, c));
      store(out, c, bias ? normal + load(bias, c) : normal);
    });
    if (mean_out) mean_out[r] = m.mean;
    if (rstd_out) rstd_out[r] = m.rstd;
  }
}

/// With normal = (x - mean) r: dx = r (gw - mean(gw) - normal mean(gw normal)), dweight and dbias
/// sums over rows of g normal and g, chains down the rows. Four passes over a row leave memory idle
/// between rows: the next row is asked for meanwhile, what is written of it as well.
BESSEMER_INLINE void layer_norm_backward_row(int64_t n, const float* x, const float* weight,
                                             const float* g, float eps, float* dx, float* dweight,
                                             float* dbias) {
  const Moments m = moments(n, x, eps);
  const auto normal = [&](const Columns& c) {
    return (load(x, c) - lanes_all(m.mean)) * lanes_all(m.rstd);
  };
  Lanes sum = lanes_all(0.0f), dot = sum;
  each_lanes(n, [&](const Columns& c) {
    const Lanes gw = load(g, c) * (weight ? load(weight, c) : lanes_all(1.0f));
    sum = sum + gw;
    dot = lanes_fma(gw, normal(c), dot);
    __builtin_prefetch(x + n + c.at);
  });
  const float size = static_cast<float>(n);
  const Lanes mean_g = lanes_all(lanes_sum(sum) / size);
  const Lanes mean_dot = lanes_all(-(lanes_sum(dot) / size));
  each_lanes(n, [&](const Columns& c) {
    const Lanes w = weight ? load(weight, c) : lanes_all(1.0f);
    const Lanes slope = load(g, c), y = normal(c);
    __builtin_prefetch(g + n + c.at);
    if (dx) __builtin_prefetch(dx + n + c.at, 1);
    if (dx) store(dx, c, lanes_all(m.rstd) * lanes_fma(y, mean_dot, slope * w - mean_g));
    if (dweight) store(dweight, c, lanes_fma(slope, y, load(dweight, c)));
    if (dbias) store(dbias, c, load(dbias, c) + slope);
  });
}

void layer_norm_backward_rows(int64_t rows, int64_t n, const float* x, const float* weight,
                              const float* g, float eps, float* dx, float* dweight, float* dbias) {
  for (int64_t j = 0; dweight && j < n; ++j) dweight[j] = 0.0f;
  for (int64_t j = 0; dbias && j < n; ++j) dbias[j] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    layer_norm_backward_row(n, x + r * n, weight, g + r * n, eps, dx ? dx + r * n : nullptr,
                            dweight, dbias);
  }
}

// ---- rotary positions ----

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

// ---- silu(gate) * up ----

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
