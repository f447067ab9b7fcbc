// Causal attention over token-packed sequences with prefix segments and grouped queries
// (core/cpu/attention.h has the order of its sums).
#include "core/ops/attention.h"

#include <algorithm>

namespace bessemer {

std::vector<Segment> read_segments(const char* op, const Tensor& segments, int64_t tokens) {
  const Tensor rows = whole_numbers(op, "segments", segments);
  BESSEMER_CHECK(rows.ndim() == 2 && rows.shape()[1] == 2, ValueError, "[", op, "] segments ",
                 rows.shape(), ", expected (segments, 2): first token and prefix");
  const int64_t* row = rows.data<int64_t>();
  const int64_t count = rows.shape()[0];
  BESSEMER_CHECK(count > 0 || tokens == 0, ValueError, "[", op, "] no segments for ", tokens,
                 " tokens");
  std::vector<Segment> list(static_cast<size_t>(count));
  for (int64_t s = 0; s < count; ++s) {
    const int64_t first = row[2 * s], prefix = row[2 * s + 1];
    const int64_t end = s + 1 < count ? row[2 * s + 2] : tokens;
    BESSEMER_CHECK(s > 0 || first == 0, ValueError, "[", op, "] segment 0 begins at token ", first,
                   ", expected 0");
    BESSEMER_CHECK(first < end, ValueError, "[", op, "] segment ", s, " begins at token ", first,
                   " and ends at ", end, " of ", tokens,
                   "; segments must ascend and none may be empty");
    BESSEMER_CHECK(prefix >= -1 && prefix < s, ValueError, "[", op, "] segment ", s, " has prefix ",
                   prefix, ", expected an earlier segment or -1");
    int64_t before = 0;
    if (prefix >= 0) {
      const Segment& root = list[static_cast<size_t>(prefix)];
      BESSEMER_CHECK(root.prefix < 0, ValueError, "[", op, "] segment ", s, " has prefix ", prefix,
                     ", which has a prefix of its own (", root.prefix, ")");
      before = root.count;
    }
    list[static_cast<size_t>(s)] = {first, end - first, prefix, before};
  }
  return list;
}

void check_heads(const char* op, const Tensor& q, int64_t kv_heads) {
  BESSEMER_CHECK(dtype_is_float(q.dtype()), TypeError, "[", op, "] needs floating tensors, q is ",
                 dtype_name(q.dtype()));
  BESSEMER_CHECK(q.ndim() == 3 && q.shape()[2] > 0, ValueError, "[", op, "] q has shape ",
                 q.shape(), ", expected (tokens, heads, size)");
  BESSEMER_CHECK(kv_heads > 0 && q.shape()[1] % kv_heads == 0, ValueError, "[", op, "] ",
                 q.shape()[1], " query heads are not a multiple of ", kv_heads,
                 " key and value heads");
}

void attend_all(std::span<const Attended> sequences) {
  struct Task {
    int64_t sequence, kv_head, first, end;
  };
  std::vector<Task> tasks;
  double work = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const cpu::Attend& a = sequences[s].sequence;
    const int64_t queries = sequences[s].queries;
    work += static_cast<double>(queries * a.heads * a.dim) *
            static_cast<double>(2 * a.position + queries);
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      // Blocks of queries end where blocks of keys do, so that few tiles see part of a block.
      for (int64_t first = 0, end; first < queries; first = end) {
        end = std::min(queries, first + cpu::kKeyBlock - (a.position + first) % cpu::kKeyBlock);
        tasks.push_back({static_cast<int64_t>(s), head, first, end});
      }
    }
  }
  const auto attend = cpu::kernels().attend;
  spread(static_cast<int64_t>(tasks.size()), work, [&](int64_t i) {
    const Task& task = tasks[static_cast<size_t>(i)];
    attend(sequences[static_cast<size_t>(task.sequence)].sequence, task.kv_head, task.first,
           task.end);
  });
}

namespace {

struct AttentionAttrs {
  double scale;
};

// --- from primitives: reference, float64, and gradients that are differentiated again -----------
/// One segment with everything it sees, in tensor operations.
struct SegmentTensors {
  Tensor q;     // [Hkv, group * n, D]
  Tensor k, v;  // [Hkv, keys, D]
  Tensor seen;  // [1, group * n, keys]
};

/// [n, H, D] as [Hkv, group * n, D], and back.
Tensor by_kv_head(const Tensor& x, int64_t kv_heads) {
  const int64_t n = x.size(0), group = x.size(1) / kv_heads, dim = x.size(2);
  return reshape(permute(x, {1, 0, 2}), {kv_heads, group * n, dim});
}
Tensor by_token(const Tensor& x, int64_t n, int64_t heads) {
  return permute(reshape(x, {heads, n, x.size(2)}), {1, 0, 2});
}
/// The keys or values that a segment sees: [Hkv, keys, D].
Tensor seen_keys(const Tensor& x, const Segment& s, const std::vector<Segment>& all) {
  Tensor own = slice(x, 0, s.first, s.first + s.count);
  if (s.prefix >= 0) {
    const Segment& root = all[static_cast<size_t>(s.prefix)];
    own = cat_pair(slice(x, 0, root.first, root.first + root.count), own, 0);
  }
  return permute(own, {1, 0, 2});
}
SegmentTensors segment_tensors(const Tensor& q, const Tensor& k, const Tensor& v, const Segment& s,
                               const std::vector<Segment>& all) {
  const int64_t kv_heads = k.size(1), group = q.size(1) / kv_heads, keys = s.before + s.count;
  const Tensor last = unsqueeze(
      Tensor::arange(s.count) + Tensor::scalar(static_cast<double>(s.before), Dtype::i64), 1);
  const Tensor seen = le(unsqueeze(Tensor::arange(keys), 0), last);  // [n, keys]
  return {by_kv_head(slice(q, 0, s.first, s.first + s.count), kv_heads), seen_keys(k, s, all),
          seen_keys(v, s, all),
          reshape(expand(unsqueeze(seen, 0), {group, s.count, keys}), {1, group * s.count, keys})};
}
Tensor masked_scores(const SegmentTensors& t, double scale) {
  const Tensor scores = matmul(t.q * scale, transpose(t.k));
  return where(t.seen, scores, scalar_like(scores, -HUGE_VAL));
}

void attention_decompose(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  const Tensor &q = *in[0], &k = *in[1], &v = *in[2];
  const auto segments = read_segments("attention", *in[3], q.size(0));
  std::vector<Tensor> parts = {slice(q, 0, 0, 0)};
  for (const Segment& s : segments) {
    const SegmentTensors t = segment_tensors(q, k, v, s, segments);
    const Tensor weights = softmax(masked_scores(t, attrs.as<AttentionAttrs>().scale));
    parts.push_back(by_token(matmul(weights, t.v), s.count, q.size(1)));
  }
  *out = concat(parts, 0);
}

/// dV = Pᵀ g, dS = P (g Vᵀ - sum(P g Vᵀ)), dQ = dS K, dK = dSᵀ Q, where P is the softmax; a
/// prefix gathers what its continuations give it.
void gradients_from_primitives(const VjpContext& c, Tensor* grads) {
  const Tensor &q = c.in[0], &k = c.in[1], &v = c.in[2], &g = c.grad[0];
  const double scale = c.attrs.as<AttentionAttrs>().scale;
  const auto segments = read_segments("attention", c.in[3], q.size(0));
  std::vector<Tensor> dq = {slice(q, 0, 0, 0)}, dk = {slice(k, 0, 0, 0)}, dv = dk;
  for (const Segment& s : segments) {
    const SegmentTensors t = segment_tensors(q, k, v, s, segments);
    const Tensor weights = softmax(masked_scores(t, scale));
    const Tensor dy = by_kv_head(slice(g, 0, s.first, s.first + s.count), k.size(1));
    const Tensor ds = softmax_backward(weights, matmul(dy, transpose(t.v))) * scale;
    dq.push_back(by_token(matmul(ds, t.k), s.count, q.size(1)));
    const auto deliver = [&](std::vector<Tensor>& parts, const Tensor& product) {
      const Tensor all = permute(product, {1, 0, 2});  // [keys, Hkv, D]
      parts.push_back(slice(all, 0, s.before, s.before + s.count));
      if (s.prefix < 0) return;
      Tensor& root = parts[static_cast<size_t>(s.prefix) + 1];
      root = root + slice(all, 0, 0, s.before);
    };
    deliver(dk, matmul(transpose(ds), t.q));
    deliver(dv, matmul(transpose(weights), dy));
  }
  if (c.want(0)) grads[0] = concat(dq, 0);
  if (c.want(1)) grads[1] = concat(dk, 0);
  if (c.want(2)) grads[2] = concat(dv, 0);
}

/// The kernel where nothing more is asked; rows that can be differentiated again otherwise.
void attention_vjp(const VjpContext& c, Tensor* grads) {
  if (c.in[0].dtype() == Dtype::f64 || current_mode & kModeGrad)
    return gradients_from_primitives(c, grads);
  TensorTriple found = attention_backward(c.grad[0], c.in[0], c.in[1], c.in[2], c.in[3], c.out[0],
                                          c.out[1], c.attrs.as<AttentionAttrs>().scale);
  for (int i = 0; i < 3; ++i)
    if (c.want(i)) grads[i] = std::move(found[static_cast<size_t>(i)]);
}

// --- the kernel ---------------------------------------------------------------------------------
/// Keys and values of a packed batch as pages, and the pages of each segment. Segments share the
/// whole blocks of their prefix; a block that holds a prefix's end and a segment's beginning is
/// gathered for that segment.
struct PackedPages {
  Tensor k, v;                 // [P, Hkv, D, 32], [P, Hkv, 32, D]
  std::vector<int64_t> table;  // of all segments, one after another
  std::vector<int64_t> start;  // where a segment's begins
};

/// What lies in a page: `prefix_count` tokens from prefix_first on, then `count` from first on.
struct PageTokens {
  int64_t prefix_first = 0, prefix_count = 0, first = 0, count = 0;
  int64_t token(int64_t place) const {
    return place < prefix_count ? prefix_first + place : first + place - prefix_count;
  }
};

void fill_page(const PageTokens& tokens, const Tensor& k, const Tensor& v, int64_t page,
               const PackedPages& pages) {
  const int64_t heads = k.shape()[1], dim = k.shape()[2], block = cpu::kKeyBlock;
  const int64_t filled = tokens.prefix_count + tokens.count, row = heads * dim;
  std::vector<float> gathered;
  if (tokens.prefix_count > 0 && tokens.count > 0)
    gathered.resize(static_cast<size_t>(filled * dim));
  for (int64_t head = 0; head < heads; ++head) {
    float* to_k = pages.k.data<float>() + (page * heads + head) * dim * block;
    float* to_v = pages.v.data<float>() + (page * heads + head) * dim * block;
    const auto keys = [&](int64_t place) {
      return k.data<float>() + tokens.token(place) * row + head * dim;
    };
    if (gathered.empty()) {
      cpu::kernels().pack_b(dim, filled, keys(0), 1, row, to_k);
    } else {
      for (int64_t place = 0; place < filled; ++place)
        std::copy_n(keys(place), dim, gathered.data() + place * dim);
      cpu::kernels().pack_b(dim, filled, gathered.data(), 1, dim, to_k);
    }
    for (int64_t place = 0; place < filled; ++place)
      std::copy_n(v.data<float>() + tokens.token(place) * row + head * dim, dim,
                  to_v + place * dim);
    std::fill(to_v + filled * dim, to_v + block * dim, 0.0f);
  }
}

PackedPages pack_pages(const Tensor& k, const Tensor& v, const std::vector<Segment>& segments) {
  const int64_t block = cpu::kKeyBlock;
  PackedPages pages;
  std::vector<PageTokens> contents;
  for (const Segment& s : segments) {
    const int64_t keys = s.before + s.count, shared = s.before / block;
    pages.start.push_back(static_cast<int64_t>(pages.table.size()));
    for (int64_t b = 0; b * block < keys; ++b) {
      if (b < shared) {
        const int64_t root = pages.start[static_cast<size_t>(s.prefix)];
        pages.table.push_back(pages.table[static_cast<size_t>(root + b)]);
        continue;
      }
      const int64_t from = b * block, end = std::min(keys, from + block);
      PageTokens tokens;
      if (from < s.before) {
        tokens.prefix_first = segments[static_cast<size_t>(s.prefix)].first + from;
        tokens.prefix_count = s.before - from;
      }
      tokens.first = s.first + std::max<int64_t>(0, from - s.before);
      tokens.count = end - from - tokens.prefix_count;
      pages.table.push_back(static_cast<int64_t>(contents.size()));
      contents.push_back(tokens);
    }
  }
  const auto count = static_cast<int64_t>(contents.size());
  pages.k = Tensor::empty({count, k.shape()[1], k.shape()[2], block});
  pages.v = Tensor::empty({count, k.shape()[1], block, k.shape()[2]});
  spread(count, static_cast<double>(pages.k.numel()),
         [&](int64_t page) { fill_page(contents[static_cast<size_t>(page)], k, v, page, pages); });
  return pages;
}

/// Row-major float32: the tensor itself, or a widened copy.
Tensor wide(const Tensor& x) { return dense(x.dtype() == Dtype::f32 ? x : cast(x, Dtype::f32)); }

/// out[1], for the backward pass: m and 1 / l of each head and token, [2, Hq, T] (none in float64).
void attention_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor& given = *in[0];
  const int64_t tokens = given.shape()[0], heads = given.shape()[1], dim = given.shape()[2];
  const auto segments = read_segments("attention", *in[3], tokens);
  if (given.dtype() == Dtype::f64) {
    attention_decompose(in, attrs, out);
    out[1] = Tensor::empty({2, heads, 0}, Dtype::f64);
    return;
  }
  const Tensor q = wide(given), k = wide(*in[1]), v = wide(*in[2]);
  out[0] = Tensor::empty(given.sizes(), Dtype::f32);
  out[1] = Tensor::empty({2, heads, tokens}, Dtype::f32);
  const PackedPages pages = pack_pages(k, v, segments);
  std::vector<Attended> sequences;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    cpu::Attend a{};
    a.heads = heads;
    a.kv_heads = k.shape()[1];
    a.dim = dim;
    a.scale = static_cast<float>(attrs.as<AttentionAttrs>().scale);
    a.q = q.data<float>() + s.first * heads * dim;
    a.out = out[0].data<float>() + s.first * heads * dim;
    a.position = s.before;
    a.table = pages.table.data() + pages.start[i];
    a.k_pages = pages.k.raw();
    a.v_pages = pages.v.raw();
    a.max = out[1].data<float>() + s.first;
    a.inverse = a.max + heads * tokens;
    a.statistics_head = tokens;
    sequences.push_back({a, s.count});
  }
  attend_all(sequences);
  if (given.dtype() != Dtype::f32) out[0] = cast(out[0], given.dtype());
}

void attention_backward_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor g = wide(*in[0]), q = wide(*in[1]), k = wide(*in[2]), v = wide(*in[3]);
  const Tensor y = wide(*in[5]), statistics = wide(*in[6]);
  const int64_t tokens = q.shape()[0], heads = q.shape()[1], dim = q.shape()[2];
  const auto segments = read_segments("attention_backward", *in[4], tokens);
  out[0] = Tensor::empty(q.sizes());
  out[1] = Tensor::zeros(k.sizes());
  out[2] = Tensor::zeros(v.sizes());
  const Tensor rows = Tensor::empty({3, heads, tokens, (dim + 15) / 16 * 16});
  const Tensor delta = Tensor::empty({heads, tokens});
  cpu::AttendBackward a{};
  a.tokens = tokens;
  a.heads = heads;
  a.kv_heads = k.shape()[1];
  a.dim = dim;
  a.scale = static_cast<float>(attrs.as<AttentionAttrs>().scale);
  a.q = q.data<float>();
  a.g = g.data<float>();
  a.out = y.data<float>();
  a.k = k.data<float>();
  a.v = v.data<float>();
  a.max = statistics.data<float>();
  a.inverse = a.max + heads * tokens;
  a.rows_q = rows.data<float>();
  a.rows_g = a.rows_q + rows.numel() / 3;
  a.rows_dq = a.rows_g + rows.numel() / 3;
  a.delta = delta.data<float>();
  a.dq = out[0].data<float>();
  a.dk = out[1].data<float>();
  a.dv = out[2].data<float>();

  // A family: a segment without prefix and those that continue it.
  std::vector<std::vector<cpu::TokenRange>> families;
  std::vector<size_t> family_of(segments.size());
  for (size_t s = 0; s < segments.size(); ++s) {
    const bool root = segments[s].prefix < 0;
    family_of[s] = root ? families.size() : family_of[static_cast<size_t>(segments[s].prefix)];
    if (root) families.emplace_back();
    families[family_of[s]].push_back({segments[s].first, segments[s].count});
  }
  const cpu::KernelTable& kernels = cpu::kernels();
  constexpr int64_t kTokens = 64;
  double work = 0;
  for (const Segment& s : segments)
    work +=
        static_cast<double>(s.count * (2 * s.before + s.count)) * static_cast<double>(heads * dim);
  spread((tokens + kTokens - 1) / kTokens, work, [&](int64_t part) {
    kernels.attend_backward_rows(a, part * kTokens, std::min(tokens, (part + 1) * kTokens));
  });
  spread(static_cast<int64_t>(families.size()) * a.kv_heads, work, [&](int64_t task) {
    const auto& family = families[static_cast<size_t>(task / a.kv_heads)];
    kernels.attend_backward(a, family.data(), static_cast<int64_t>(family.size()),
                            task % a.kv_heads);
  });
  for (int i = 0; i < 3; ++i)
    if (in[i + 1]->dtype() != Dtype::f32) out[i] = cast(out[i], in[i + 1]->dtype());
}

void check_operands(const char* op, const Tensor& q, const Tensor& k, const Tensor& v) {
  for (const Tensor* x : {&k, &v}) {
    BESSEMER_CHECK(dtype_is_float(x->dtype()), TypeError, "[", op, "] needs floating tensors, ",
                   x == &k ? "k" : "v", " is ", dtype_name(x->dtype()));
  }
  BESSEMER_CHECK(q.ndim() == 3 && k.ndim() == 3 && k.sizes() == v.sizes() &&
                     q.shape()[0] == k.shape()[0] && q.shape()[2] == k.shape()[2],
                 ValueError, "[", op, "] q ", q.shape(), ", k ", k.shape(), " and v ", v.shape(),
                 " do not fit; expected (tokens, heads, size) with equal tokens and size");
  check_heads(op, q, k.shape()[1]);
}

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& segments,
                 double scale) {
  check_operands("attention", q, k, v);
  const Dtype dtype = promote(promote(q.dtype(), k.dtype()), v.dtype());
  if (q.dtype() != dtype || k.dtype() != dtype || v.dtype() != dtype)
    return attention(cast(q, dtype), cast(k, dtype), cast(v, dtype), segments, scale);
  const AttentionAttrs attrs{attention_scale(scale, q.shape()[2])};
  return apply_many<2>(OpId::attention, Attrs::of(attrs), q, k, v,
                       whole_numbers("attention", "segments", segments))[0];
}

TensorTriple attention_backward(const Tensor& g, const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& segments, const Tensor& out, const Tensor& statistics,
                                double scale) {
  check_operands("attention_backward", q, k, v);
  for (const Tensor* x : {&g, &q, &k, &v, &out, &statistics}) {
    BESSEMER_CHECK(dtype_is_float(x->dtype()) && x->dtype() != Dtype::f64, TypeError,
                   "[attention_backward] needs float32 or half tensors, got ",
                   dtype_name(x->dtype()));
  }
  BESSEMER_CHECK(g.sizes() == q.sizes() && out.sizes() == q.sizes() &&
                     statistics.sizes() == Shape({2, q.shape()[1], q.shape()[0]}),
                 ValueError, "[attention_backward] g ", g.shape(), ", out ", out.shape(),
                 " and statistics ", statistics.shape(), " do not fit q ", q.shape());
  const AttentionAttrs attrs{attention_scale(scale, q.shape()[2])};
  return apply_many<3>(OpId::attention_backward, Attrs::of(attrs), g, q, k, v,
                       whole_numbers("attention_backward", "segments", segments), out, statistics);
}

constexpr OpInfo BESSEMER_ROW(attention) = {
    .name = "attention",
    .inputs = 4,
    .outputs = 2,
    .saves = kSaveIn0 | kSaveIn1 | kSaveIn2 | kSaveIn3 | kSaveOut0 | kSaveOut1,
    .vjp = attention_vjp,
    .cpu = attention_cpu,
    .decompose = attention_decompose,
    .numpy = "np_attention(q, k, v, segments, scale)",
    .samples =
        "[dict(q=R(7, 4, 8), k=R(7, 2, 8), v=R(7, 2, 8), segments=S((0, -1), (4, 0), (6, 0))), "
        "dict(q=R(5, 1, 3), k=R(5, 1, 3), v=R(5, 1, 3), segments=S((0, -1), (1, -1)), "
        "scale=0.7), "
        "dict(q=R(45, 2, 18), k=R(45, 1, 18), v=R(45, 1, 18), segments=S((0, -1), (34, 0))), "
        "dict(q=R(0, 2, 4), k=R(0, 2, 4), v=R(0, 2, 4), segments=S())]"};
constexpr OpInfo BESSEMER_ROW(attention_backward) = {
    .name = "attention_backward", .inputs = 7, .outputs = 3, .cpu = attention_backward_cpu};

}  // namespace bessemer
