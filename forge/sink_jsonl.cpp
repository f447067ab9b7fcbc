#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "forge/json.h"
#include "forge/sinks.h"

namespace bessemer {

namespace {

constexpr std::string_view kFirst = "{\"step\": ";

class JsonlSink final : public Sink {
 public:
  explicit JsonlSink(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "ab")) {
    BESSEMER_CHECK(file_, IoError, "cannot write ", path, ": ", std::strerror(errno));
  }
  ~JsonlSink() override { std::fclose(file_); }
  JsonlSink(const JsonlSink&) = delete;
  JsonlSink& operator=(const JsonlSink&) = delete;

  void write(const MetricsRow& row) override {
    JsonObject json;
    json.add("step", row.step).add("iteration", row.iteration);
    for (const auto& [name, value] : row.metrics.values()) json.add(name, value.value());
    const std::string line = json.text() + "\n";
    check(std::fwrite(line.data(), 1, line.size(), file_) == line.size());
    check(std::fflush(file_) == 0);  // who follows the file sees whole rows, and at once
  }
  void flush() override { check(std::fflush(file_) == 0); }

 private:
  void check(bool good) const {
    BESSEMER_CHECK(good, IoError, "cannot write ", path_, ": ", std::strerror(errno));
  }
  std::string path_;
  FILE* file_;
};

}  // namespace

std::unique_ptr<Sink> jsonl_sink(const std::string& path) {
  return std::make_unique<JsonlSink>(path);
}

void truncate_jsonl(const std::string& path, int64_t step) {
  if (::access(path.c_str(), F_OK) != 0) return;
  const std::string text = read_text_file(path);
  size_t keep = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos || text.compare(at, kFirst.size(), kFirst) != 0) break;
    int64_t row_step = 0;
    const char* number = text.data() + at + kFirst.size();
    if (std::from_chars(number, text.data() + end, row_step).ec != std::errc() || row_step > step) {
      break;
    }
    keep = at = end + 1;
  }
  BESSEMER_CHECK(::truncate(path.c_str(), static_cast<off_t>(keep)) == 0, IoError, "cannot cut ",
                 path, ": ", std::strerror(errno));
}

}  // namespace bessemer
