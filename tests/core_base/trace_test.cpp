#include "core/base/trace.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "core/base/error.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "bessemer-trace-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() {
    trace::stop();
    fs::remove_all(path);
  }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

std::string read(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path).rdbuf();
  return out.str();
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++found;
  return found;
}

/// The number after `"key":` of the first event called `name`, in microseconds.
double number(const std::string& text, const std::string& name, const std::string& key) {
  const size_t line = text.find("\"name\":\"" + name + "\"");
  REQUIRE(line != std::string::npos);
  const std::string mark = "\"" + key + "\":";
  return std::stod(text.substr(text.find(mark, line) + mark.size()));
}

}  // namespace

TEST_CASE("trace: spans of all threads end in one file, with names and times") {
  const Folder folder;
  CHECK(!trace::enabled());
  { const trace::Span before("before"); }
  trace::start(folder / "trace", "actor");
  CHECK_THROWS_AS(trace::start(folder / "trace", "again"), ValueError);
  trace::name_thread("main");
  {
    const trace::Span outer("outer");
    std::thread([] {
      trace::name_thread("helper");
      const trace::Span span("inner");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }).join();
  }
  trace::flush();
  { const trace::Span span("later"); }
  trace::stop();
  { const trace::Span after("after"); }
  trace::merge(folder / "trace", folder / "trace.json");
  const std::string text = read(folder / "trace.json");
  CHECK(!fs::exists(folder / "trace"));
  CHECK(text.starts_with("[\n{"));
  CHECK(text.ends_with("}\n]\n"));
  CHECK(count(text, "\"ph\":\"X\"") == 3);
  CHECK(count(text, "before") + count(text, "after") == 0);
  CHECK(count(text, "\"process_name\"") == 1);
  CHECK(count(text, "{\"name\":\"actor\"}") == 1);
  CHECK(count(text, "{\"name\":\"main\"}") == 1);
  CHECK(count(text, "{\"name\":\"helper\"}") == 1);
  CHECK(count(text, cat("\"pid\":", getpid(), ",")) == count(text, "\"pid\":"));
  CHECK(number(text, "inner", "dur") >= 2000);
  CHECK(number(text, "outer", "ts") <= number(text, "inner", "ts"));
  CHECK(number(text, "outer", "tid") != number(text, "inner", "tid"));
}

TEST_CASE("trace: many spans are written as they come") {
  const Folder folder;
  trace::start(folder / "trace", "busy");
  std::thread other([] {
    for (int i = 0; i < 10'000; ++i) const trace::Span span("other");
  });
  for (int i = 0; i < 10'000; ++i) const trace::Span span("mine");
  other.join();
  trace::stop();
  trace::merge(folder / "trace", folder / "trace.json");
  const std::string text = read(folder / "trace.json");
  CHECK(count(text, "\"mine\"") == 10'000);
  CHECK(count(text, "\"other\"") == 10'000);
}

TEST_CASE(
    "trace: a later merge adds to the first, and drops what a killed process left half done") {
  const Folder folder;
  for (const char* name : {"first", "second"}) {
    trace::start(folder / "trace", "actor");
    { const trace::Span span(name); }
    trace::stop();
    std::ofstream(folder / "trace/killed.1.events")
        << "{\"ph\":\"X\",\"name\":\"whole\",\"pid\":1}\n{\"ph\":\"X\",\"na";
    std::ofstream(folder / "trace/empty.2.events");
    trace::merge(folder / "trace", folder / "trace.json");
  }
  trace::merge(folder / "trace", folder / "trace.json");  // nothing new
  const std::string text = read(folder / "trace.json");
  CHECK(count(text, "\"first\"") == 1);
  CHECK(count(text, "\"second\"") == 1);
  CHECK(count(text, "\"whole\"") == 2);
  CHECK(count(text, "},\n{") == count(text, "\n{") - 1);
  CHECK(count(text, "\"na") == count(text, "\"name\""));
}

TEST_CASE("trace: a child is told through its environment") {
  const Folder folder;
  ::setenv(trace::kVariable, cat(folder / "trace", ":child").c_str(), 1);
  trace::start_from_environment();
  CHECK(trace::enabled());
  trace::stop();
  ::setenv(trace::kVariable, "nonsense", 1);
  CHECK_THROWS_AS(trace::start_from_environment(), ValueError);
  ::unsetenv(trace::kVariable);
  trace::start_from_environment();
  CHECK(!trace::enabled());
  CHECK(fs::exists(folder / cat("trace/child.", getpid(), ".events")));
  std::ofstream(folder / "file") << "x";
  CHECK_THROWS_AS(trace::start(folder / "file", "x"), IoError);
}
