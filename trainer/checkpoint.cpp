#include "trainer/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "core/base/crc32c.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kManifest = "manifest";
constexpr std::string_view kMagic = "bessemer-checkpoint";
constexpr std::string_view kAside = ".writing-";

/// A file descriptor that closes itself.
struct File {
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void io_failure(std::string_view what, const fs::path& path) {
  const int reason = errno;
  fail<IoError>("cannot ", what, " ", path.string(), ": ", std::strerror(reason));
}

void sync(const fs::path& path) {
  const File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0 || ::fsync(file.fd) != 0) io_failure("sync", path);
}

void write_synced(const fs::path& path, std::string_view text) {
  const File file{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)};
  if (file.fd < 0) io_failure("write", path);
  while (!text.empty()) {
    const ssize_t count = ::write(file.fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) io_failure("write", path);
    text.remove_prefix(static_cast<size_t>(count));
  }
  if (::fsync(file.fd) != 0) io_failure("sync", path);
}

struct Checksum {
  int64_t bytes = 0;
  uint32_t crc = 0;
};

Checksum checksum(const fs::path& path) {
  const File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) io_failure("read", path);
  Checksum out;
  std::string block(1 << 18, '\0');
  for (;;) {
    const ssize_t count = ::read(file.fd, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) io_failure("read", path);
    if (count == 0) return out;
    out.bytes += count;
    out.crc = crc32c(std::string_view(block).substr(0, static_cast<size_t>(count)), out.crc);
  }
}

std::string step_name(int64_t step) {
  char text[40];
  std::snprintf(text, sizeof text, "step-%012lld", static_cast<long long>(step));
  return text;
}

bool is_step_name(const std::string& name) {
  constexpr std::string_view prefix = "step-";
  return name.size() > prefix.size() && name.starts_with(prefix) &&
         std::all_of(name.begin() + prefix.size(), name.end(),
                     [](char c) { return c >= '0' && c <= '9'; });
}

void write_manifest(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  std::string text = cat(kMagic, " ", kCheckpointFormat, " ", names.size(), "\n");
  for (const std::string& name : names) {
    sync(folder / name);
    const Checksum sum = checksum(folder / name);
    text += cat(sum.bytes, " ", sum.crc, " ", name, "\n");
  }
  write_synced(folder / kManifest, text);
  sync(folder);
}

/// Puts the finished folder in its place. A folder of that name is left over from a run that died
/// before it was named `latest`, or is the same step written again: the two change places in one
/// operation.
void place(const fs::path& aside, const fs::path& target) {
  if (::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno == EEXIST || errno == ENOTEMPTY) {
    if (::renameat2(AT_FDCWD, aside.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      io_failure("replace", target);
    }
    fs::remove_all(aside);
    return;
  }
  // file systems without renameat2
  if (::rename(aside.c_str(), target.c_str()) != 0) io_failure("write", target);
}

void point_to(const fs::path& root, const std::string& name) {
  const fs::path aside = root / cat(kAside, "latest");
  write_synced(aside, name + "\n");
  if (::rename(aside.c_str(), (root / "latest").c_str()) != 0) io_failure("write", root / "latest");
  sync(root);
}

}  // namespace

fs::path write_checkpoint(const fs::path& root, int64_t step, int64_t keep,
                          const std::function<void(const fs::path&)>& fill) {
  const std::string name = step_name(step);
  const fs::path aside = root / cat(kAside, name), target = root / name;
  std::error_code ignored;
  try {
    fs::create_directories(root);
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
      // left behind by a process that was killed while it wrote
      if (entry.path().filename().string().starts_with(kAside)) fs::remove_all(entry.path());
    }
    fs::create_directory(aside);
    fill(aside);
    write_manifest(aside);
    place(aside, target);
    point_to(root, name);
  } catch (const fs::filesystem_error& error) {
    fs::remove_all(aside, ignored);
    fail<IoError>("cannot write the checkpoint ", target.string(), ": ", error.code().message());
  } catch (...) {
    fs::remove_all(aside, ignored);
    throw;
  }
  const std::vector<fs::path> all = list_checkpoints(root);
  for (size_t i = 0; i + static_cast<size_t>(keep) < all.size(); ++i) {
    if (all[i] != target) fs::remove_all(all[i], ignored);
  }
  return target;
}

std::vector<fs::path> list_checkpoints(const fs::path& root) {
  std::vector<fs::path> out;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(root, error)) {
    if (is_step_name(entry.path().filename().string())) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

fs::path latest_checkpoint(const fs::path& root) {
  std::ifstream file(root / "latest");
  std::string name;
  if (std::getline(file, name)) {
    BESSEMER_CHECK(is_step_name(name), ValueError, (root / "latest").string(),
                   " is damaged: it names no checkpoint");
    return root / name;
  }
  const std::vector<fs::path> all = list_checkpoints(root);
  return all.empty() ? fs::path() : all.back();
}

void verify_checkpoint(const fs::path& folder) {
  BESSEMER_CHECK(fs::is_directory(folder), ValueError, "there is no checkpoint ", folder.string());
  const fs::path manifest = folder / kManifest;
  std::ifstream file(manifest);
  BESSEMER_CHECK(file, ValueError, folder.string(),
                 " is no Bessemer checkpoint: it has no manifest");
  std::string line;
  std::getline(file, line);
  std::istringstream head(line);
  std::string magic;
  int64_t format = 0, count = -1;
  head >> magic >> format;
  BESSEMER_CHECK(head && magic == kMagic && format >= 1, ValueError, manifest.string(),
                 " is damaged");
  BESSEMER_CHECK(format <= kCheckpointFormat, ValueError, folder.string(), " has format ", format,
                 ", newer than this version reads (", kCheckpointFormat, ")");
  head >> count;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    Checksum expected;
    std::string name;
    fields >> expected.bytes >> expected.crc;
    fields.get();
    BESSEMER_CHECK(fields && std::getline(fields, name) && !name.empty(), ValueError,
                   manifest.string(), " is damaged");
    const fs::path path = folder / name;
    BESSEMER_CHECK(fs::exists(path), ValueError, "damaged checkpoint: ", path.string(),
                   " is missing");
    const Checksum found = checksum(path);
    BESSEMER_CHECK(found.bytes == expected.bytes, ValueError, "damaged checkpoint: ", path.string(),
                   " has ", found.bytes, " bytes instead of ", expected.bytes);
    BESSEMER_CHECK(found.crc == expected.crc, ValueError, "damaged checkpoint: the bytes of ",
                   path.string(), " are not those that were written");
    --count;
  }
  BESSEMER_CHECK(count == 0, ValueError, manifest.string(), " is damaged: it is cut short");
}

}  // namespace bessemer
