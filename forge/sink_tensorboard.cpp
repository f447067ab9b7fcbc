// TensorBoard's event files, written by hand: TFRecord frames around Event protocol buffers.
//   TFRecord: u64 length, u32 masked crc of the length, the data, u32 masked crc of the data.
//   Event: 1 wall_time (double), 2 step (int64), 3 file_version (string), 5 summary, 7 session_log.
//   Summary: 1 value; Value: 1 tag (string), 2 simple_value (float). SessionLog: 1 status, START
//   = 1.
// Source: tensorflow/core/util/event.proto, summary.proto; tensorflow/core/lib/io/record_writer.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "forge/sinks.h"

namespace bessemer {

namespace {

template <class T>
void put_raw(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);  // little-endian hosts only, as the format
  out.append(bytes, sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

enum class WireType : uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
void put_key(std::string& out, uint64_t field, WireType type) {
  put_varint(out, field << 3 | static_cast<uint64_t>(type));
}
void put_bytes(std::string& out, uint64_t field, std::string_view bytes) {
  put_key(out, field, WireType::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_head(int64_t step) {
  std::string event;
  put_key(event, 1, WireType::fixed64);
  put_raw(event, wall_time());
  put_key(event, 2, WireType::varint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

class TensorBoardSink final : public Sink {
 public:
  TensorBoardSink(const std::string& folder, std::optional<int64_t> purge_from) {
    char host[64] = "localhost";
    ::gethostname(host, sizeof host - 1);
    // several runs may begin in one second: the process and a count keep the names apart
    static int count = 0;
    path_ = cat(folder, "/events.out.tfevents.", static_cast<int64_t>(wall_time()), ".", host, ".",
                static_cast<int64_t>(::getpid()), ".", count++);
    file_ = std::fopen(path_.c_str(), "wb");
    BESSEMER_CHECK(file_, IoError, "cannot write ", path_, ": ", std::strerror(errno));
    std::string first = event_head(0);
    put_bytes(first, 3, "brain.Event:2");
    record(first);
    if (purge_from) {
      std::string start = event_head(*purge_from + 1);
      put_bytes(start, 7, std::string("\x08\x01", 2));  // status: START
      record(start);
    }
  }
  ~TensorBoardSink() override { std::fclose(file_); }
  TensorBoardSink(const TensorBoardSink&) = delete;
  TensorBoardSink& operator=(const TensorBoardSink&) = delete;

  void write(const MetricsRow& row) override {
    std::string summary, value;
    for (const auto& [name, metric] : row.metrics.values()) {
      value.clear();
      put_bytes(value, 1, name);
      put_key(value, 2, WireType::fixed32);
      put_raw(value, static_cast<float>(metric.value()));
      put_bytes(summary, 1, value);
    }
    std::string event = event_head(row.step);
    put_bytes(event, 5, summary);
    record(event);
  }
  void flush() override { check(std::fflush(file_) == 0); }

 private:
  void record(std::string_view data) {
    std::string head;
    put_raw(head, static_cast<uint64_t>(data.size()));
    put_raw(head, masked_crc32c(head));
    std::string tail;
    put_raw(tail, masked_crc32c(data));
    check(std::fwrite(head.data(), 1, head.size(), file_) == head.size() &&
          std::fwrite(data.data(), 1, data.size(), file_) == data.size() &&
          std::fwrite(tail.data(), 1, tail.size(), file_) == tail.size());
  }
  void check(bool good) const {
    BESSEMER_CHECK(good, IoError, "cannot write ", path_, ": ", std::strerror(errno));
  }
  std::string path_;
  FILE* file_ = nullptr;
};

}  // namespace

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

std::unique_ptr<Sink> tensorboard_sink(const std::string& folder,
                                       std::optional<int64_t> purge_from) {
  return std::make_unique<TensorBoardSink>(folder, purge_from);
}

}  // namespace bessemer
