// The folder of a run: recipe.yaml (resolved), metrics.jsonl, TensorBoard events, checkpoints/,
// eval.json and video.mp4, logs/ and trace.json where asked for; of several seeds: recipe.yaml,
// aggregate.json and one such folder a seed.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "forge/config.h"

namespace bessemer {

struct RunFolder {
  std::filesystem::path root;

  std::filesystem::path recipe() const { return root / "recipe.yaml"; }
  std::filesystem::path parent_recipe() const { return root / "parent.yaml"; }  // of a fork
  std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
  std::filesystem::path checkpoints() const { return root / "checkpoints"; }
  std::filesystem::path evaluation() const { return root / "eval.json"; }
  std::filesystem::path aggregate() const { return root / "aggregate.json"; }
  std::filesystem::path completions() const { return root / "completions.jsonl"; }
  std::filesystem::path video() const { return root / "video.mp4"; }
  std::filesystem::path logs() const { return root / "logs"; }         // of other processes
  std::filesystem::path trace() const { return root / "trace.json"; }  // of all processes
  std::filesystem::path spans() const { return root / "trace"; }       // while they run
  RunFolder seed(int64_t index) const;
};

/// runs/<name>-<local time>, from the working directory.
std::string default_run_folder(const std::string& recipe_name);

/// The folder is another run's, one that goes on now or one that ended.
class FolderTaken : public ValueError {
 public:
  using ValueError::ValueError;
};

/// A folder belongs to one process at a time; the lock goes with the process, however it ends.
class RunLock {
 public:
  /// Throws FolderTaken where another process runs in it, IoError where it cannot be opened.
  explicit RunLock(const RunFolder& folder);
  /// Whether a process runs in the folder.
  static bool held(const RunFolder& folder);
  ~RunLock();
  RunLock(RunLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  RunLock& operator=(RunLock&&) = delete;

 private:
  int file_;
};

/// IoError with the system's reason where nothing can be written there.
void check_writable(const RunFolder& folder);

/// Makes the folder and locks it. One that holds anything is refused; with `force` a run in it is
/// removed first, but never files that no run has written. Throws FolderTaken, ValueError
/// for other files, or IoError with the system's reason.
RunLock create_run_folder(const RunFolder& folder, bool force);

/// The newest checkpoint of a run folder, or the checkpoint that `path` names itself.
std::filesystem::path find_checkpoint(const std::string& path);
/// The recipe beside it.
Recipe recipe_of_run(const std::string& path, std::span<const std::string> overrides);

}  // namespace bessemer
