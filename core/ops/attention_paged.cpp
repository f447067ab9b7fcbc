// Attention of the newest tokens of sequences over a cache of keys and values in pages of 32
// tokens, and the writing of that cache. The same bits as `attention` gives the same tokens.
#include "core/ops/attention.h"

namespace bessemer {

namespace {

struct PagedAttrs {
  double scale;
};

void check_pages(const char* op, const Tensor& k_pages, const Tensor& v_pages) {
  BESSEMER_CHECK(k_pages.dtype() == v_pages.dtype() &&
                     (k_pages.dtype() == Dtype::f32 || k_pages.dtype() == Dtype::bf16),
                 TypeError, "[", op, "] pages are ", dtype_name(k_pages.dtype()), " and ",
                 dtype_name(v_pages.dtype()), ", expected both float32 or both bfloat16");
  BESSEMER_CHECK(
      k_pages.ndim() == 4 && v_pages.ndim() == 4 && k_pages.shape()[0] == v_pages.shape()[0] &&
          k_pages.shape()[1] == v_pages.shape()[1] && k_pages.shape()[2] == v_pages.shape()[3] &&
          k_pages.shape()[3] == cpu::kKeyBlock && v_pages.shape()[2] == cpu::kKeyBlock,
      ValueError, "[", op, "] k pages ", k_pages.shape(), " and v pages ", v_pages.shape(),
      ", expected (pages, heads, size, ", cpu::kKeyBlock, ") and (pages, heads, ", cpu::kKeyBlock,
      ", size)");
  BESSEMER_CHECK(k_pages.contiguous() && v_pages.contiguous(), ValueError, "[", op,
                 "] the pages must be contiguous");
}

/// Bounds of queries, lengths, and the pages that will be read.
void check_sequences(int64_t tokens, int64_t pages, const Tensor& table, const Tensor& queries,
                     const Tensor& lengths) {
  const int64_t count = lengths.numel(), width = table.shape()[1];
  const int64_t *bounds = queries.data<int64_t>(), *length = lengths.data<int64_t>();
  const int64_t* page = table.data<int64_t>();
  BESSEMER_CHECK(bounds[0] == 0 && bounds[count] == tokens, ValueError,
                 "[attention_paged] queries go from ", bounds[0], " to ", bounds[count],
                 ", expected 0 to ", tokens);
  for (int64_t s = 0; s < count; ++s, page += width) {
    const int64_t own = bounds[s + 1] - bounds[s];
    BESSEMER_CHECK(own >= 0, ValueError, "[attention_paged] queries of sequence ", s, " go from ",
                   bounds[s], " to ", bounds[s + 1]);
    BESSEMER_CHECK(length[s] >= own, ValueError, "[attention_paged] sequence ", s, " has length ",
                   length[s], " and ", own, " queries");
    BESSEMER_CHECK(length[s] <= width * cpu::kKeyBlock, ValueError, "[attention_paged] sequence ",
                   s, " has length ", length[s], ", its row of the table holds ", width,
                   " pages of ", cpu::kKeyBlock);
    for (int64_t b = 0; own > 0 && b * cpu::kKeyBlock < length[s]; ++b)
      BESSEMER_CHECK(static_cast<uint64_t>(page[b]) < static_cast<uint64_t>(pages), IndexError,
                     "[attention_paged] page ", page[b], " of sequence ", s, " is outside the ",
                     pages, " pages");
  }
}

void attention_paged_cpu(const Tensor* const* in, const Attrs& attrs, Tensor* out) {
  NoGrad guard;
  const Tensor& given = *in[0];
  const Tensor &k_pages = *in[1], &v_pages = *in[2], &table = *in[3];
  const Tensor q = dense(given.dtype() == Dtype::f32 ? given : cast(given, Dtype::f32));
  *out = Tensor::empty(q.sizes(), Dtype::f32);
  cpu::Attend a{};
  a.heads = q.shape()[1];
  a.kv_heads = k_pages.shape()[1];
  a.dim = q.shape()[2];
  a.scale = static_cast<float>(attrs.as<PagedAttrs>().scale);
  a.k_pages = k_pages.raw();
  a.v_pages = v_pages.raw();
  a.bf16 = k_pages.dtype() == Dtype::bf16;
  const int64_t *bounds = in[4]->data<int64_t>(), *lengths = in[5]->data<int64_t>();
  std::vector<Attended> sequences;
  for (int64_t s = 0; s < in[5]->numel(); ++s) {
    const int64_t own = bounds[s + 1] - bounds[s];
    if (own == 0) continue;
    a.q = q.data<float>() + bounds[s] * a.heads * a.dim;
    a.out = out->data<float>() + bounds[s] * a.heads * a.dim;
    a.position = lengths[s] - own;
    a.table = table.data<int64_t>() + s * table.shape()[1];
    sequences.push_back({a, own});
  }
  attend_all(sequences);
  if (given.dtype() != Dtype::f32) *out = cast(*out, given.dtype());
}

template <class T>
void write_tokens(const Tensor& k_pages, const Tensor& v_pages, const Tensor& k, const Tensor& v,
                  const int64_t* slots) {
  const int64_t heads = k.shape()[1], dim = k.shape()[2], block = cpu::kKeyBlock;
  T *to_k = static_cast<T*>(k_pages.raw()), *to_v = static_cast<T*>(v_pages.raw());
  const T *from_k = static_cast<const T*>(k.raw()), *from_v = static_cast<const T*>(v.raw());
  for (int64_t i = 0; i < k.shape()[0]; ++i) {
    const int64_t page = slots[i] / block, place = slots[i] % block;
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = (page * heads + head) * dim * block;
      for (int64_t d = 0; d < dim; ++d) to_k[at + d * block + place] = *from_k++;
      std::memcpy(to_v + at + place * dim, from_v, static_cast<size_t>(dim) * sizeof(T));
      from_v += dim;
    }
  }
}

}  // namespace

Tensor attention_paged(const Tensor& q, const Tensor& k_pages, const Tensor& v_pages,
                       const Tensor& table, const Tensor& queries, const Tensor& lengths,
                       double scale) {
  constexpr const char* kOp = "attention_paged";
  check_pages(kOp, k_pages, v_pages);
  check_heads(kOp, q, k_pages.shape()[1]);
  BESSEMER_CHECK(q.dtype() != Dtype::f64, TypeError,
                 "[attention_paged] q is float64, expected float32 or a half type");
  BESSEMER_CHECK(q.shape()[2] == k_pages.shape()[2], ValueError, "[attention_paged] q ", q.shape(),
                 " does not fit k pages ", k_pages.shape());
  const Tensor pages = whole_numbers(kOp, "table", table);
  const Tensor bounds = whole_numbers(kOp, "queries", queries);
  const Tensor ends = whole_numbers(kOp, "lengths", lengths);
  BESSEMER_CHECK(
      pages.ndim() == 2 && ends.ndim() == 1 && bounds.ndim() == 1 &&
          pages.shape()[0] == ends.shape()[0] && bounds.shape()[0] == ends.shape()[0] + 1,
      ValueError, "[attention_paged] table ", pages.shape(), ", queries ", bounds.shape(),
      " and lengths ", ends.shape(), " do not fit; expected (S, pages), (S + 1,) and (S,)");
  check_sequences(q.shape()[0], k_pages.shape()[0], pages, bounds, ends);
  return apply(OpId::attention_paged, Attrs::of(PagedAttrs{attention_scale(scale, q.shape()[2])}),
               q, k_pages, v_pages, pages, bounds, ends);
}

void kv_write(const Tensor& k_pages, const Tensor& v_pages, const Tensor& k, const Tensor& v,
              const Tensor& slots) {
  check_pages("kv_write", k_pages, v_pages);
  BESSEMER_CHECK(dtype_is_float(k.dtype()) && dtype_is_float(v.dtype()), TypeError,
                 "[kv_write] needs floating tensors, got ", dtype_name(k.dtype()), " and ",
                 dtype_name(v.dtype()));
  BESSEMER_CHECK(k.ndim() == 3 && k.sizes() == v.sizes() && k.shape()[1] == k_pages.shape()[1] &&
                     k.shape()[2] == k_pages.shape()[2],
                 ValueError, "[kv_write] k ", k.shape(), " and v ", v.shape(),
                 " do not fit k pages ", k_pages.shape());
  const Tensor to = whole_numbers("kv_write", "slots", slots);
  BESSEMER_CHECK(to.ndim() == 1 && to.numel() == k.shape()[0], ValueError, "[kv_write] slots ",
                 to.shape(), " for ", k.shape()[0], " tokens");
  const int64_t places = k_pages.shape()[0] * cpu::kKeyBlock;
  const int64_t* slot = to.data<int64_t>();
  for (int64_t i = 0; i < to.numel(); ++i)
    BESSEMER_CHECK(static_cast<uint64_t>(slot[i]) < static_cast<uint64_t>(places), IndexError,
                   "[kv_write] slot ", slot[i], " of token ", i, " is outside the ", places,
                   " places of ", k_pages.shape()[0], " pages");
  check_writable("kv_write", k_pages);
  check_writable("kv_write", v_pages);
  NoGrad guard;
  const Dtype dtype = k_pages.dtype();
  const Tensor from_k = dense(k.dtype() == dtype ? k : cast(k, dtype));
  const Tensor from_v = dense(v.dtype() == dtype ? v : cast(v, dtype));
  if (dtype == Dtype::f32) {
    write_tokens<float>(k_pages, v_pages, from_k, from_v, slot);
  } else {
    write_tokens<uint16_t>(k_pages, v_pages, from_k, from_v, slot);
  }
  k_pages.bump();
  v_pages.bump();
}

Tensor segment_positions(const Tensor& segments, int64_t tokens) {
  const Tensor out = Tensor::empty({tokens}, Dtype::i64);
  for (const Segment& s : read_segments("segment_positions", segments, tokens))
    for (int64_t i = 0; i < s.count; ++i) out.data<int64_t>()[s.first + i] = s.before + i;
  return out;
}

constexpr OpInfo BESSEMER_ROW(attention_paged) = {
    .name = "attention_paged", .inputs = 6, .cpu = attention_paged_cpu};

}  // namespace bessemer
