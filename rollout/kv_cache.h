// Pages of keys and values, counted by reference: sequences that share a beginning share its pages,
// and copy one only when they write to it (Kwon et al. 2023, "PagedAttention").
#pragma once

#include <vector>

#include "autograd/nn/decoder.h"

namespace bessemer {

inline constexpr int64_t kPageTokens = 32;  // attention's block of keys

class KvCache {
 public:
  /// Room for `pages` pages of every layer, in the decoder's compute dtype; the system gives memory
  /// as they are first used.
  KvCache(const nn::DecoderConfig& config, int64_t pages);

  std::span<const nn::KvPages> layers() const { return layers_; }
  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t bytes() const { return bytes_; }

 private:
  friend class CachedTokens;
  int32_t allocate();
  void copy(int32_t from, int32_t to);

  std::vector<nn::KvPages> layers_;
  std::vector<int32_t> references_, free_;
  int64_t bytes_ = 0;
};

/// The cached beginning of one sequence: token i lies in pages()[i / kPageTokens]. Give it back
/// with clear() before the cache goes.
class CachedTokens {
 public:
  /// Pages for tokens up to `length`; those that will be written to are shared with nobody. False
  /// when the cache has no page left: what was got so far stays.
  bool reserve(KvCache& cache, int64_t length);
  /// Tokens up to `length` are written now.
  void written(int64_t length) { length_ = length; }
  int64_t length() const { return length_; }
  /// Where token i lies: slot = page * kPageTokens + place.
  int64_t slot(int64_t i) const {
    return pages_[static_cast<size_t>(i / kPageTokens)] * kPageTokens + i % kPageTokens;
  }
  std::span<const int32_t> pages() const { return pages_; }
  /// The same tokens in the same pages.
  CachedTokens share(KvCache& cache) const;
  void clear(KvCache& cache);

 private:
  std::vector<int32_t> pages_;
  int64_t length_ = 0;
};

}  // namespace bessemer
