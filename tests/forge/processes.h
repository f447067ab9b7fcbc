// What tests of process control look at: processes, descriptors, waiting.
#pragma once

#include <dirent.h>
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

namespace bessemer {

/// Waits for `condition` with tenfold slack; false where it never came.
template <class Condition>
bool comes_true(const Condition& condition, double seconds = 20) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// kill(2) for a process that exists: 0 and -1 would be whole groups of them.
inline void send_signal(std::optional<int> pid, int number) {
  REQUIRE(pid.value_or(0) > 1);
  REQUIRE(::kill(*pid, number) == 0);
}

/// Gone, or a zombie that nobody has collected yet.
inline bool process_dead(std::optional<int> id) {
  if (!id) return true;
  std::ifstream stat("/proc/" + std::to_string(*id) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return true;
  return text[text.rfind(')') + 2] == 'Z';
}

inline int open_descriptors() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder)) ++count;
  closedir(folder);
  return count;
}

}  // namespace bessemer
