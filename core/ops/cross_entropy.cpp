// The last layer of a decoder with its loss: log-probability and entropy of tokens from hidden
// states, without the [T, V] logits (Wijmans et al. 2024, "Cut your losses"). Logits, log-softmax
// and their order of sums are those of the rows `linear` and `log_softmax`.
#include <algorithm>
#include <vector>

#include "core/ops/family.h"
#include "core/ops/product.h"

namespace bessemer {

namespace {

Dtype compute_dtype(const Tensor& x) { return is_half(x.dtype()) ? Dtype::f32 : x.dtype(); }

/// x @ weight.T, at least in float32.
Tensor raw_logits(const Tensor& x, const Tensor& weight) {
  return linear(x, weight, Tensor(), cpu::Activation::none, true);
}

// --- linear_cross_entropy -----------------------------------------------------------------------
/// Outputs: log_prob, entropy, and whether the target is the first largest logit.
void cross_entropy_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  Tensor z = raw_logits(*in[0], *in[1]);
  if (in[3]->defined()) z = z * *in[3];
  const Tensor log_p = log_softmax(z);
  out[0] = squeeze(gather(log_p, 1, unsqueeze(*in[2], 1)), 1);
  out[1] = -sum(exp(log_p) * log_p, -1);
  out[2] = eq(argmax(z), *in[2]);
}

/// Logits of one block of tokens at a time: at most 24 MiB of them, 16 to 128 tokens. Where blocks
/// lie follows from the shapes alone, so that the order in which dweight is summed does too.
class LogitBlocks {
 public:
  LogitBlocks(const Tensor& x, const Tensor& weight)
      : tokens_(x.size(0)), vocabulary_(weight.size(0)) {
    constexpr int64_t kElements = 6 << 20, kLeast = 16, kMost = 128;
    rows_ = std::clamp(kElements / vocabulary_ / kLeast * kLeast, kLeast, kMost);
    // An odd number of cache lines: columns of the block, which dweight is made from, would
    // otherwise share few sets of the cache.
    stride_ = (vocabulary_ + 15) / 16 * 16;
    if (stride_ / 16 % 2 == 0) stride_ += 16;
    logits_ = Tensor::empty({std::min(rows_, tokens_), stride_});
  }
  /// body(first token, tokens, logits [tokens, stride()])
  template <class Body>
  void run(const Tensor& x, const Tensor& weight, Body&& body) {
    // Few tokens read the weight once and profit from what the sampler packed; many pack parts of
    // it on their way, rather than hold a second weight. (Pairs of bfloat16 are half as many.)
    const bool keep = tokens_ < kKeepTokens || x.dtype() == Dtype::bf16;
    for (int64_t first = 0; first < tokens_; first += rows_) {
      const int64_t count = std::min(rows_, tokens_ - first);
      const Tensor part = slice(x, 0, first, first + count);
      product_forward(part, weight, keep, logits_.data<float>(), stride_);
      body(first, count, part, logits_.data<float>());
    }
  }
  int64_t stride() const { return stride_; }

 private:
  static constexpr int64_t kKeepTokens = 32;
  int64_t tokens_, vocabulary_, rows_, stride_;
  Tensor logits_;
};

/// body(first row, rows) over parts of `rows` rows, on all threads where there is work for them.
template <class Body>
void each_rows(int64_t rows, int64_t n, Body&& body) {
  constexpr int64_t kWorthThreads = 1 << 16;
  if (rows * n < kWorthThreads) return body(0, rows);
  cpu::pool().run(rows, [&](int64_t r) { body(r, 1); });
}

/// Everything the loops read.
struct Inputs {
  Tensor x, weight, targets;
  float scale;
  const int64_t* target;
  bool half = false;  // products of bfloat16

  Inputs(const Tensor& given_x, const Tensor& given_weight, const Tensor& given_targets,
         const Tensor& inverse_temperature)
      : x(given_x),
        weight(given_weight),
        targets(dense(given_targets)),
        scale(inverse_temperature.defined() ? static_cast<float>(inverse_temperature.item()) : 1),
        target(targets.data<int64_t>()) {
    half = x.dtype() == Dtype::bf16;
    if (!half) {
      x = cast(x, Dtype::f32);
      weight = cast(weight, Dtype::f32);
    } else if (weight.dtype() != Dtype::f32) {
      weight = cast(weight, Dtype::bf16);
    }
  }
};

void stats_of(const Inputs& in, int64_t first, int64_t count, const float* logits, int64_t stride,
              bool entropy, cpu::TokenStats* stats) {
  const int64_t n = in.weight.size(0);
  each_rows(count, n, [&](int64_t r, int64_t rows) {
    cpu::kernels().token_stats_rows(rows, n, logits + r * stride, stride, in.scale,
                                    in.target + first + r, entropy, stats + first + r);
  });
}

using Stats = std::vector<cpu::TokenStats>;

/// One number of each token.
template <class T>
Tensor column(const Stats& stats, T cpu::TokenStats::*member) {
  const Tensor out = Tensor::empty({static_cast<int64_t>(stats.size())}, dtype_of<T>());
  for (size_t t = 0; t < stats.size(); ++t) out.data<T>()[t] = stats[t].*member;
  return out;
}

Stats forward_blocks(const Inputs& in, bool entropy) {
  Stats stats(static_cast<size_t>(in.x.size(0)));
  LogitBlocks blocks(in.x, in.weight);
  blocks.run(in.x, in.weight,
             [&](int64_t first, int64_t count, const Tensor&, const float* logits) {
               stats_of(in, first, count, logits, blocks.stride(), entropy, stats.data());
             });
  return stats;
}

void cross_entropy_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  if (in[0]->dtype() == Dtype::f64) return cross_entropy_decompose(in, attrs, out);
  const Stats stats = forward_blocks(Inputs(*in[0], *in[1], *in[2], *in[3]), true);
  out[0] = column(stats, &cpu::TokenStats::log_prob);
  out[1] = column(stats, &cpu::TokenStats::entropy);
  out[2] = column(stats, &cpu::TokenStats::hit);
}

/// What one pass over the blocks of logits gives, from gradients of log_prob and entropy ([T],
/// contiguous float32, or undefined).
struct Backward {
  Tensor dx, dweight, dscale;
  Stats stats;
};
Backward backward_blocks(const Inputs& in, const Tensor& g_log_prob, const Tensor& g_entropy,
                         bool want_x, bool want_weight, bool want_scale) {
  const int64_t tokens = in.x.size(0), n = in.weight.size(0), width = in.x.size(1);
  Backward out;
  out.stats.resize(static_cast<size_t>(tokens));
  if (want_x) out.dx = Tensor::empty({tokens, width});
  if (want_weight) out.dweight = tokens ? Tensor::empty({n, width}) : Tensor::zeros({n, width});
  const Tensor slopes = want_scale ? Tensor::empty({tokens}) : Tensor();
  cpu::TokenStats* stats = out.stats.data();
  const auto at = [](const Tensor& x, int64_t i) {
    return x.defined() ? x.data<float>() + i : nullptr;
  };
  LogitBlocks blocks(in.x, in.weight);
  const int64_t stride = blocks.stride();
  blocks.run(in.x, in.weight, [&](int64_t first, int64_t count, const Tensor& x, float* logits) {
    stats_of(in, first, count, logits, stride, g_entropy.defined(), stats);
    each_rows(count, n, [&](int64_t r, int64_t rows) {
      const int64_t t = first + r;
      cpu::kernels().token_backward_rows(rows, n, logits + r * stride, stride, in.scale,
                                         in.target + t, stats + t, at(g_log_prob, t),
                                         at(g_entropy, t), at(slopes, t));
    });
    const ProductRows g{logits, Dtype::f32, count, n, stride};
    if (want_x) product_input(g, in.weight, in.half, out.dx.data<float>() + first * width);
    if (want_weight) {
      const Tensor part = dense(x);
      product_weight(g, {part.raw(), part.dtype(), count, width, width}, in.half,
                     out.dweight.data<float>(), first > 0);
    }
  });
  if (want_scale) out.dscale = sum(slopes);
  return out;
}

/// With z = raw * s, l = log_softmax(z), p = exp(l), H = -sum(p l):
///   dz = g_log_prob (onehot - p) - g_entropy p (l + H),  d raw = dz s,  ds = sum(dz raw).
void cross_entropy_vjp(const VjpContext& c, Tensor* grads) {
  const Tensor &x = c.in[0], &weight = c.in[1], &targets = c.in[2], &scale = c.in[3];
  // While second derivatives are recorded, and in float64: the rows it stands for.
  if (!(current_mode & kModeGrad) && x.dtype() != Dtype::f64) {
    Tensor g[2];
    for (int i = 0; i < 2; ++i)
      if (c.grad[i].defined()) g[i] = dense(c.grad[i]);
    const Backward b = backward_blocks(Inputs(x, weight, targets, scale), g[0], g[1], c.want(0),
                                       c.want(1), c.want(3));
    if (c.want(0)) grads[0] = cast(b.dx, x.dtype());
    if (c.want(1)) grads[1] = cast(b.dweight, weight.dtype());
    grads[3] = b.dscale;
    return;
  }
  const Tensor raw = raw_logits(x, weight);
  const Tensor log_p = log_softmax(scale.defined() ? raw * scale : raw), p = exp(log_p);
  Tensor dz = zeros_like(raw);
  if (c.grad[0].defined()) {
    const Tensor g = unsqueeze(c.grad[0], 1);
    dz = scatter_add(-(p * g), 1, unsqueeze(targets, 1), g);
  }
  if (c.grad[1].defined()) {
    const Tensor entropy = -sum(p * log_p, -1, true);
    dz = dz - unsqueeze(c.grad[1], 1) * p * (log_p + entropy);
  }
  if (c.want(3)) grads[3] = sum(dz * raw);
  if (scale.defined()) dz = dz * scale;
  const Dtype wide = dz.dtype();
  if (c.want(0)) grads[0] = cast(matmul(dz, cast(weight, wide)), x.dtype());
  if (c.want(1)) grads[1] = cast(matmul(transpose(dz), cast(x, wide)), weight.dtype());
}

// --- linear_nll ---------------------------------------------------------------------------------
/// linear_cross_entropy with its third output.
TensorTriple token_rows(const Tensor& x, const Tensor& weight, const Tensor& targets,
                        const Tensor& scale) {
  return apply_many<3>(OpId::linear_cross_entropy, Attrs(), x, weight, targets, scale);
}

/// Which gradients the forward pass makes.
struct NllAttrs {
  int32_t x, weight;
};

/// Outputs: dx, dweight (empty where nobody asked), the loss, whether targets have the largest
/// logit.
void nll_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor &x = *in[0], &weight = *in[1], &targets = *in[2], &token_weights = *in[3];
  const auto& wanted = attrs.as<NllAttrs>();
  const bool any = wanted.x || wanted.weight;
  Tensor log_prob;
  if (x.dtype() == Dtype::f64) {
    const TensorTriple rows = token_rows(x, weight, targets, *in[4]);
    log_prob = rows[0];
    out[3] = rows[2];
    const Tensor g[3] = {-token_weights, {}, {}}, inputs[4] = {x, weight, targets, *in[4]};
    Tensor grads[4];
    if (any)
      cross_entropy_vjp(
          {attrs, inputs, nullptr, g, nullptr, static_cast<uint8_t>(wanted.x | wanted.weight << 1)},
          grads);
    out[0] = grads[0];
    out[1] = grads[1];
  } else {
    const Inputs inputs(x, weight, targets, *in[4]);
    Backward b;
    if (any) {
      b = backward_blocks(inputs, dense(-token_weights), Tensor(), wanted.x, wanted.weight, false);
    } else {
      b.stats = forward_blocks(inputs, false);
    }
    log_prob = column(b.stats, &cpu::TokenStats::log_prob);
    out[3] = column(b.stats, &cpu::TokenStats::hit);
    if (wanted.x) out[0] = cast(b.dx, x.dtype());
    if (wanted.weight) out[1] = cast(b.dweight, weight.dtype());
  }
  out[2] = -sum(token_weights * log_prob);
  if (!wanted.x) out[0] = Tensor::empty({0}, x.dtype());
  if (!wanted.weight) out[1] = Tensor::empty({0}, weight.dtype());
}

void nll_decompose(const Tensor* const* in, const Attrs&, Tensor* out) {
  const TensorTriple rows = token_rows(*in[0], *in[1], *in[2], *in[4]);
  out[2] = -sum(*in[3] * rows[0]);
  out[3] = rows[2];
}

void nll_vjp(const VjpContext& c, Tensor* grads) {
  BESSEMER_CHECK(!(current_mode & kModeGrad), ValueError,
                 "[linear_nll] its gradients are numbers by now; for second derivatives use "
                 "linear_cross_entropy");
  const Tensor& g = c.grad[2];
  const bool one = g.item() == 1;
  for (int i = 0; i < 2; ++i)
    if (c.want(i)) grads[i] = one ? c.out[i] : c.out[i] * cast(g, c.out[i].dtype());
}

struct Checked {
  Tensor targets, scale;
};
Checked check_inputs(const char* op, const Tensor& x, const Tensor& weight, const Tensor& targets,
                     const Tensor& inverse_temperature) {
  BESSEMER_CHECK(dtype_is_float(x.dtype()) && dtype_is_float(weight.dtype()), TypeError, "[", op,
                 "] needs floating tensors, got ", dtype_name(x.dtype()), " and ",
                 dtype_name(weight.dtype()));
  BESSEMER_CHECK(x.ndim() == 2 && weight.ndim() == 2 && x.size(1) == weight.size(1), ValueError,
                 "[", op, "] x ", x.shape(), " and weight ", weight.shape(),
                 " do not fit, expected [tokens, width] and [vocabulary, width]");
  BESSEMER_CHECK(weight.size(0) > 0, ValueError, "[", op, "] the vocabulary is empty");
  BESSEMER_CHECK(targets.ndim() == 1 && targets.size(0) == x.size(0), ValueError, "[", op,
                 "] targets ", targets.shape(), " do not fit ", x.shape());
  Checked checked{as_index(op, "targets", targets), Tensor()};
  check_tokens(op, checked.targets, weight.size(0));
  if (inverse_temperature.defined()) {
    BESSEMER_CHECK(inverse_temperature.numel() == 1, ValueError, "[", op,
                   "] inverse_temperature has shape ", inverse_temperature.shape(),
                   ", expected one number");
    checked.scale = cast(reshape(inverse_temperature, {}), compute_dtype(x));
  }
  return checked;
}

}  // namespace

TensorPair linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& targets,
                                const Tensor& inverse_temperature) {
  const Checked checked =
      check_inputs("linear_cross_entropy", x, weight, targets, inverse_temperature);
  const TensorTriple rows = token_rows(x, weight, checked.targets, checked.scale);
  return {rows[0], rows[1]};
}

TensorPair linear_nll(const Tensor& x, const Tensor& weight, const Tensor& targets,
                      const Tensor& token_weights, const Tensor& inverse_temperature) {
  const Checked checked = check_inputs("linear_nll", x, weight, targets, inverse_temperature);
  BESSEMER_CHECK(dtype_is_float(token_weights.dtype()), TypeError,
                 "[linear_nll] token_weights are ", dtype_name(token_weights.dtype()),
                 ", expected a floating dtype");
  BESSEMER_CHECK(token_weights.sizes() == targets.sizes(), ValueError,
                 "[linear_nll] token_weights ", token_weights.shape(), " do not fit targets ",
                 targets.shape());
  const Tensor weights = cast(token_weights, compute_dtype(x));
  const bool grad = current_mode & kModeGrad;
  // What the forward pass does not differentiate.
  if (grad &&
      (weights.requires_grad() || (checked.scale.defined() && checked.scale.requires_grad()))) {
    const TensorTriple rows = token_rows(x, weight, checked.targets, checked.scale);
    return {-sum(weights * rows[0]), rows[2]};
  }
  const NllAttrs attrs{grad && x.requires_grad(), grad && weight.requires_grad()};
  const auto out = apply_many<4>(OpId::linear_nll, Attrs::of(attrs), x, weight, checked.targets,
                                 weights, checked.scale);
  return {out[2], out[3]};
}

constexpr OpInfo BESSEMER_ROW(linear_cross_entropy) = {
    .name = "linear_cross_entropy",
    .inputs = 4,
    .outputs = 3,
    .saves = kSaveIn0 | kSaveIn1 | kSaveIn2 | kSaveIn3,
    .vjp = cross_entropy_vjp,
    .cpu = cross_entropy_cpu,
    .decompose = cross_entropy_decompose,
    .numpy = "np_linear_cross_entropy(x, weight, targets, inverse_temperature)",
    .samples =
        "[dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3)), "
        "dict(x=R(6, 4), weight=R(2, 4), targets=I(2, 6), inverse_temperature=R()), "
        "dict(x=R(37, 5), weight=R(70, 5), targets=I(70, 37), inverse_temperature=R()), "
        "dict(x=R(0, 4), weight=R(5, 4), targets=I(5, 0))]"};
constexpr OpInfo BESSEMER_ROW(linear_nll) = {
    .name = "linear_nll",
    .inputs = 5,
    .outputs = 4,
    .saves = kSaveOut0 | kSaveOut1,
    .vjp = nll_vjp,
    .cpu = nll_cpu,
    .decompose = nll_decompose,
    .numpy = "np_linear_nll(x, weight, targets, token_weights, inverse_temperature)",
    .samples =
        "[dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3), token_weights=U(3)), "
        "dict(x=R(37, 5), weight=R(70, 5), targets=I(70, 37), token_weights=U(37), "
        "inverse_temperature=U()), "
        "dict(x=R(3, 4), weight=R(5, 4), targets=I(5, 3), token_weights=R(3), "
        "inverse_temperature=R()), "
        "dict(x=R(0, 4), weight=R(5, 4), targets=I(5, 0), token_weights=U(0))]",
    .differentiable_twice = false};

}  // namespace bessemer
