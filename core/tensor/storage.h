// Reference-counted memory of a tensor. Small blocks come from thread-local size classes; a block
// of up to kInlineBytes lives in the header itself.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bessemer {

enum class DeviceKind : uint8_t { cpu, cuda };
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  uint8_t index = 0;
  bool operator==(const Device&) const = default;
};

/// A packed form of a weight (panels for products), valid while `version` equals the storage's.
struct PackedWeight {
  void* data = nullptr;
  size_t bytes = 0;
  uint64_t key = 0;  // which packing: layout, rows, columns, strides
  uint32_t version = 0;
  PackedWeight* next = nullptr;
};

struct Storage {
  std::atomic<uint32_t> refs{1};
  std::atomic<uint32_t> version{0};  // bumped by every write after creation
  void* data = nullptr;
  size_t bytes = 0;
  Device device;
  uint8_t size_class = 0;
  bool read_only = false;  // memory lent by somebody who does not allow writes
  bool exposed = false;    // somebody (NumPy) may write without bumping the version:
                           // nothing computed from the elements may be kept
  void (*release)(void* context) = nullptr;  // foreign memory (NumPy, DLPack, files)
  void* context = nullptr;
  PackedWeight* packed = nullptr;

  /// Uninitialised, 64-byte aligned. Throws MemoryError naming the size.
  static Storage* allocate(size_t bytes, Device device = {});
  /// Memory somebody else owns; `release(context)` is called when the last tensor is gone.
  static Storage* adopt(void* data, size_t bytes, void (*release)(void*), void* context);
  void retain() { refs.fetch_add(1, std::memory_order_relaxed); }
  void drop() {
    if (refs.load(std::memory_order_acquire) == 1 ||
        refs.fetch_sub(1, std::memory_order_acq_rel) == 1)
      destroy();
  }

 private:
  void destroy();
};

/// Bytes the process's tensors hold now, and at the most so far.
struct MemoryStats {
  int64_t current = 0, peak = 0;
};
MemoryStats memory_stats();

/// Memory for packed weights, 64-byte aligned: side by side on huge pages in the order of
/// allocation, because a decoder reads all of them for every token. Throws MemoryError.
void* packed_allocate(size_t bytes);
void packed_free(void* block);

/// Thread-local size-class blocks for tensors, nodes and their data: 64-byte aligned.
void* block_allocate(size_t bytes, uint8_t& size_class);
void block_free(void* block, uint8_t size_class);

}  // namespace bessemer
