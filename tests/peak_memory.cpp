#include "tests/peak_memory.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<size_t> taken{0}, most{0};

void* try_take(size_t bytes, size_t alignment) noexcept {
  void* p = alignment > __STDCPP_DEFAULT_NEW_ALIGNMENT__
                ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                : std::malloc(std::max<size_t>(bytes, 1));
  if (!p) return nullptr;
  const size_t size = ::malloc_usable_size(p);
  const size_t now = taken.fetch_add(size, std::memory_order_relaxed) + size;
  size_t known = most.load(std::memory_order_relaxed);
  while (known < now && !most.compare_exchange_weak(known, now, std::memory_order_relaxed)) {
  }
  return p;
}

void* take(size_t bytes, size_t alignment) {
  void* p = try_take(bytes, alignment);
  if (!p) throw std::bad_alloc();
  return p;
}

void give(void* p) {
  if (!p) return;
  taken.fetch_sub(::malloc_usable_size(p), std::memory_order_relaxed);
  std::free(p);
}

}  // namespace

void* operator new(size_t bytes) { return take(bytes, 0); }
void* operator new[](size_t bytes) { return take(bytes, 0); }
void* operator new(size_t bytes, std::align_val_t a) { return take(bytes, static_cast<size_t>(a)); }
void* operator new[](size_t bytes, std::align_val_t a) {
  return take(bytes, static_cast<size_t>(a));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept { return try_take(bytes, 0); }
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept { return try_take(bytes, 0); }
void operator delete(void* p) noexcept { give(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { give(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { give(p); }
void operator delete[](void* p) noexcept { give(p); }
void operator delete(void* p, size_t) noexcept { give(p); }
void operator delete[](void* p, size_t) noexcept { give(p); }
void operator delete(void* p, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, std::align_val_t) noexcept { give(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { give(p); }
void operator delete[](void* p, size_t, std::align_val_t) noexcept { give(p); }

namespace bessemer {

PeakMemory::PeakMemory() : before_(taken.load()) { most = before_; }
size_t PeakMemory::bytes() const { return most.load() - before_; }

}  // namespace bessemer
