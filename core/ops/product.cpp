// How the operands of a layer's products reach the kernels: weights packed once for each version,
// bfloat16 as words of pairs.
#include "core/ops/product.h"

#include <mutex>

#include "core/ops/family.h"

namespace bessemer {

namespace {

constexpr int64_t kParallelFlops = 1 << 20;  // below this a product stays on one thread
constexpr int kPackedViews = 64;

/// What a weight is packed as, part of the key of its packed form.
enum class Packing : int64_t { f32 = 1, pairs = 2, half = 3 };

/// Words of pairs along a row of x (bfloat16, or float32 to be rounded): [rows, (n + 1) / 2], held
/// as float32.
Tensor pair_columns(Dtype dtype, const void* x, int64_t rows, int64_t n, int64_t row_stride) {
  const Tensor out = Tensor::empty({rows, (n + 1) / 2});
  auto* words = static_cast<uint32_t*>(out.raw());
  if (dtype == Dtype::bf16) {
    cpu::kernels().pair_columns(rows, n, static_cast<const bf16*>(x), row_stride, words);
  } else {
    cpu::kernels().pair_columns_f32(rows, n, static_cast<const float*>(x), row_stride, words);
  }
  return out;
}
/// The same along a column: [(rows + 1) / 2, n].
Tensor pair_rows(Dtype dtype, const void* x, int64_t rows, int64_t n, int64_t row_stride) {
  const Tensor out = Tensor::empty({(rows + 1) / 2, n});
  auto* words = static_cast<uint32_t*>(out.raw());
  if (dtype == Dtype::bf16) {
    cpu::kernels().pair_rows(rows, n, static_cast<const bf16*>(x), row_stride, words);
  } else {
    cpu::kernels().pair_rows_f32(rows, n, static_cast<const float*>(x), row_stride, words);
  }
  return out;
}
Tensor weight_pairs(const Tensor& weight) {
  const Tensor rows = weight.strides()[1] == 1 ? weight : dense(weight);
  return pair_columns(rows.dtype(), rows.raw(), rows.size(0), rows.size(1), rows.strides()[0]);
}

void pack_weight(const Tensor& weight, Packing packing, void* packed) {
  const int64_t n = weight.shape()[0], k = weight.shape()[1];
  const cpu::KernelTable& kernels = cpu::kernels();
  if (packing == Packing::half) {
    kernels.pack_b_half(k, n, static_cast<const uint16_t*>(weight.raw()), weight.strides()[1],
                        weight.strides()[0], static_cast<uint16_t*>(packed));
  } else if (packing == Packing::pairs && weight.strides()[0] == 1 && n > 1) {
    // A transposed weight: its rows of `k` are columns of what is stored.
    const Tensor pairs = pair_rows(weight.dtype(), weight.raw(), k, n, weight.strides()[1]);
    kernels.pack_b((k + 1) / 2, n, pairs.data<float>(), n, 1, static_cast<float*>(packed));
  } else if (packing == Packing::pairs) {
    const Tensor pairs = weight_pairs(weight);
    kernels.pack_b((k + 1) / 2, n, pairs.data<float>(), 1, (k + 1) / 2,
                   static_cast<float*>(packed));
  } else {
    kernels.pack_b(k, n, static_cast<const float*>(weight.raw()), weight.strides()[1],
                   weight.strides()[0], static_cast<float*>(packed));
  }
}

std::mutex packing_mutex;

/// The weight in panels, packed once for each version of its storage and kept beside it: float32,
/// pairs of bfloat16 (of a float32 weight too, rounded) or bfloat16. Null where it cannot be kept
/// (others may write unseen, or too many views of one storage are packed already) or is not there
/// and `make` is false.
const void* packed_weight(const Tensor& weight, Packing packing, bool make) {
  Storage& storage = *weight.impl()->storage;
  const int64_t n = weight.shape()[0], k = weight.shape()[1];
  if (storage.exposed) return nullptr;
  // FNV-1a over what decides the layout.
  const int64_t layout[] = {
      static_cast<int64_t>(packing),
      static_cast<const char*>(weight.raw()) - static_cast<const char*>(storage.data),
      n,
      k,
      weight.strides()[0],
      weight.strides()[1]};
  uint64_t key = 0xcbf29ce484222325ull;
  for (const int64_t part : layout) key = (key ^ static_cast<uint64_t>(part)) * 0x100000001b3ull;
  const uint32_t version = weight.version();
  std::atomic_ref<PackedWeight*> head(storage.packed);
  int views = 0;
  auto find = [&]() -> PackedWeight* {
    views = 0;
    for (PackedWeight* p = head.load(std::memory_order_acquire); p; p = p->next, ++views)
      if (p->key == key) return p;
    return nullptr;
  };
  PackedWeight* entry = find();
  if (entry && std::atomic_ref(entry->version).load(std::memory_order_acquire) == version)
    return entry->data;
  if (!make) return nullptr;

  std::lock_guard lock(packing_mutex);
  entry = find();
  const bool fresh = !entry;
  if (fresh) {
    if (views >= kPackedViews) return nullptr;
    const size_t words = static_cast<size_t>(
        packing == Packing::pairs ? cpu::packed_floats((k + 1) / 2, n) : cpu::packed_floats(k, n));
    const size_t bytes = words * (packing == Packing::half ? 2 : 4);
    void* data = packed_allocate(bytes);
    entry = new PackedWeight{data, bytes, key, version, head.load(std::memory_order_relaxed)};
  } else if (entry->version == version) {
    return entry->data;
  }
  pack_weight(weight, packing, entry->data);
  std::atomic_ref(entry->version).store(version, std::memory_order_release);
  if (fresh) head.store(entry, std::memory_order_release);
  return entry->data;
}

cpu::Gemm product(int64_t m, int64_t n, int64_t k, float* c, int64_t c_row) {
  cpu::Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.c = c;
  g.c_row = c_row;
  return g;
}

Tensor row_pairs(const ProductRows& x) {
  return pair_rows(x.dtype, x.data, x.count, x.width, x.stride);
}

}  // namespace

Factors forward_operands(const Tensor& x, int64_t row, int64_t col, const Tensor& weight, bool keep,
                         cpu::Gemm& g, Operands& held) {
  g.a = static_cast<const float*>(x.raw());
  g.a_row = row;
  g.a_col = col;
  if (x.dtype() == Dtype::f32) {
    const bool half = weight.dtype() == Dtype::bf16;
    g.b_packed = packed_weight(weight, half ? Packing::half : Packing::f32, keep || half);
    if (g.b_packed) return half ? Factors::widen : Factors::f32;
    if (half) {
      NoGrad guard;
      held.b = cast(weight, Dtype::f32);
    } else {
      held.b = weight;
    }
    g.b = static_cast<const float*>(held.b.raw());
    g.b_row = held.b.strides()[1];
    g.b_col = held.b.strides()[0];
    return Factors::f32;
  }
  const int64_t pairs = (g.k + 1) / 2;
  if (col != 1 || row % 2 || g.k % 2) {
    const Tensor rows = col == 1 ? x : dense(x);
    held.a = pair_columns(x.dtype(), rows.raw(), g.m, g.k, col == 1 ? row : g.k);
    g.a = held.a.data<float>();
    g.a_row = pairs;
  } else {
    g.a_row = row / 2;
  }
  g.a_col = 1;
  g.b_packed = packed_weight(weight, Packing::pairs, keep);
  if (!g.b_packed) {
    held.b = weight_pairs(weight);
    g.b = held.b.data<float>();
    g.b_row = 1;
    g.b_col = pairs;
  }
  g.k = pairs;
  return Factors::pairs;
}

void run_product(const cpu::Gemm& g, Factors factors) {
  ThreadPool* pool = g.m * g.n * g.k * 2 > kParallelFlops ? &cpu::pool() : nullptr;
  switch (factors) {
    case Factors::f32:
      return cpu::kernels().gemm(g, pool);
    case Factors::pairs:
      return cpu::kernels().gemm_pairs(g, pool);
    case Factors::widen:
      return cpu::kernels().gemm_widen(g, pool);
  }
}

void product_forward(const Tensor& x, const Tensor& weight, bool keep, float* out,
                     int64_t out_row) {
  cpu::Gemm g = product(x.size(0), weight.size(0), weight.size(1), out, out_row);
  Operands held;
  const Factors factors =
      forward_operands(x, x.strides()[0], x.strides()[1], weight, keep, g, held);
  run_product(g, factors);
}

void product_input(const ProductRows& g, const Tensor& given, bool half, float* dx) {
  const Tensor weight = given.strides()[1] == 1 ? given : dense(given);
  const int64_t width = weight.size(1);
  cpu::Gemm p = product(g.count, width, g.width, dx, width);
  p.a = static_cast<const float*>(g.data);
  p.a_row = g.stride;
  if (!half) {
    p.b = static_cast<const float*>(weight.raw());
    p.b_row = weight.strides()[0];
    return run_product(p, Factors::f32);
  }
  const int64_t pairs = (g.width + 1) / 2;
  Tensor words, weight_words;
  if (g.dtype == Dtype::bf16 && g.width % 2 == 0 && g.stride % 2 == 0) {
    p.a_row = g.stride / 2;
  } else {
    words = pair_columns(g.dtype, g.data, g.count, g.width, g.stride);
    p.a = words.data<float>();
    p.a_row = pairs;
  }
  NoGrad guard;
  p.b_packed = packed_weight(transpose(weight), Packing::pairs, true);
  if (!p.b_packed) {
    weight_words = pair_rows(weight.dtype(), weight.raw(), g.width, width, weight.strides()[0]);
    p.b = weight_words.data<float>();
    p.b_row = width;
  }
  p.k = pairs;
  run_product(p, Factors::pairs);
}

void product_weight(const ProductRows& g, const ProductRows& x, bool half, float* dweight,
                    bool accumulate) {
  cpu::Gemm p = product(g.width, x.width, g.count, dweight, x.width);
  p.accumulate = accumulate;
  p.a_row = 1;
  if (!half) {
    p.a = static_cast<const float*>(g.data);
    p.a_col = g.stride;
    p.b = static_cast<const float*>(x.data);
    p.b_row = x.stride;
    return run_product(p, Factors::f32);
  }
  const Tensor a = row_pairs(g), b = row_pairs(x);
  p.k = (g.count + 1) / 2;
  p.a = a.data<float>();
  p.a_col = g.width;
  p.b = b.data<float>();
  p.b_row = x.width;
  run_product(p, Factors::pairs);
}

}  // namespace bessemer
