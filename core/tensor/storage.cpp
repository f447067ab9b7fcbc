#include "core/tensor/storage.h"

#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/base/error.h"

namespace bessemer {

namespace {

// Size classes: multiples of 64 up to 512, then four for each doubling up to 512 MiB. Blocks that
// leave use go to a list of the freeing thread, so that steady work allocates nothing.
constexpr int kSmallClasses = 8;
constexpr int kLastDoubling = 29;
constexpr int kClasses = kSmallClasses + (kLastDoubling - 9) * 4;
constexpr uint8_t kUnclassed = 255;
constexpr size_t kLargeBlock = 1 << 20, kHugeBlock = 64 << 20;
constexpr int kLargeKept = 4, kHugeKept = 1;  // blocks kept a class from these sizes on
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kCountedFrom = 4096;  // smaller blocks are not worth two atomic additions

int class_of(size_t bytes) {
  if (bytes <= 512) return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / 64);
  const int e = std::bit_width(bytes - 1) - 1;  // 2^e <= bytes - 1 < 2^(e+1)
  return kSmallClasses + (e - 9) * 4 + static_cast<int>((bytes - 1) >> (e - 2)) - 4;
}
size_t class_bytes(int c) {
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
  int count[kClasses] = {};
  ~Cache();
};
thread_local bool cache_gone = false;  // trivially destroyed: still readable after the cache
thread_local Cache cache;

Cache::~Cache() {
  cache_gone = true;
  for (FreeBlock*& list : head) {
    while (list) {
      FreeBlock* next = list->next;
      system_free(list);
      list = next;
    }
  }
}

std::atomic<int64_t> bytes_now{0}, bytes_peak{0};

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
  if (!cache_gone) {
    if (FreeBlock* block = cache.head[c]) {
      cache.head[c] = block->next;
      --cache.count[c];
      return block;
    }
  }
  return system_allocate(class_bytes(c));
}

void block_free(void* block, uint8_t size_class) {
  if (size_class == kUnclassed || cache_gone ||
      (class_bytes(size_class) >= kLargeBlock &&
       cache.count[size_class] >=
           (class_bytes(size_class) >= kHugeBlock ? kHugeKept : kLargeKept))) {
    system_free(block);
    return;
  }
  auto* entry = static_cast<FreeBlock*>(block);
  entry->next = cache.head[size_class];
  cache.head[size_class] = entry;
  ++cache.count[size_class];
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
    std::free(entry->data);
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

MemoryStats memory_stats() { return {bytes_now.load(), bytes_peak.load()}; }

}  // namespace bessemer
