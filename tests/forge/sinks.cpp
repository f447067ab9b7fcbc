#include "forge/sinks.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "core/base/crc32c.h"
#include "core/base/error.h"
#include "core/base/text_file.h"
#include "tests/forge/scratch.h"

using namespace bessemer;

namespace {

Metrics sample(double value) {
  Metrics metrics;
  metrics.mean("rollout/ep_rew_mean", value);
  metrics.last("train/loss", -0.5);
  return metrics;
}

void write_rows(Sink& sink, std::initializer_list<int64_t> steps) {
  for (int64_t step : steps) {
    const Metrics metrics = sample(static_cast<double>(step) / 2);
    sink.write({step, step / 10, 0.5, metrics});
  }
  sink.flush();
}

struct Scalar {
  int64_t step;
  std::string tag;
  float value;
};

/// A reader of the format that shares nothing with the writer but the checksum.
class EventReader {
 public:
  explicit EventReader(std::string bytes) : bytes_(std::move(bytes)) {}

  std::vector<Scalar> scalars;
  std::string version;
  int64_t purge_step = -1;

  void read_all() {
    for (size_t at = 0; at < bytes_.size();) {
      REQUIRE(at + 12 <= bytes_.size());
      const auto length = number<uint64_t>(at);
      REQUIRE(number<uint32_t>(at + 8) == masked_crc32c(std::string_view(bytes_).substr(at, 8)));
      REQUIRE(at + 16 + length <= bytes_.size());
      const std::string_view data = std::string_view(bytes_).substr(at + 12, length);
      REQUIRE(number<uint32_t>(at + 12 + length) == masked_crc32c(data));
      event(data);
      at += 16 + length;
    }
  }

 private:
  template <class T>
  T number(size_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }
  static uint64_t varint(std::string_view& in) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(in.at(0));
      in.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  }
  static std::string_view block(std::string_view& in) {
    const uint64_t size = varint(in);
    const std::string_view out = in.substr(0, size);
    in.remove_prefix(size);
    return out;
  }
  void event(std::string_view in) {
    int64_t step = 0;
    std::vector<std::string_view> summaries;
    bool session = false;
    while (!in.empty()) {
      switch (varint(in)) {
        case 1 << 3 | 1:
          in.remove_prefix(8);
          break;
        case 2 << 3 | 0:
          step = static_cast<int64_t>(varint(in));
          break;
        case 3 << 3 | 2:
          version = block(in);
          break;
        case 5 << 3 | 2:
          summaries.push_back(block(in));
          break;
        case 7 << 3 | 2:
          session = block(in) == std::string_view("\x08\x01", 2);
          break;
        default:
          FAIL("unknown field");
          return;
      }
    }
    if (session) purge_step = step;
    for (std::string_view summary : summaries) {
      while (!summary.empty()) {
        REQUIRE(varint(summary) == (1 << 3 | 2));
        std::string_view value = block(summary);
        Scalar scalar{step, "", 0};
        while (!value.empty()) {
          const uint64_t key = varint(value);
          if (key == (1 << 3 | 2)) {
            scalar.tag = block(value);
          } else {
            REQUIRE(key == (2 << 3 | 5));
            std::memcpy(&scalar.value, value.data(), 4);
            value.remove_prefix(4);
          }
        }
        scalars.push_back(scalar);
      }
    }
  }
  std::string bytes_;
};

std::vector<std::filesystem::path> files_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

TEST_CASE("crc32c: the check value, and any split") {
  CHECK(crc32c("123456789") == 0xE3069283u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);  // RFC 3720, B.4
  CHECK(crc32c("456789", crc32c("123")) == 0xE3069283u);
  CHECK(crc32c("") == 0);
}

TEST_CASE("jsonl: a row an iteration, in order") {
  const Scratch scratch;
  write_rows(*jsonl_sink(scratch / "m.jsonl"), {10, 20});
  write_rows(*jsonl_sink(scratch / "m.jsonl"), {30});
  CHECK(read_text_file(scratch / "m.jsonl") ==
        "{\"step\": 10, \"iteration\": 1, \"rollout/ep_rew_mean\": 5, \"train/loss\": -0.5}\n"
        "{\"step\": 20, \"iteration\": 2, \"rollout/ep_rew_mean\": 10, \"train/loss\": -0.5}\n"
        "{\"step\": 30, \"iteration\": 3, \"rollout/ep_rew_mean\": 15, \"train/loss\": -0.5}\n");
}

TEST_CASE("jsonl: cutting back to a step, also after a kill in the middle of a row") {
  const Scratch scratch;
  const std::string file = scratch / "m.jsonl";
  truncate_jsonl(file, 5);
  CHECK_FALSE(std::filesystem::exists(file));
  write_rows(*jsonl_sink(file), {10, 20});
  const std::string two = read_text_file(file);
  write_rows(*jsonl_sink(file), {30});
  truncate_jsonl(file, 20);
  CHECK(read_text_file(file) == two);
  std::filesystem::resize_file(file, two.size() - 7);  // the second row is torn
  truncate_jsonl(file, 1000);
  CHECK(read_text_file(file) == two.substr(0, two.find('\n') + 1));
  truncate_jsonl(file, 0);
  CHECK(read_text_file(file).empty());
}

TEST_CASE("tensorboard: the event file reads back") {
  const Scratch scratch;
  write_rows(*tensorboard_sink(scratch.path.string(), std::nullopt), {10, 300});
  const auto files = files_in(scratch.path);
  REQUIRE(files.size() == 1);
  CHECK(files[0].filename().string().starts_with("events.out.tfevents."));
  EventReader reader(read_text_file(files[0].string()));
  reader.read_all();
  CHECK(reader.version == "brain.Event:2");
  CHECK(reader.purge_step == -1);
  REQUIRE(reader.scalars.size() == 4);
  CHECK(reader.scalars[0].step == 10);
  CHECK(reader.scalars[0].tag == "rollout/ep_rew_mean");
  CHECK(reader.scalars[0].value == 5.0f);
  CHECK(reader.scalars[3].step == 300);
  CHECK(reader.scalars[3].tag == "train/loss");
  CHECK(reader.scalars[3].value == -0.5f);
}

TEST_CASE("tensorboard: a resumed run has a file of its own that drops later steps") {
  const Scratch scratch;
  write_rows(*tensorboard_sink(scratch.path.string(), std::nullopt), {10, 20});
  write_rows(*tensorboard_sink(scratch.path.string(), 10), {20});
  const auto files = files_in(scratch.path);
  REQUIRE(files.size() == 2);
  EventReader reader(read_text_file(files[1].string()));
  reader.read_all();
  CHECK(reader.purge_step == 11);
  CHECK(reader.scalars.size() == 2);
}

TEST_CASE("sinks: a folder that cannot be written is an error with its path") {
  CHECK_THROWS_WITH_AS(jsonl_sink("/does/not/exist/m.jsonl"),
                       "cannot write /does/not/exist/m.jsonl: No such file or directory", IoError);
  CHECK_THROWS_AS(tensorboard_sink("/does/not/exist", std::nullopt), IoError);
}

TEST_CASE("console: numbers and clocks for people") {
  CHECK(short_number(0) == "0");
  CHECK(short_number(61234) == "61.2 k");
  CHECK(short_number(999.7) == "1 k");
  CHECK(short_number(1.25e6) == "1.25 M");
  CHECK(clock_text(7.2) == "0:07");
  CHECK(clock_text(750) == "12:30");
  CHECK(clock_text(3723) == "1:02:03");
}
