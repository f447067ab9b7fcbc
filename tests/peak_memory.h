// Bytes that a piece of code takes from operator new. Programs that ask link peak_memory.cpp.
#pragma once

#include <cstddef>

namespace bessemer {

/// The most bytes at a time, of all threads, beyond what was taken before it was made. One at a
/// time.
class PeakMemory {
 public:
  PeakMemory();
  size_t bytes() const;

 private:
  size_t before_;
};

/// What reading a file of this size may take.
inline size_t memory_allowed(size_t file) { return (size_t{1} << 20) + 64 * file; }

}  // namespace bessemer
