// Rows of a decoder over packed tokens: embedding, rotary positions, the gated feed-forward.
#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <vector>

#include "core/ops/family.h"

namespace bessemer {

namespace {

// --- embedding ----------------------------------------------------------------------------------
void embedding_cpu(const Tensor* const* in, const Attrs&, Tensor* out) {
  const Tensor weight = dense(*in[0]), ids = dense(*in[1]);
  Shape shape = ids.sizes();
  shape.push(weight.size(1));
  *out = Tensor::empty(shape, weight.dtype());
  check_tokens("embedding", ids, weight.size(0));
  const size_t row = static_cast<size_t>(weight.size(1)) * dtype_size(weight.dtype());
  if (row == 0) return;
  const int64_t* id = ids.data<int64_t>();
  char* to = bytes_of_output(*out);
  for (int64_t i = 0; i < ids.numel(); ++i, to += row)
    std::memcpy(to, bytes_of(weight) + static_cast<size_t>(id[i]) * row, row);
}

void embedding_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  const Tensor &weight = *in[0], &ids = *in[1];
  Shape shape = ids.sizes();
  shape.push(weight.size(1));
  *out = reshape(index_select(weight, 0, reshape(ids, {-1})), shape);
}

/// Rows of g added at their ids, in token order.
void embedding_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &ids = c.in[1], &g = c.grad[0];
  const int64_t n = ids.numel(), width = c.in_shapes[0].dim[1];
  const Tensor rows = reshape(g, {n, width});
  grads[0] = scatter_add(Tensor::zeros(c.in_shapes[0], g.dtype()), 0,
                         expand(reshape(ids, {n, 1}), rows.sizes()), rows);
}

// --- rope: Su et al. 2021, in the half-split form of Llama's checkpoints ------------------------
struct RopeAttrs {
  double theta;
  int64_t inverse;
};

/// cos and sin of the angles, each [T, 1, D / 2], of float64 angles.
std::array<Tensor, 2> rope_angles(const Tensor& positions, int64_t width, const RopeAttrs& attrs,
                                  Dtype dtype) {
  const int64_t half = width / 2, tokens = positions.numel();
  const Tensor at = dense(positions);
  Tensor cosine = Tensor::empty({tokens, 1, half}, Dtype::f64);
  Tensor sine = Tensor::empty({tokens, 1, half}, Dtype::f64);
  for (int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(attrs.theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    for (int64_t t = 0; t < tokens; ++t) {
      const double angle = static_cast<double>(at.data<int64_t>()[t]) * frequency;
      cosine.data<double>()[t * half + i] = std::cos(angle);
      sine.data<double>()[t * half + i] = attrs.inverse ? -std::sin(angle) : std::sin(angle);
    }
  }
  return {cast(cosine, dtype), cast(sine, dtype)};
}

void rope_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor& x = *in[0];
  const int64_t width = x.size(2), half = width / 2;
  const auto [cosine, sine] = rope_angles(*in[1], width, attrs.as<RopeAttrs>(), x.dtype());
  const Tensor a = slice(x, 2, 0, half), b = slice(x, 2, half, width);
  *out = cat_pair(a * cosine - b * sine, b * cosine + a * sine, 2);
}

/// Rows [2, D / 2] of cosines and sines: row p is position p, or for a list its element p.
using Angles = std::vector<float>;

void fill_angles(int64_t width, double theta, int64_t first, int64_t count, const int64_t* list,
                 Angles& angles) {
  const int64_t half = width / 2;
  angles.resize(static_cast<size_t>((first + count) * width));
  for (int64_t i = 0; i < half; ++i) {
    const double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    for (int64_t p = first; p < first + count; ++p) {
      const double angle = static_cast<double>(list ? list[p] : p) * frequency;
      float* row = angles.data() + p * width + i;
      row[0] = static_cast<float>(std::cos(angle));
      row[half] = static_cast<float>(std::sin(angle));
    }
  }
}

/// The angles of positions [0, count), made once for a width and theta.
std::shared_ptr<const Angles> cached_angles(int64_t width, double theta, int64_t count) {
  struct Entry {
    int64_t width;
    double theta;
    std::shared_ptr<const Angles> angles;
  };
  constexpr size_t kKept = 16;
  static std::mutex mutex;
  static std::vector<Entry> entries;
  std::lock_guard lock(mutex);
  auto entry = std::find_if(entries.begin(), entries.end(),
                            [&](const Entry& e) { return e.width == width && e.theta == theta; });
  if (entry == entries.end()) {
    if (entries.size() == kKept) entries.erase(entries.begin());
    entries.push_back({width, theta, std::make_shared<const Angles>()});
    entry = entries.end() - 1;
  }
  const auto known = static_cast<int64_t>(entry->angles->size()) / width;
  if (known < count) {
    const int64_t wanted = std::max(count, std::max<int64_t>(2 * known, 256));
    auto grown = std::make_shared<Angles>(*entry->angles);
    fill_angles(width, theta, known, wanted - known, nullptr, *grown);
    entry->angles = std::move(grown);
  }
  return entry->angles;
}

void rope_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::rope, in, attrs, out)) return;
  const auto& rope = attrs.as<RopeAttrs>();
  if (in[0]->dtype() == Dtype::f64) {
    NoGrad guard;
    return rope_decompose(in, attrs, out);
  }
  const Tensor x = dense(*in[0]), positions = dense(*in[1]);
  const int64_t tokens = x.size(0), heads = x.size(1), width = x.size(2);
  *out = Tensor::empty(x.sizes());
  if (x.numel() == 0) return;
  constexpr int64_t kCached = 1 << 16;  // positions; angles of others are made on the spot
  const std::span<const int64_t> at = positions.values<int64_t>();
  const auto [least, most] = std::minmax_element(at.begin(), at.end());
  std::shared_ptr<const Angles> angles;
  std::vector<int64_t> places;
  if (*least >= 0 && *most < kCached) {
    angles = cached_angles(width, rope.theta, *most + 1);
  } else {
    auto own = std::make_shared<Angles>();
    fill_angles(width, rope.theta, 0, tokens, at.data(), *own);
    angles = std::move(own);
    places.resize(at.size());
    for (size_t t = 0; t < places.size(); ++t) places[t] = static_cast<int64_t>(t);
  }
  const int64_t* place = places.empty() ? at.data() : places.data();
  constexpr int64_t kTogether = 64;
  const auto some = [&](int64_t task) {
    const int64_t first = task * kTogether, count = std::min(kTogether, tokens - first);
    cpu::kernels().rope_rows(count, heads, width / 2, x.data<float>() + first * heads * width,
                             angles->data(), place + first, rope.inverse ? -1.0f : 1.0f,
                             out->data<float>() + first * heads * width);
  };
  cpu::pool().run((tokens + kTogether - 1) / kTogether, some);
}

/// A rotation: its transpose is the opposite rotation.
void rope_vjp(const VjpContext& c, Tensor* grads) {
  const auto& attrs = c.attrs.as<RopeAttrs>();
  grads[0] = rope(c.grad[0], c.in[1], attrs.theta, !attrs.inverse);
}

/// body(first, count) over parts of n elements, on all threads where there is work for them.
template <class Body>
void each_part(int64_t n, Body&& body) {
  constexpr int64_t kPart = 1 << 15;
  cpu::pool().run((n + kPart - 1) / kPart,
                  [&](int64_t part) { body(part * kPart, std::min(kPart, n - part * kPart)); });
}

// --- swiglu: Shazeer 2020 -----------------------------------------------------------------------
void swiglu_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  *out = silu(*in[0]) * *in[1];
}

void swiglu_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  if (widen_half(OpId::swiglu, in, attrs, out)) return;
  if (in[0]->dtype() == Dtype::f64) {
    NoGrad guard;
    return swiglu_decompose(in, attrs, out);
  }
  const Tensor gate = dense(*in[0]), up = dense(*in[1]);
  *out = Tensor::empty(gate.sizes());
  each_part(gate.numel(), [&](int64_t first, int64_t count) {
    cpu::kernels().swiglu(count, gate.data<float>() + first, up.data<float>() + first,
                          out->data<float>() + first);
  });
}

void swiglu_vjp(const VjpContext& c, Tensor* grads) {
  if (!(current_mode & kModeGrad) && c.in[0].dtype() != Dtype::f64) {
    const Tensor gate = dense(cast(c.in[0], Dtype::f32)), up = dense(cast(c.in[1], Dtype::f32));
    const Tensor g = dense(cast(c.grad[0], Dtype::f32));
    const Tensor dgate = Tensor::empty(gate.sizes()), dup = Tensor::empty(gate.sizes());
    each_part(gate.numel(), [&](int64_t first, int64_t count) {
      cpu::kernels().swiglu_backward(count, gate.data<float>() + first, up.data<float>() + first,
                                     g.data<float>() + first, dgate.data<float>() + first,
                                     dup.data<float>() + first);
    });
    if (c.want(0)) grads[0] = cast(dgate, c.in[0].dtype());
    if (c.want(1)) grads[1] = cast(dup, c.in[1].dtype());
    return;
  }
  const Dtype dtype = c.in[0].dtype(), wide = is_half(dtype) ? Dtype::f32 : dtype;
  const Tensor gate = cast(c.in[0], wide), up = cast(c.in[1], wide), g = cast(c.grad[0], wide);
  if (c.want(0)) grads[0] = cast(g * up * silu_slope(gate), dtype);
  if (c.want(1)) grads[1] = cast(g * silu(gate), dtype);
}

}  // namespace

Tensor embedding(const Tensor& weight, const Tensor& ids) {
  BESSEMER_CHECK(weight.ndim() == 2, ValueError, "[embedding] the weight has shape ",
                 weight.shape(), ", expected [vocabulary, width]");
  BESSEMER_CHECK(ids.ndim() < kMaxDims, ValueError,
                 "[embedding] too many dimensions: ", ids.shape());
  return apply(OpId::embedding, Attrs(), weight, as_index("embedding", "ids", ids));
}

Tensor rope(const Tensor& x, const Tensor& positions, double theta, bool inverse) {
  BESSEMER_CHECK(dtype_is_float(x.dtype()), TypeError, "[rope] needs a floating tensor, got ",
                 dtype_name(x.dtype()));
  BESSEMER_CHECK(x.ndim() == 3 && x.size(2) % 2 == 0, ValueError, "[rope] x has shape ", x.shape(),
                 ", expected [tokens, heads, an even width]");
  BESSEMER_CHECK(positions.ndim() == 1 && positions.size(0) == x.size(0), ValueError,
                 "[rope] positions ", positions.shape(), " do not fit ", x.shape());
  BESSEMER_CHECK(theta > 0, ValueError, "[rope] theta is ", theta, ", expected more than 0");
  return apply(OpId::rope, Attrs::of(RopeAttrs{theta, inverse}), x,
               as_index("rope", "positions", positions));
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  BESSEMER_CHECK(dtype_is_float(gate.dtype()) && dtype_is_float(up.dtype()), TypeError,
                 "[swiglu] needs floating tensors, got ", dtype_name(gate.dtype()), " and ",
                 dtype_name(up.dtype()));
  BESSEMER_CHECK(gate.sizes() == up.sizes(), ValueError, "[swiglu] gate ", gate.shape(), " and up ",
                 up.shape(), " differ");
  const Dtype dtype = promote(gate.dtype(), up.dtype());
  if (gate.dtype() != dtype) return swiglu(cast(gate, dtype), up);
  if (up.dtype() != dtype) return swiglu(gate, cast(up, dtype));
  return apply(OpId::swiglu, Attrs(), gate, up);
}

constexpr OpInfo BESSEMER_ROW(embedding) = {
    .name = "embedding",
    .kind = Kind::index,
    .inputs = 2,
    .saves = kSaveIn1 | kSaveShapes,
    .vjp = embedding_vjp,
    .cpu = embedding_cpu,
    .decompose = embedding_decompose,
    .numpy = "weight[ids]",
    .samples =
        "[dict(weight=R(5, 3), ids=I(5, 7)), dict(weight=R(5, 3), ids=I(5, 2, 4)), "
        "dict(weight=R(5, 3), ids=I(5)), dict(weight=R(5, 3), ids=I(5, 0)), "
        "dict(weight=R(9, 70), ids=I(9, 30)), dict(weight=R(5, 0), ids=I(5, 2))]"};
constexpr OpInfo BESSEMER_ROW(rope) = {
    .name = "rope",
    .inputs = 2,
    .saves = kSaveIn1,
    .vjp = rope_vjp,
    .cpu = rope_cpu,
    .decompose = rope_decompose,
    .numpy = "np_rope(x, positions, theta, inverse)",
    .samples =
        "[dict(x=R(3, 2, 4), positions=I(9, 3)), dict(x=R(5, 3, 70), positions=I(5000, 5)), "
        "dict(x=R(4, 1, 64), positions=I(30, 4), theta=500000.0), "
        "dict(x=R(2, 2, 6), positions=I(9, 2), inverse=True), dict(x=R(0, 2, 4), "
        "positions=I(9, 0))]"};
constexpr OpInfo BESSEMER_ROW(swiglu) = {
    .name = "swiglu",
    .inputs = 2,
    .saves = kSaveIn0 | kSaveIn1,
    .vjp = swiglu_vjp,
    .cpu = swiglu_cpu,
    .decompose = swiglu_decompose,
    .numpy = "gate / (1 + np.exp(-gate)) * up",
    .samples =
        "[dict(gate=R(3, 4), up=R(3, 4)), dict(gate=R(2, 3, 37), up=R(2, 3, 37)), "
        "dict(gate=R(0, 4), up=R(0, 4)), dict(gate=R(), up=R())]"};

}  // namespace bessemer
