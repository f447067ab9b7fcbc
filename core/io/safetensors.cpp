#include "core/io/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/text_file.h"
#include "core/ops/ops.h"

namespace bessemer {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr size_t kAlignment = 64;             // of the first element in the file

/// The format's names of our dtypes, by Dtype.
constexpr const char* kCodes[kDtypes] = {"BOOL", "U8",   "I8",  "I32", "I64",
                                         "F16",  "BF16", "F32", "F64"};

[[noreturn]] void system_error(const std::string& path, const char* action) {
  fail<IoError>("[safetensors] cannot ", action, " ", path, ": ", std::strerror(errno));
}
template <class... Parts>
[[noreturn]] void damaged(const std::string& path, const Parts&... parts) {
  fail<ValueError>("[safetensors] ", path, ": ", parts...);
}

class File {
 public:
  File(std::string path, int flags) : path_(std::move(path)) {
    fd_ = ::open(path_.c_str(), flags | O_CLOEXEC, 0644);
    if (fd_ < 0) system_error(path_, "open");
  }
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const {
    struct stat info;
    if (::fstat(fd_, &info) != 0) system_error(path_, "read");
    if (!S_ISREG(info.st_mode)) fail<IoError>("[safetensors] ", path_, " is not a regular file");
    return static_cast<uint64_t>(info.st_size);
  }
  void read(void* to, size_t bytes, uint64_t offset) {
    auto* p = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t got = ::pread(fd_, p, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) system_error(path_, "read");
      if (got == 0) damaged(path_, "the file became shorter while it was read");
      p += got;
      offset += static_cast<uint64_t>(got);
      bytes -= static_cast<size_t>(got);
    }
  }
  void write(const void* from, size_t bytes) {
    const auto* p = static_cast<const char*>(from);
    while (bytes > 0) {
      const ssize_t put = ::write(fd_, p, bytes);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) system_error(path_, "write");
      p += put;
      bytes -= static_cast<size_t>(put);
    }
  }
  /// On the disk, not only in the page cache.
  void sync_and_close() {
    if (::fsync(fd_) != 0) system_error(path_, "write");
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) system_error(path_, "write");
  }

 private:
  std::string path_;
  int fd_ = -1;
};

/// Removes an unfinished file unless told that it became the real one.
struct Unfinished {
  std::string path;
  ~Unfinished() {
    if (!path.empty()) ::unlink(path.c_str());
  }
};

void sync_directory(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // some file systems do not open folders; the rename itself has happened
  ::fsync(fd);
  ::close(fd);
}

// --- reading ------------------------------------------------------------------------------------
/// JSON where no object names a key twice.
Json parse_header(const std::string& path, const std::string& text) {
  if (json_depth(text) > kMaxJsonDepth)
    damaged(path, "the header is nested more than ", kMaxJsonDepth, " levels deep");
  std::vector<std::set<std::string>> seen;
  auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    const auto level = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      seen.resize(level + 2);
      seen[level + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      if (!seen[level].insert(parsed.get<std::string>()).second)
        damaged(path, "the header names '", parsed.get<std::string>(), "' twice");
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    damaged(path, "the header is not JSON (", error.what(), ")");
  }
}

struct Entry {
  std::string name;
  Dtype dtype;
  Shape shape;
  uint64_t begin, end;
};

Entry read_entry(const std::string& path, const std::string& name, const Json& value) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets"))
    damaged(path, "'", name, "' must have dtype, shape and data_offsets");
  Entry entry{name, Dtype::f32, {}, 0, 0};
  const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  if (!dtype.is_string()) damaged(path, "the dtype of '", name, "' is not a string");
  const auto* code =
      std::find(std::begin(kCodes), std::end(kCodes), dtype.get_ref<const std::string&>());
  if (code == std::end(kCodes))
    damaged(path, "'", name, "' has dtype ", dtype.get<std::string>(), ", which is not supported");
  entry.dtype = static_cast<Dtype>(code - std::begin(kCodes));
  if (!shape.is_array() || shape.size() > kMaxDims)
    damaged(path, "the shape of '", name, "' is not a list of at most ", kMaxDims, " sizes");
  uint64_t bytes = dtype_size(entry.dtype);
  for (const Json& size : shape) {
    uint64_t next = 0;
    if (!size.is_number_unsigned() || size.get<uint64_t>() > uint64_t{1} << 47)
      damaged(path, "the shape of '", name, "' holds ", size.dump());
    if (__builtin_mul_overflow(bytes, size.get<uint64_t>(), &next) || next > uint64_t{1} << 47)
      damaged(path, "the shape of '", name, "' is too large");
    bytes = next;
    entry.shape.push(size.get<int64_t>());
  }
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned())
    damaged(path, "the data_offsets of '", name, "' are not two whole numbers");
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    damaged(path, "'", name, "' needs ", bytes, " bytes, its data_offsets are ", offsets.dump());
  return entry;
}

void check_booleans(const std::string& path, const std::string& name, const Tensor& x) {
  const auto* p = static_cast<const uint8_t*>(x.raw());
  for (int64_t i = 0; i < x.numel(); ++i)
    if (p[i] > 1) damaged(path, "'", name, "' is BOOL but holds the byte ", int{p[i]});
}

}  // namespace

const Tensor& TensorFile::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, tensor] : tensors) names.push_back(known);
  fail<ValueError>("[safetensors] no tensor '", name, "'", did_you_mean(name, names));
}

TensorFile load_safetensors(const std::string& path) {
  File file(path, O_RDONLY);
  const uint64_t size = file.size();
  if (size < 8) damaged(path, "too short (", size, " bytes)");
  unsigned char prefix[8];
  file.read(prefix, 8, 0);
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
  if (length > kMaxHeader) damaged(path, "not a safetensors file (header of ", length, " bytes)");
  if (length > size - 8)
    damaged(path, "cut off: the header has ", length, " bytes, the file ", size);
  std::string text(length, '\0');
  file.read(text.data(), length, 8);
  if (text.empty() || text[0] != '{') damaged(path, "the header does not begin with '{'");
  const Json header = parse_header(path, text);

  TensorFile out;
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(read_entry(path, name, value));
      continue;
    }
    if (!value.is_object()) damaged(path, "__metadata__ is not an object");
    for (const auto& [key, item] : value.items()) {
      if (!item.is_string()) damaged(path, "metadata '", key, "' is not a string");
      out.metadata[key] = item.get<std::string>();
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const uint64_t data = size - 8 - length;
  uint64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at)
      damaged(path, "'", entry.name, "' begins at ", entry.begin, ", expected ", at,
              entry.begin < at ? " (overlap)" : " (gap)");
    at = entry.end;
    if (at > data)
      damaged(path, "cut off: '", entry.name, "' ends at ", at, ", the file has ", data,
              " bytes of elements");
  }
  if (at != data) damaged(path, data - at, " bytes after the last tensor");
  for (const Entry& entry : entries) {
    const Tensor x = Tensor::empty(entry.shape, entry.dtype);
    file.read(x.raw(), entry.end - entry.begin, 8 + length + entry.begin);
    if (entry.dtype == Dtype::boolean) check_booleans(path, entry.name, x);
    out.tensors.emplace(entry.name, x);
  }
  return out;
}

// --- writing ------------------------------------------------------------------------------------
void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  NoGrad guard;
  std::vector<const std::pair<std::string, Tensor>*> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const size_t wide_a = dtype_size(a->second.dtype()), wide_b = dtype_size(b->second.dtype());
    return wide_a != wide_b ? wide_a > wide_b : a->first < b->first;
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const auto* entry : order) {
    const auto& [name, x] = *entry;
    BESSEMER_CHECK(name != "__metadata__" && !header.contains(name), ValueError,
                   "[safetensors] the name '", name, "' is ",
                   name == "__metadata__" ? "reserved" : "used twice");
    const uint64_t bytes = static_cast<uint64_t>(x.numel()) * dtype_size(x.dtype());
    header[name] = {{"dtype", kCodes[static_cast<int>(x.dtype())]},
                    {"shape", std::vector<int64_t>(x.shape().begin(), x.shape().end())},
                    {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    fail<ValueError>("[safetensors] a name or metadata is not UTF-8 (", error.what(), ")");
  }
  text.resize((8 + text.size() + kAlignment - 1) / kAlignment * kAlignment - 8, ' ');
  unsigned char prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<unsigned char>(text.size() >> (8 * i));

  Unfinished unfinished{path + ".partial"};
  File file(unfinished.path, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(prefix, 8);
  file.write(text.data(), text.size());
  for (const auto* entry : order) {
    const Tensor x = contiguous(entry->second);
    file.write(x.raw(), static_cast<size_t>(x.numel()) * dtype_size(x.dtype()));
  }
  file.sync_and_close();
  if (::rename(unfinished.path.c_str(), path.c_str()) != 0) system_error(path, "replace");
  unfinished.path.clear();
  sync_directory(path);
}

}  // namespace bessemer
