#include "forge/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <system_error>

#include "core/base/error.h"
#include "core/base/text_file.h"
#include "forge/recipe.h"
#include "trainer/checkpoint.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

bool written_by_a_run(const std::string& name) {
  for (std::string_view known :
       {"recipe.yaml", "parent.yaml", "metrics.jsonl", "completions.jsonl", "checkpoints",
        "eval.json", "aggregate.json", "video.mp4", "logs", "trace", "trace.json"}) {
    if (name == known) return true;
  }
  return name.starts_with("events.out.tfevents.") || name.starts_with("seed-");
}

void clear_run(const fs::path& root) {
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    if (written_by_a_run(entry.path().filename().string())) fs::remove_all(entry.path());
  }
}

}  // namespace

RunFolder RunFolder::seed(int64_t index) const { return {root / cat("seed-", index)}; }

std::string default_run_folder(const std::string& recipe_name) {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", &local);
  return cat("runs/", recipe_name, "-", text);
}

RunLock::RunLock(const RunFolder& folder)
    : file_(::open(folder.root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  BESSEMER_CHECK(file_ >= 0, IoError, "cannot open ", folder.root.string(), ": ",
                 std::strerror(errno));
  if (::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(file_);
  fail<FolderTaken>("another process is running in ", folder.root.string());
}

bool RunLock::held(const RunFolder& folder) {
  try {
    return RunLock(folder), false;
  } catch (const FolderTaken&) {
    return true;
  }
}

RunLock::~RunLock() {
  if (file_ >= 0) ::close(file_);
}

void check_writable(const RunFolder& folder) {
  BESSEMER_CHECK(::access(folder.root.c_str(), W_OK | X_OK) == 0, IoError,
                 "cannot write to the run folder ", folder.root.string(), ": ",
                 std::strerror(errno));
}

RunLock create_run_folder(const RunFolder& folder, bool force) {
  const std::string name = folder.root.string();
  try {
    BESSEMER_CHECK(!fs::exists(folder.root) || fs::is_directory(folder.root), ValueError, name,
                   " exists and is no folder");
    fs::create_directories(folder.root);
    check_writable(folder);
    RunLock lock(folder);  // before the look inside: another process may be writing its first file
    fs::remove(folder.recipe() += kUnfinishedFile);  // of a process that was killed
    if (!fs::is_empty(folder.root)) {
      BESSEMER_CHECK(fs::exists(folder.recipe()), ValueError, name,
                     " holds files that are no run; choose another folder with out=DIR");
      BESSEMER_CHECK(force, FolderTaken, name, " holds a run already; go on with it by --resume ",
                     name, ", replace it by --force, or choose another folder with out=DIR");
      clear_run(folder.root);
    }
    return lock;
  } catch (const fs::filesystem_error& error) {
    fail<IoError>("cannot make the run folder ", name, ": ", error.code().message());
  }
}

fs::path find_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / "manifest")) return path;
  const fs::path checkpoint = latest_checkpoint(RunFolder{path}.checkpoints());
  BESSEMER_CHECK(!checkpoint.empty(), ValueError, "there is no checkpoint in ", path);
  return checkpoint;
}

Recipe recipe_of_run(const std::string& path, std::span<const std::string> overrides) {
  fs::path root = path;
  if (!fs::exists(root / "recipe.yaml") && fs::exists(root / "manifest")) {
    root = fs::canonical(root).parent_path().parent_path();  // DIR/checkpoints/step-1
  }
  BESSEMER_CHECK(fs::exists(root), ValueError, "there is no run folder ", path);
  BESSEMER_CHECK(fs::is_directory(root) || root.extension() != ".yaml" || root.stem() == "recipe",
                 ValueError, path, " is a recipe, not a run; ./bessemer run ", path, " makes one");
  if (!fs::exists(root / "recipe.yaml")) {
    // a file or folder inside a run
    fs::path around = fs::absolute(root).lexically_normal();
    while (around.has_relative_path() && !fs::exists(around / "recipe.yaml"))
      around = around.parent_path();
    fail<ValueError>(path, " is no run folder: it has no recipe.yaml",
                     around.has_relative_path()
                         ? cat("; did you mean ", fs::proximate(around).string(), "?")
                         : "");
  }
  return load_recipe((root / "recipe.yaml").string(), overrides);
}

}  // namespace bessemer
