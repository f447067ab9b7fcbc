#include "envs/render/frame_store.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"

namespace bessemer {

FrameStore::FrameStore(int width, int height, size_t limit_bytes)
    : width_(width), height_(height), limit_(limit_bytes) {}

void FrameStore::push(const Canvas& canvas, std::string caption) {
  BESSEMER_CHECK(canvas.width() == width_ && canvas.height() == height_, ValueError,
                 "[frames] a frame of ", canvas.width(), " x ", canvas.height(), " among ", width_,
                 " x ", height_);
  const std::span<const uint8_t> pixels = canvas.pixels();
  if (size_ % kGroup == 0) {
    groups_.push_back(
        {.whole = {pixels.begin(), pixels.end()}, .deltas = {}, .size = pixels.size()});
    bytes_ += pixels.size();
  }
  Group& group = groups_.back();
  Delta delta{.runs = {}, .bytes = {}, .caption = std::move(caption)};
  const uint8_t *now = pixels.data(), *base = group.whole.data();
  const size_t count = pixels.size();
  // Blocks of 64 bytes: long enough for memcmp to be fast, short enough to keep runs tight.
  constexpr size_t kBlock = 64;
  for (size_t at = 0; at < count; at += kBlock) {
    const size_t length = std::min(kBlock, count - at);
    if (std::memcmp(now + at, base + at, length) == 0) continue;
    if (!delta.runs.empty() && delta.runs.back().start + delta.runs.back().length == at) {
      delta.runs.back().length += static_cast<uint32_t>(length);
    } else {
      delta.runs.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(length)});
    }
    delta.bytes.insert(delta.bytes.end(), now + at, now + at + length);
  }
  group.size += delta.size();
  bytes_ += delta.size();
  group.deltas.push_back(std::move(delta));
  ++size_;
  while (bytes_ > limit_ && groups_.size() > 1) {
    bytes_ -= groups_.front().size;
    first_ += static_cast<int64_t>(groups_.front().deltas.size());
    groups_.pop_front();
  }
}

const FrameStore::Group& FrameStore::group_of(int64_t index) const {
  BESSEMER_CHECK(index >= first_ && index < size_, IndexError, "[frames] no frame ", index,
                 ", there are ", first_, " to ", size_ - 1);
  return groups_[static_cast<size_t>((index - first_) / kGroup)];
}

void FrameStore::read(int64_t index, Canvas& out) const {
  const Group& group = group_of(index);
  BESSEMER_CHECK(out.width() == width_ && out.height() == height_, ValueError,
                 "[frames] read into a picture of another size");
  uint8_t* pixels = out.writable_pixels().data();
  std::memcpy(pixels, group.whole.data(), group.whole.size());
  const Delta& delta = group.deltas[static_cast<size_t>(index % kGroup)];
  const uint8_t* bytes = delta.bytes.data();
  for (const Run& run : delta.runs) {
    std::memcpy(pixels + run.start, bytes, run.length);
    bytes += run.length;
  }
}

const std::string& FrameStore::caption(int64_t index) const {
  return group_of(index).deltas[static_cast<size_t>(index % kGroup)].caption;
}

}  // namespace bessemer
