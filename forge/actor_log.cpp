#include "forge/actor_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "core/base/error.h"

namespace bessemer {

std::string log_time() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  char text[40];
  const size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text + size, sizeof text - size, ".%03dZ", static_cast<int>(now.tv_nsec / 1000000));
  return text;
}

ActorLog::ActorLog(std::string name, const std::string& path, size_t tail_lines)
    : name_(std::move(name)), path_(path), tail_lines_(tail_lines) {
  if (path_.empty()) return;
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  BESSEMER_CHECK(file_ >= 0, IoError, "cannot write ", path_, ": ", std::strerror(errno));
}

ActorLog::~ActorLog() {
  if (file_ >= 0) ::close(file_);
}

void ActorLog::add(std::string_view text) {
  tail_.emplace_back(text);
  if (tail_.size() > tail_lines_) tail_.pop_front();
  if (file_ < 0) return;
  const std::string start = cat(log_time(), " ", name_, " | ");
  std::string line = cat(start, text, "\n");
  if (lost_ > 0) line = cat(start, "[", lost_, " lines could not be written]\n", line);
  if (write(line)) {
    lost_ = 0;
  } else {
    ++lost_;
  }
}

/// Whole or not at all: what a full disk took of a line is cut off again.
bool ActorLog::write(std::string_view text) {
  const off_t before = ::lseek(file_, 0, SEEK_END);
  while (!text.empty()) {
    const ssize_t count = ::write(file_, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      [[maybe_unused]] const int cut = ::ftruncate(file_, before);
      return false;
    }
    text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

std::string ActorLog::tail() const {
  std::string out;
  for (const std::string& line : tail_) out += line + "\n";
  return out;
}

}  // namespace bessemer
