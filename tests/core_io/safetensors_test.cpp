#include "core/io/safetensors.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/ops/ops.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"

using namespace bessemer;

namespace {

/// A folder that is gone afterwards.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "bessemer_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name) const { return (path / name).string(); }
};

std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write_bytes(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);  // rewriting in place makes some file systems flush
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
/// A file with this header and that many bytes of elements.
std::string with_header(const std::string& header, size_t bytes) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i));
  return out + header + std::string(bytes, '\0');
}
std::string refusal(const std::string& path) {
  try {
    load_safetensors(path);
  } catch (const ValueError& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<std::pair<std::string, Tensor>> sample() {
  std::vector<std::pair<std::string, Tensor>> out;
  out.emplace_back("flags", gt(Tensor::arange(5), Tensor::scalar(2, Dtype::i64)));
  out.emplace_back("half", cast(Tensor::arange(3), Dtype::f16));
  out.emplace_back("brain", cast(Tensor::arange(3), Dtype::bf16));
  out.emplace_back("turned", transpose(reshape(cast(Tensor::arange(6), Dtype::f32), {2, 3})));
  out.emplace_back("number", Tensor::scalar(2.5, Dtype::f64));
  out.emplace_back("none", Tensor::empty({0, 4}));
  out.emplace_back("text \"quoted\" \xc3\xa9", cast(Tensor::arange(4), Dtype::u8));
  out.emplace_back("long", Tensor::arange(4));
  out.emplace_back("int", cast(Tensor::arange(4), Dtype::i32));
  return out;
}

}  // namespace

TEST_CASE("every dtype, strides, empty and 0-d tensors come back") {
  const Folder folder;
  const auto tensors = sample();
  save_safetensors(folder.file("a"), tensors, {{"format", "1"}, {"note", "two\nlines"}});
  const TensorFile file = load_safetensors(folder.file("a"));
  CHECK(file.metadata.at("note") == "two\nlines");
  REQUIRE(file.tensors.size() == tensors.size());
  for (const auto& [name, x] : tensors) {
    const Tensor& y = file.at(name);
    CHECK(y.dtype() == x.dtype());
    REQUIRE(y.sizes() == x.sizes());
    const Tensor dense = contiguous(x);
    CHECK(std::memcmp(y.raw(), dense.raw(),
                      static_cast<size_t>(x.numel()) * dtype_size(x.dtype())) == 0);
  }
  CHECK_THROWS_WITH_AS(file.at("numbe"), "[safetensors] no tensor 'numbe', did you mean 'number'?",
                       ValueError);
}

TEST_CASE("a file written by the Python package (safetensors 0.8.0)") {
  const TensorFile file = load_safetensors(BESSEMER_FIXTURES "/written_by_python.safetensors");
  CHECK(file.metadata.at("format") == "np");
  CHECK(file.tensors.size() == 5);
  const Tensor& weight = file.at("weight");
  REQUIRE(weight.sizes() == Shape{2, 3});
  for (int i = 0; i < 6; ++i) CHECK(weight.data<float>()[i] == static_cast<float>(i) / 4);
  CHECK(file.at("step").ndim() == 0);
  CHECK(file.at("step").item() == 7);
  CHECK(sum(file.at("mask")).item() == 2);
  CHECK(file.at("none").sizes() == Shape{0, 2});
  CHECK(cast(file.at("half"), Dtype::f32).data<float>()[1] == -2);
}

TEST_CASE("the bytes do not depend on the order of the list, and elements are aligned") {
  const Folder folder;
  auto tensors = sample();
  save_safetensors(folder.file("a"), tensors);
  std::reverse(tensors.begin(), tensors.end());
  save_safetensors(folder.file("b"), tensors);
  const std::string bytes = read_bytes(folder.file("a"));
  CHECK(bytes == read_bytes(folder.file("b")));
  uint64_t length;
  std::memcpy(&length, bytes.data(), 8);
  CHECK((8 + length) % 64 == 0);
}

TEST_CASE("names are checked before anything is written") {
  const Folder folder;
  const Tensor x = Tensor::ones({2});
  CHECK_THROWS_AS(save_safetensors(folder.file("a"), {{"x", x}, {"x", x}}), ValueError);
  CHECK_THROWS_AS(save_safetensors(folder.file("a"), {{"__metadata__", x}}), ValueError);
  CHECK_THROWS_AS(save_safetensors(folder.file("a"), {{"\xff", x}}), ValueError);
  CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("files that cannot be opened") {
  const Folder folder;
  CHECK_THROWS_AS(load_safetensors(folder.file("missing")), IoError);
  CHECK_THROWS_AS(load_safetensors(folder.path.string()), IoError);
  CHECK_THROWS_AS(save_safetensors(folder.file("no/such/folder"), {}), IoError);
}

TEST_CASE("a write that fails leaves the old file") {
  const Folder folder;
  const std::string path = folder.file("a");
  save_safetensors(path, {{"x", Tensor::ones({4})}});
  const std::string before = read_bytes(path);
  struct rlimit limit;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = limit;
  small.rlim_cur = 10000;  // the write stops short, then fails, as on a full disk
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  bool failed = false;
  try {
    save_safetensors(path, {{"x", Tensor::ones({100000})}});
  } catch (const IoError& error) {
    failed = std::string(error.what()).find("File too large") != std::string::npos;
  }
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  CHECK(failed);
  CHECK(read_bytes(path) == before);
  CHECK_FALSE(std::filesystem::exists(path + ".partial"));
}

TEST_CASE("damaged and foreign files are refused with the reason") {
  const Folder folder;
  const std::string path = folder.file("a");
  auto why = [&](const std::string& bytes) {
    write_bytes(path, bytes);
    const std::string text = refusal(path);
    const std::string start = "[safetensors] " + path + ": ";
    return text.starts_with(start) ? text.substr(start.size()) : text;
  };
  const std::string x = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  CHECK(why(with_header(x, 8)) == "accepted");
  CHECK(why("") == "too short (0 bytes)");
  CHECK(why(std::string(8, '\x7f') + "{}") ==
        "not a safetensors file (header of 9187201950435737471 bytes)");
  CHECK(why(with_header(x, 8).substr(0, 20)) == "cut off: the header has 54 bytes, the file 20");
  CHECK(why(with_header(x, 7)) == "cut off: 'x' ends at 8, the file has 7 bytes of elements");
  CHECK(why(with_header(x, 9)) == "1 bytes after the last tensor");
  CHECK(why(with_header("[]", 0)) == "the header does not begin with '{'");
  CHECK(why(with_header("{", 0)).starts_with("the header is not JSON"));
  CHECK(why(with_header("{\"x\":" + std::string(100'000, '['), 0)) ==
        "the header is nested more than 64 levels deep");
  auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"x":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  CHECK(why(with_header(entry("\"I16\"", "[2]", "[0,4]"), 4)) ==
        "'x' has dtype I16, which is not supported");
  CHECK(why(with_header(entry("\"F32\"", "[-2]", "[0,8]"), 8)) == "the shape of 'x' holds -2");
  CHECK(why(with_header(entry("\"F32\"", "[2.0]", "[0,8]"), 8)) == "the shape of 'x' holds 2.0");
  CHECK(why(with_header(entry("\"F32\"", "[3]", "[0,8]"), 8)) ==
        "'x' needs 12 bytes, its data_offsets are [0,8]");
  CHECK(why(with_header(entry("\"F32\"", "[70000000000000,70000000000000]", "[0,8]"), 8)) ==
        "the shape of 'x' is too large");
  CHECK(why(with_header(entry("\"F32\"", "[2]", "[8,0]"), 8)) ==
        "'x' needs 8 bytes, its data_offsets are [8,0]");
  CHECK(why(with_header(entry("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4))
            .starts_with("the shape of 'x'"));
  CHECK(why(with_header(entry("\"F32\"", "[1]", "[4,8]"), 8)) ==
        "'x' begins at 4, expected 0 (gap)");
  CHECK(why(with_header(R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                        R"("y":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                        6)) == "'y' begins at 2, expected 4 (overlap)");
  CHECK(why(with_header(R"({"x":1})", 0)) == "'x' must have dtype, shape and data_offsets");
  CHECK(why(with_header(R"({"__metadata__":{"a":1}})", 0)) == "metadata 'a' is not a string");
  CHECK(why(with_header(x.substr(0, x.size() - 1) + "," + x.substr(1), 8)) ==
        "the header names 'x' twice");
  CHECK(why(with_header(entry("\"BOOL\"", "[1]", "[0,1]"), 0) + "\x02") ==
        "'x' is BOOL but holds the byte 2");
}

TEST_CASE("a damaged file loads or is refused, within its memory") {
  const Folder folder;
  const std::string path = folder.file("a");
  save_safetensors(path, sample(), {{"k", "v"}});
  const std::string good = read_bytes(path);
  uint64_t refused = 0;
  const uint64_t rounds = fuzz_rounds(2000);
  for (uint64_t round = 0; round < rounds; ++round) {
    const std::string bytes = damaged(good, round);
    CAPTURE(round);
    write_bytes(path, bytes);
    const PeakMemory peak;
    try {
      const TensorFile file = load_safetensors(path);
      size_t elements = 0;
      for (const auto& [name, x] : file.tensors)
        elements += static_cast<size_t>(x.numel()) * dtype_size(x.dtype());
      CHECK(elements <= bytes.size());
    } catch (const ValueError&) {
      ++refused;
    }
    CHECK(peak.bytes() < memory_allowed(bytes.size()));
  }
  CHECK(refused > rounds / 4);
  CHECK(refused < rounds);  // edits of elements are not errors
}
