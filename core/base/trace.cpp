#include "core/base/trace.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "core/base/error.h"

namespace bessemer::trace {

namespace detail {
std::atomic<bool> on{false};

int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}
}  // namespace detail

namespace {

struct Event {
  const char* name;
  int64_t begin, end;  // ns
};

/// Spans of one thread. Its lock is taken by others only to flush.
struct Buffer {
  std::mutex mutex;
  std::vector<Event> events;
  const char* thread_name = nullptr;
  bool named = false;  // in the file
  bool gone = false;   // the thread ended
  long tid = syscall(SYS_gettid);
};

/// Written by whoever fills its buffer; more than a run needs between two flushes.
constexpr size_t kBuffered = 4096;
/// Of one process, then it stops: about 100 bytes each.
constexpr int64_t kMostEvents = 1'000'000;

struct Tracer {
  std::mutex mutex;  // guards all of this; taken before a buffer's
  std::vector<std::shared_ptr<Buffer>> buffers;
  int file = -1;
  int64_t written = 0;

  static Tracer& get() {
    static Tracer* tracer = new Tracer;  // threads may end after static objects
    return *tracer;
  }

  void drain(Buffer& buffer, std::string& out) {
    std::lock_guard lock(buffer.mutex);
    const long pid = getpid();
    char line[256];
    if (!buffer.named && buffer.thread_name) {
      std::snprintf(line, sizeof line,
                    R"({"ph":"M","name":"thread_name","pid":%ld,"tid":%ld,"args":{"name":"%s"}})"
                    "\n",
                    pid, buffer.tid, buffer.thread_name);
      out += line;
      buffer.named = true;
    }
    for (const Event& event : buffer.events) {
      std::snprintf(
          line, sizeof line,
          R"({"ph":"X","name":"%s","pid":%ld,"tid":%ld,"ts":%lld.%03lld,"dur":%lld.%03lld})"
          "\n",
          event.name, pid, buffer.tid, static_cast<long long>(event.begin / 1000),
          static_cast<long long>(event.begin % 1000),
          static_cast<long long>((event.end - event.begin) / 1000),
          static_cast<long long>((event.end - event.begin) % 1000));
      out += line;
    }
    written += static_cast<int64_t>(buffer.events.size());
    buffer.events.clear();
  }

  /// With the lock held.
  void flush() {
    if (file < 0) return;
    std::string out;
    for (const auto& buffer : buffers) drain(*buffer, out);
    std::erase_if(buffers, [](const auto& buffer) { return buffer->gone; });
    const bool full = written >= kMostEvents;
    if (full) {
      out += cat(R"({"ph":"i","s":"p","name":"the trace is full","pid":)", getpid(),
                 R"(,"tid":0,"ts":)", detail::now() / 1000, "}\n");
    }
    if (!write(out) || full) end();
  }
  bool write(std::string_view text) {
    while (!text.empty()) {
      const ssize_t count = ::write(file, text.data(), text.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      text.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }
  void end() {
    detail::on = false;
    if (file >= 0) ::close(file);
    file = -1;
  }
};

/// The calling thread's buffer, given to the tracer when the thread ends.
struct Local {
  std::shared_ptr<Buffer> buffer;
  ~Local() {
    if (!buffer) return;
    std::lock_guard lock(buffer->mutex);
    buffer->gone = true;
  }
  Buffer& get() {
    if (!buffer) {
      buffer = std::make_shared<Buffer>();
      Tracer& tracer = Tracer::get();
      std::lock_guard lock(tracer.mutex);
      tracer.buffers.push_back(buffer);
    }
    return *buffer;
  }
};
thread_local Local local;

std::string read_file(const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  BESSEMER_CHECK(file, IoError, "cannot read ", path, ": ", std::strerror(errno));
  std::string text;
  char block[65536];
  for (size_t got; (got = std::fread(block, 1, sizeof block, file.get())) > 0;) {
    text.append(block, got);
  }
  return text;
}

/// Adds the whole lines of `text` that are events to `out`, separated by commas.
void add_events(std::string_view text, std::string& out) {
  for (size_t end; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1)) {
    std::string_view line = text.substr(0, end);
    if (line.ends_with(',')) line.remove_suffix(1);
    if (!line.starts_with("{\"ph\":") || !line.ends_with('}')) continue;
    if (out.back() == '}') out += ",\n";
    out += line;
  }
}

}  // namespace

namespace detail {
void record(const char* name, int64_t begin, int64_t end) {
  Buffer& buffer = local.get();
  bool full = false;
  {
    std::lock_guard lock(buffer.mutex);
    if (buffer.events.capacity() == 0) buffer.events.reserve(kBuffered);
    buffer.events.push_back({name, begin, end});
    full = buffer.events.size() >= kBuffered;
  }
  if (full) flush();
}
}  // namespace detail

void start(const std::string& folder, const std::string& name) {
  Tracer& tracer = Tracer::get();
  std::lock_guard lock(tracer.mutex);
  BESSEMER_CHECK(tracer.file < 0, ValueError, "[trace] this process traces already");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::string path = cat(folder, "/", name, ".", getpid(), ".events");
  tracer.file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  BESSEMER_CHECK(tracer.file >= 0, IoError, "cannot write ", path, ": ", std::strerror(errno));
  tracer.written = 0;
  for (const auto& buffer : tracer.buffers) {
    std::lock_guard buffer_lock(buffer->mutex);
    buffer->events.clear();
    buffer->named = false;
  }
  tracer.write(cat(R"({"ph":"M","name":"process_name","pid":)", getpid(),
                   R"(,"tid":0,"args":{"name":")", name, "\"}}\n"));
  detail::on = true;
}

void start_from_environment() {
  const char* value = std::getenv(kVariable);
  if (!value) return;
  const std::string_view text = value;
  const size_t colon = text.rfind(':');
  BESSEMER_CHECK(colon != std::string_view::npos, ValueError, kVariable, " is '", text,
                 "', expected FOLDER:NAME");
  start(std::string(text.substr(0, colon)), std::string(text.substr(colon + 1)));
}

void name_thread(const char* name) {
  Buffer& buffer = local.get();
  std::lock_guard lock(buffer.mutex);
  if (buffer.thread_name == name) return;
  buffer.thread_name = name;
  buffer.named = false;
}

void flush() {
  Tracer& tracer = Tracer::get();
  std::lock_guard lock(tracer.mutex);
  tracer.flush();
}

void stop() {
  Tracer& tracer = Tracer::get();
  std::lock_guard lock(tracer.mutex);
  tracer.flush();
  tracer.end();
}

void merge(const std::string& folder, const std::string& path) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".events") files.push_back(entry.path().string());
  }
  if (files.empty()) return;
  std::ranges::sort(files);
  std::string out = "[\n";
  if (fs::exists(path, error)) add_events(read_file(path), out);
  for (const std::string& file : files) add_events(read_file(file), out);
  out += "\n]\n";
  const std::string aside = path + ".new";
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(aside.c_str(), "wb"), std::fclose);
  BESSEMER_CHECK(file, IoError, "cannot write ", aside, ": ", std::strerror(errno));
  const bool written = std::fwrite(out.data(), 1, out.size(), file.get()) == out.size() &&
                       std::fflush(file.get()) == 0 &&
                       std::rename(aside.c_str(), path.c_str()) == 0;
  const int reason = errno;
  if (!written) std::remove(aside.c_str());
  BESSEMER_CHECK(written, IoError, "cannot write ", path, ": ", std::strerror(reason));
  for (const std::string& name : files) std::remove(name.c_str());
  fs::remove(folder, error);  // unless something else is in it
}

}  // namespace bessemer::trace
