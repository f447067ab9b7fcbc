// MP4 files of canvases, frame by frame.
#pragma once

#include <memory>
#include <string>

#include "envs/render/canvas.h"

namespace bessemer {

/// True where the build has FFmpeg's headers and the machine its libraries.
bool video_available();

/// Writes an MP4: H.264 where FFmpeg has an encoder for it, else MPEG-4 part 2; yuv420p, so that
/// every player shows it. Odd sizes lose their last row or column. The film grows in `path` +
/// ".<pid>.part" and gets its name in finish(), so that a file at `path` is always complete.
class VideoWriter {
 public:
  /// Throws IoError (no libraries, no encoder, no folder, no permission) and ValueError (fps,
  /// size).
  VideoWriter(const std::string& path, int width, int height, double fps);
  /// Without finish(), what was written is discarded.
  ~VideoWriter();
  VideoWriter(const VideoWriter&) = delete;
  VideoWriter& operator=(const VideoWriter&) = delete;

  /// Throws ValueError for a picture of another size, IoError when the disk is full.
  void push(const Canvas& canvas);
  /// Flushes the encoder, closes the file and renames it. Throws IoError; nothing can be pushed
  /// after.
  void finish();

  int64_t frames() const;
  /// "libx264", "mpeg4", ...
  const std::string& codec() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct VideoInfo {
  int width = 0, height = 0;
  int64_t frames = 0;
  double fps = 0;
  std::string codec;
};
/// Reads a film's frame count and size by decoding it whole. Throws IoError.
VideoInfo video_info(const std::string& path);

}  // namespace bessemer
