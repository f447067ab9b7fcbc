// The film of a window: every frame kept for scrubbing, without keeping every pixel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "envs/render/canvas.h"

namespace bessemer {

/// Frames of one size. One in 64 is kept whole and the rest as their difference from it, so any
/// frame is read at once; a lander's frame takes a few kB. Past `limit_bytes` the oldest go.
class FrameStore {
 public:
  FrameStore(int width, int height, size_t limit_bytes = size_t{512} << 20);

  /// Throws ValueError for a picture of another size.
  void push(const Canvas& canvas, std::string caption);
  /// Frames pushed so far; those before first() are forgotten.
  int64_t size() const { return size_; }
  int64_t first() const { return first_; }
  /// Writes frame `index`, first() <= index < size(), to `out`. Throws IndexError.
  void read(int64_t index, Canvas& out) const;
  const std::string& caption(int64_t index) const;
  size_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kGroup = 64;
  struct Run {
    uint32_t start, length;  // bytes of the picture
  };
  struct Delta {
    std::vector<Run> runs;
    std::vector<uint8_t> bytes;  // of all runs, one after another
    std::string caption;
    size_t size() const { return runs.size() * sizeof(Run) + bytes.size() + caption.size(); }
  };
  struct Group {
    std::vector<uint8_t> whole;  // the group's first frame
    std::vector<Delta> deltas;   // of every frame, empty runs for the first
    size_t size = 0;
  };
  const Group& group_of(int64_t index) const;

  int width_, height_;
  size_t limit_, bytes_ = 0;
  int64_t size_ = 0, first_ = 0;
  std::deque<Group> groups_;
};

}  // namespace bessemer
