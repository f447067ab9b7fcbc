#include "rollout/kv_cache.h"

#include <cstring>

namespace bessemer {

KvCache::KvCache(const nn::DecoderConfig& config, int64_t pages) {
  constexpr int64_t kMost = INT32_MAX / kPageTokens;
  BESSEMER_CHECK(pages > 0 && pages <= kMost, ValueError, "[kv cache] ", pages, " pages of ",
                 kPageTokens, " tokens; from 1 to ", kMost,
                 " are possible (max_batch sequences of ", config.max_position_embeddings,
                 " tokens, the context)");
  const int64_t heads = config.num_key_value_heads, dim = config.head_dim;
  // Not written before they are used, so that pages never needed take no memory; attention skips
  // what lies behind a sequence's last token, whatever it is.
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    layers_.push_back({Tensor::empty({pages, heads, dim, kPageTokens}, config.compute),
                       Tensor::empty({pages, heads, kPageTokens, dim}, config.compute)});
  }
  bytes_ = 2 * config.num_hidden_layers * pages * heads * dim * kPageTokens *
           static_cast<int64_t>(dtype_size(config.compute));
  references_.assign(static_cast<size_t>(pages), 0);
  for (int64_t page = pages; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
}

int32_t KvCache::allocate() {
  if (free_.empty()) return -1;
  const int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvCache::copy(int32_t from, int32_t to) {
  for (const nn::KvPages& layer : layers_) {
    for (const Tensor& pages : {layer.k, layer.v}) {
      const size_t bytes =
          static_cast<size_t>(pages.numel() / pages.size(0)) * dtype_size(pages.dtype());
      char* base = static_cast<char*>(pages.raw());
      std::memcpy(base + static_cast<size_t>(to) * bytes, base + static_cast<size_t>(from) * bytes,
                  bytes);
      pages.bump();
    }
  }
}

bool CachedTokens::reserve(KvCache& cache, int64_t length) {
  if (length > length_) {
    for (auto i = static_cast<size_t>(length_ / kPageTokens); i < pages_.size(); ++i) {
      int32_t& references = cache.references_[static_cast<size_t>(pages_[i])];
      if (references == 1) continue;
      const int32_t own = cache.allocate();
      if (own < 0) return false;
      cache.copy(pages_[i], own);
      --references;
      pages_[i] = own;
    }
  }
  while (static_cast<int64_t>(pages_.size()) * kPageTokens < length) {
    const int32_t page = cache.allocate();
    if (page < 0) return false;
    pages_.push_back(page);
  }
  return true;
}

CachedTokens CachedTokens::share(KvCache& cache) const {
  for (const int32_t page : pages_) ++cache.references_[static_cast<size_t>(page)];
  return *this;
}

void CachedTokens::clear(KvCache& cache) {
  for (const int32_t page : pages_) {
    if (--cache.references_[static_cast<size_t>(page)] == 0) cache.free_.push_back(page);
  }
  pages_.clear();
  length_ = 0;
}

}  // namespace bessemer
