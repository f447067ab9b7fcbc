#include "core/base/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

#include "core/base/error.h"

namespace bessemer {

namespace {

struct File {
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void unreadable(const std::string& path, int reason) {
  fail<IoError>("cannot read ", path, ": ", std::strerror(reason));
}

std::string read_all(int fd, size_t expected, const std::string& path) {
  // One byte more than expected, so that the end is seen without growing.
  std::string text(expected + 1, '\0');
  size_t size = 0;
  for (;;) {
    if (size == text.size()) text.resize(std::max<size_t>(2 * size, 1 << 16));
    const ssize_t got = ::read(fd, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) unreadable(path, errno);
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  return text;
}

}  // namespace

std::string read_text_file(const std::string& path) {
  const File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info {};
  if (file.fd < 0 || ::fstat(file.fd, &info) != 0) unreadable(path, errno);
  BESSEMER_CHECK(!S_ISDIR(info.st_mode), IoError, "cannot read ", path,
                 ": is a folder, not a file");
  const auto size = S_ISREG(info.st_mode) ? static_cast<size_t>(info.st_size) : 0;
  try {
    return read_all(file.fd, size, path);
  } catch (const std::bad_alloc&) {
    fail<MemoryError>("cannot read ", path, ": ", size, " bytes do not fit in memory");
  } catch (const std::length_error&) {
    fail<MemoryError>("cannot read ", path, ": ", size, " bytes do not fit in memory");
  }
}

void write_text_file(const std::string& path, std::string_view text) {
  struct stat info {};
  // A device or a pipe is written to; a rename would put a file in its place.
  const bool special = ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
  const std::string aside = special ? path : path + kUnfinishedFile;
  const auto check = [&](bool good, int file) {
    if (good) return;
    const int reason = errno;
    if (file >= 0) ::close(file);
    if (!special) ::unlink(aside.c_str());
    fail<IoError>("cannot write ", path, ": ", std::strerror(reason));
  };
  const int file = ::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  check(file >= 0, -1);
  while (!text.empty()) {
    const ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    check(count > 0, file);
    text.remove_prefix(static_cast<size_t>(count));
  }
  check(special || ::fsync(file) == 0, file);
  check(::close(file) == 0, -1);
  check(special || ::rename(aside.c_str(), path.c_str()) == 0, -1);
}

int64_t json_depth(std::string_view text) {
  int64_t depth = 0, deepest = 0;
  bool inside = false;  // a string
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inside) {
      if (c == '\\') ++i;
      inside = c != '"';
    } else if (c == '"') {
      inside = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace bessemer
