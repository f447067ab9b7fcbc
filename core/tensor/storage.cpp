#include "core/tensor/storage.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/base/error.h"

namespace bessemer {

namespace {

// Size classes: multiples of 64 up to 512, then four for each doubling up to 512 MiB. Blocks that
// leave use go to a list of the freeing thread, so that steady work allocates nothing. Large ones
// are kept as long as the process holds no more than its tensors once needed at the same time.
constexpr int kSmallClasses = 8;
constexpr int kLastDoubling = 29;
constexpr int kClasses = kSmallClasses + (kLastDoubling - 9) * 4;
constexpr uint8_t kUnclassed = 255;
constexpr size_t kLargeBlock = 1 << 20;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kCountedFrom = 4096;  // smaller blocks are not worth two atomic additions

int class_of(size_t bytes) {
  if (bytes <= 512) return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / 64);
  const int e = std::bit_width(bytes - 1) - 1;  // 2^e <= bytes - 1 < 2^(e+1)
  return kSmallClasses + (e - 9) * 4 + static_cast<int>((bytes - 1) >> (e - 2)) - 4;
}
constexpr size_t class_bytes(int c) {
  if (c < kSmallClasses) return static_cast<size_t>(c + 1) * 64;
  const int e = (c - kSmallClasses) / 4 + 9, quarter = (c - kSmallClasses) % 4;
  return (size_t{1} << e) + static_cast<size_t>(quarter + 1) * (size_t{1} << (e - 2));
}

// Large blocks are shifted against each other by pages: equal power-of-two distances alias in the
// cache (measured 5 to 12 times slower on four streams). The word before a block keeps what malloc
// returned.
std::atomic<unsigned> stagger{0};

void* system_allocate(size_t bytes) {
  const size_t shift =
      bytes >= kLargeBlock ? 4096 * (1 + stagger.fetch_add(1, std::memory_order_relaxed) % 15) : 64;
  const bool huge_pages = bytes >= 2 * kHugePage;
  const size_t align = huge_pages ? kHugePage : 64,
               size = (bytes + shift + align - 1) / align * align;
  char* base = static_cast<char*>(std::aligned_alloc(align, size));
  if (!base) fail<MemoryError>("cannot allocate ", bytes, " bytes");
#if defined(__linux__)
  // Clearing 113 MiB of fresh 4 KiB pages took a fifth of a loss and its gradients.
  if (huge_pages) madvise(base, size, MADV_HUGEPAGE);
#endif
  char* block = base + shift;
  reinterpret_cast<void**>(block)[-1] = base;
  return block;
}
void system_free(void* block) { std::free(static_cast<void**>(block)[-1]); }

struct FreeBlock {
  FreeBlock* next;
};
struct Cache {
  FreeBlock* head[kClasses] = {};
  uint64_t asked[kClasses] = {};  // when a large class was last asked for, in such requests
  uint64_t requests = 0;
};
// On the heap: a Python module has little room for variables of threads, and what is imported after
// it (PyTorch's OpenMP) needs some of that.
thread_local Cache* cache = nullptr;
thread_local bool cache_gone = false;  // the thread ends
struct CacheEnd {
  ~CacheEnd();
};
thread_local CacheEnd cache_end;

std::atomic<int64_t> bytes_now{0}, bytes_peak{0};
std::atomic<int64_t> bytes_kept{0};  // large blocks in the lists of all threads

void keep_block(int c, void* block) {
  auto* entry = static_cast<FreeBlock*>(block);
  entry->next = cache->head[c];
  cache->head[c] = entry;
  if (class_bytes(c) >= kLargeBlock)
    bytes_kept.fetch_add(static_cast<int64_t>(class_bytes(c)), std::memory_order_relaxed);
}
/// Null where none is kept.
void* kept_block(int c) {
  FreeBlock* block = cache->head[c];
  if (!block) return nullptr;
  cache->head[c] = block->next;
  if (class_bytes(c) >= kLargeBlock)
    bytes_kept.fetch_sub(static_cast<int64_t>(class_bytes(c)), std::memory_order_relaxed);
  return block;
}

CacheEnd::~CacheEnd() {
  for (int c = 0; cache && c < kClasses; ++c)
    while (void* block = kept_block(c)) system_free(block);
  cache_gone = true;
  delete std::exchange(cache, nullptr);
}

/// The thread's; null when the thread ends.
Cache* own_cache() {
  if (cache || cache_gone) [[likely]]
    return cache;
  static_cast<void>(&cache_end);  // from now on it runs at the thread's end
  return cache = new Cache;
}

/// Whether the lists may hold another large block of class `c`; those of classes that were not
/// asked for since it was make room. Classes round up by a quarter at most.
bool make_room(int c) {
  const auto room = [c] {
    const int64_t peak = bytes_peak.load(std::memory_order_relaxed);
    return bytes_now.load(std::memory_order_relaxed) + bytes_kept.load(std::memory_order_relaxed) +
               static_cast<int64_t>(class_bytes(c)) <=
           peak + peak / 3;
  };
  while (!room()) {
    int oldest = c;
    for (int other = class_of(kLargeBlock); other < kClasses; ++other)
      if (cache->head[other] && cache->asked[other] < cache->asked[oldest]) oldest = other;
    if (oldest == c) return false;
    system_free(kept_block(oldest));
  }
  return true;
}

void count_bytes(int64_t delta) {
  const int64_t now = bytes_now.fetch_add(delta, std::memory_order_relaxed) + delta;
  int64_t peak = bytes_peak.load(std::memory_order_relaxed);
  while (now > peak && !bytes_peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

}  // namespace

void* block_allocate(size_t bytes, uint8_t& size_class) {
  const int c = class_of(bytes);
  if (c >= kClasses) {
    size_class = kUnclassed;
    return system_allocate(bytes);
  }
  size_class = static_cast<uint8_t>(c);
  if (!own_cache()) return system_allocate(class_bytes(c));
  const bool large = class_bytes(c) >= kLargeBlock;
  if (large) cache->asked[c] = ++cache->requests;
  if (void* block = kept_block(c)) return block;
  if (large) make_room(c);
  return system_allocate(class_bytes(c));
}

void block_free(void* block, uint8_t size_class) {
  if (size_class == kUnclassed || !own_cache() ||
      (class_bytes(size_class) >= kLargeBlock && !make_room(size_class))) {
    system_free(block);
    return;
  }
  keep_block(size_class, block);
}

static_assert(sizeof(Storage) <= 64, "the elements follow at a cache line");

Storage* Storage::allocate(size_t bytes, Device device) {
  uint8_t size_class;
  if (bytes > (size_t{1} << 47)) fail<MemoryError>("cannot allocate ", bytes, " bytes");
  void* block = block_allocate(bytes + 64, size_class);
  auto* storage = new (block) Storage;
  storage->data = static_cast<char*>(block) + 64;
  storage->bytes = bytes;
  storage->device = device;
  storage->size_class = size_class;
  if (bytes >= kCountedFrom) count_bytes(static_cast<int64_t>(bytes));
  return storage;
}

Storage* Storage::adopt(void* data, size_t bytes, void (*release)(void*), void* context) {
  Storage* storage = allocate(0);
  storage->data = data;
  storage->bytes = bytes;
  storage->release = release ? release : [](void*) {};
  storage->context = context;
  return storage;
}

void Storage::destroy() {
  for (PackedWeight* entry = packed; entry;) {
    PackedWeight* next = entry->next;
    packed_free(entry->data);
    delete entry;
    entry = next;
  }
  if (release) {
    release(context);
  } else if (bytes >= kCountedFrom) {
    count_bytes(-static_cast<int64_t>(bytes));
  }
  const uint8_t c = size_class;
  this->~Storage();
  block_free(this, c);
}

namespace {

/// Blocks of packed weights one after the other, given back when the last of them is.
struct Shelf {
  char* base;
  size_t bytes, used, blocks;
};
constexpr size_t kShelf = 32 << 20;
constexpr size_t kShelved = 64 << 10;  // smaller blocks come from malloc
struct ShelfRow {
  std::mutex mutex;
  Shelf* open = nullptr;  // what the next block is put on
};
ShelfRow& shelves() {
  static auto* row = new ShelfRow;  // outlives every tensor
  return *row;
}

Shelf* new_shelf(size_t bytes) {
  const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  char* base = static_cast<char*>(std::aligned_alloc(kHugePage, size));
  if (!base) fail<MemoryError>("cannot allocate ", size, " bytes for packed weights");
#if defined(__linux__)
  madvise(base, size, MADV_HUGEPAGE);  // reading a model on 4 KiB pages is a tenth slower
#endif
  return new Shelf{base, size, 0, 0};
}
void discard(Shelf* shelf) {
  std::free(shelf->base);
  delete shelf;
}

}  // namespace

void* packed_allocate(size_t bytes) {
  const size_t size = (bytes + 63) / 64 * 64 + 64;  // a line before the block names its shelf
  Shelf* shelf = nullptr;
  char* at;
  if (bytes < kShelved) {
    at = static_cast<char*>(std::aligned_alloc(64, size));
    if (!at) fail<MemoryError>("cannot allocate ", bytes, " bytes for a packed weight");
  } else {
    ShelfRow& row = shelves();
    std::lock_guard lock(row.mutex);
    if (row.open && row.open->bytes - row.open->used >= size) {
      shelf = row.open;
    } else {
      shelf = new_shelf(std::max(size, kShelf));
      if (size <= kShelf) {
        if (row.open && row.open->blocks == 0) discard(row.open);
        row.open = shelf;
      }
    }
    at = shelf->base + shelf->used;
    shelf->used += size;
    ++shelf->blocks;
  }
  *reinterpret_cast<Shelf**>(at) = shelf;
  return at + 64;
}

void packed_free(void* block) {
  char* at = static_cast<char*>(block) - 64;
  Shelf* shelf = *reinterpret_cast<Shelf**>(at);
  if (!shelf) return std::free(at);
  ShelfRow& row = shelves();
  std::lock_guard lock(row.mutex);
  if (--shelf->blocks > 0) return;
  if (shelf == row.open) {
    shelf->used = 0;  // the next model's
  } else {
    discard(shelf);
  }
}

MemoryStats memory_stats() { return {bytes_now.load(), bytes_peak.load()}; }

}  // namespace bessemer
