// Shared by the programs of bench/: timing by medians of interleaved repeats, and one table or one
// JSON line a figure. Ratios are of figures measured in the same run; nothing here asserts.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace bessemer::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Keeps the compiler from dropping a result.
template <class T>
inline void keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

/// One thing to time: `body` does `work` units (steps, flops, bytes) a call.
struct Subject {
  std::string name;
  std::function<void()> body;
  double work = 1;
  int64_t calls = 1;            // a repeat; set by calibrate
  std::vector<double> seconds;  // of one call, one entry a repeat

  void calibrate(double repeat_seconds) {
    body();
    for (calls = 1;; calls *= 2) {
      const double start = seconds_now();
      for (int64_t i = 0; i < calls; ++i) body();
      const double spent = seconds_now() - start;
      if (spent >= repeat_seconds / 4 || calls > (int64_t{1} << 40)) {
        calls = std::max<int64_t>(
            1, static_cast<int64_t>(static_cast<double>(calls) * repeat_seconds / spent));
        return;
      }
    }
  }
  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
  double rate() const { return work / median(); }
};

/// Times all subjects in turns: A B C A B C ..., so that a slow spell of the machine hits each of
/// them.
inline void measure(std::vector<Subject>& subjects, int repeats = 9, double repeat_seconds = 0.05) {
  for (Subject& s : subjects) s.calibrate(repeat_seconds);
  for (int r = 0; r < repeats; ++r) {
    for (Subject& s : subjects) {
      const double start = seconds_now();
      for (int64_t i = 0; i < s.calls; ++i) s.body();
      s.seconds.push_back((seconds_now() - start) / static_cast<double>(s.calls));
    }
  }
}

/// Collects figures; prints a table, or with --json one line a figure.
class Report {
 public:
  Report(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) json_ |= std::strcmp(argv[i], "--json") == 0;
  }
  bool json() const { return json_; }

  /// `beside` and `ratio` are optional: what the figure is held against in this run.
  void figure(const std::string& work, double value, const std::string& unit,
              const std::string& beside = "", double ratio = 0) {
    if (json_) {
      std::printf("{\"work\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"", work.c_str(), value,
                  unit.c_str());
      if (!beside.empty())
        std::printf(", \"beside\": \"%s\", \"ratio\": %.4g", beside.c_str(), ratio);
      std::printf("}\n");
    } else if (beside.empty()) {
      std::printf("%-58s %12.5g %-10s\n", work.c_str(), value, unit.c_str());
    } else {
      std::printf("%-58s %12.5g %-10s %7.3g x %s\n", work.c_str(), value, unit.c_str(), ratio,
                  beside.c_str());
    }
    std::fflush(stdout);
  }

 private:
  bool json_ = false;
};

}  // namespace bessemer::bench
