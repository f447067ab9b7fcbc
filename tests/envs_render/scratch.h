// A temporary folder that goes with its scope.
#pragma once

#include <filesystem>
#include <string>

#include "core/base/error.h"

namespace bessemer {

class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "bessemer-XXXXXX").string();
    BESSEMER_CHECK(mkdtemp(pattern.data()), IoError, "no temporary folder");
    folder_ = pattern;
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  int count() const {
    int n = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++n;
    return n;
  }

 private:
  std::string folder_;
};

}  // namespace bessemer
