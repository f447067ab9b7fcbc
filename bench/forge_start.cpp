// How long people wait for nothing: the process, the launcher, and the time from the start of the
// program to the end of its first rollout and update, seen from outside.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "bench/bench.h"
#include "core/base/child.h"

namespace {

using namespace bessemer;
namespace fs = std::filesystem;

ChildOptions quiet(std::vector<std::string> args) {
  ChildOptions options;
  options.args = std::move(args);
  options.output = options.errors = ChildOptions::Stream::null;
  return options;
}

/// Seconds of one whole call.
double whole(const std::vector<std::string>& args) {
  const double begin = bench::seconds_now();
  Child child = Child::spawn(quiet(args));
  child.wait();
  return bench::seconds_now() - begin;
}

/// Seconds until the first row of metrics is on disk.
double first_step(const std::string& program, const fs::path& scratch) {
  fs::remove_all(scratch);
  const std::string metrics = (scratch / "metrics.jsonl").string();
  const double begin = bench::seconds_now();
  Child child = Child::spawn(quiet({program, "run", BESSEMER_SOURCE "/configs/ppo_cartpole.yaml",
                                    "out=" + scratch.string(), "metrics.console=false"}));
  struct stat state {};
  while (::stat(metrics.c_str(), &state) != 0 || state.st_size == 0) {
    if (!child.running()) fail<Error>("the run ended early: ", program);
    ::usleep(200);
  }
  return bench::seconds_now() - begin;
}

template <class Measure>
double median_of(Measure measure) {
  std::vector<double> seconds;
  for (int i = 0; i < 9; ++i) seconds.push_back(measure());
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  bench::Report report(argc, argv);
  const std::string program = BESSEMER_BUILD "/forge/bessemer";
  const fs::path scratch = fs::temp_directory_path() / cat("bessemer-start-", ::getpid());
  const double bare = median_of([] { return whole({"true"}); });
  const double version = median_of([&] { return whole({program, "--version"}); });
  ::setenv("BESSEMER_BUILD", BESSEMER_BUILD, 1);
  const double launcher = median_of([] {
    return whole({BESSEMER_SOURCE "/bessemer", "--version"});
  });
  const double first = median_of([&] { return first_step(program, scratch); });
  fs::remove_all(scratch);
  report.figure("a process that does nothing", bare * 1e3, "ms");
  report.figure("bessemer --version", version * 1e3, "ms", "such a process", version / bare);
  report.figure("./bessemer --version (launcher)", launcher * 1e3, "ms", "limit of 100 ms",
                launcher / 0.1);
  report.figure("program start to first training step", first * 1e3, "ms", "limit of 300 ms",
                first / 0.3);
  return 0;
}
