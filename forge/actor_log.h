// The log of one process of a run: every line with its time and the process's name, and the last
// ones in memory for error messages.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace bessemer {

/// "2026-11-23T18:20:01.123Z", of the wall clock.
std::string log_time();

class ActorLog {
 public:
  /// Appends to `path`; an empty path keeps the tail alone. Throws IoError where it cannot be
  /// opened.
  ActorLog(std::string name, const std::string& path, size_t tail_lines);
  ~ActorLog();
  ActorLog(const ActorLog&) = delete;
  ActorLog& operator=(const ActorLog&) = delete;

  /// Writes "TIME NAME | text". A disk that is full must not end a run: what could not be written
  /// is counted, and said once there is room again.
  void add(std::string_view text);
  /// The last lines without time and name, each with a newline.
  std::string tail() const;
  const std::string& path() const { return path_; }

 private:
  bool write(std::string_view text);

  std::string name_, path_;
  size_t tail_lines_;
  std::deque<std::string> tail_;
  int file_ = -1;
  int64_t lost_ = 0;
};

}  // namespace bessemer
