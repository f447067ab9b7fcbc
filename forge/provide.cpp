#include "forge/provide.h"

#include <chrono>
#include <cstdio>
#include <thread>

#include "forge/interrupt.h"
#include "forge/prerequisites.h"

namespace bessemer {

namespace {

/// Until no process runs in the folder.
void await_folder(const Runner& runner, const Prerequisite& p) {
  if (runner.announce && RunLock::held(p.folder))
    std::fprintf(stderr, "%s: another process is running in %s, its end is waited for\n",
                 p.key.c_str(), p.folder.root.c_str());
  while (RunLock::held(p.folder)) {
    if (interrupt_requested()) throw PrerequisiteInterrupted{{.end = RunEnd::interrupted}};
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

/// Runs what others stand on, or goes on with it. Other processes may want the same run: one makes
/// it, the others wait.
void run_first(const Runner& runner, Prerequisite& p) {
  Runner first = runner;
  first.video = {};
  while (!p.finished) {
    try {
      if (runner.announce)
        std::fprintf(stderr, "%s: %s is %s, it comes first\n", p.key.c_str(), p.folder.root.c_str(),
                     p.begun ? "unfinished" : "missing");
      RunSummary summary =
          p.begun ? first.resume(p.folder.root.string(), {}) : first.run(p.recipe, false);
      if (summary.end == RunEnd::interrupted) throw PrerequisiteInterrupted{std::move(summary)};
      return;
    } catch (const FolderTaken&) {
      await_folder(runner, p);
      p.look();
    }
  }
}

}  // namespace

Recipe provide(const Runner& runner, Recipe recipe) {
  use_paths(recipe);
  for (Prerequisite& p : prerequisites_of(recipe)) {
    run_first(runner, p);
    use_prerequisite(recipe, p);
  }
  return recipe;
}

}  // namespace bessemer
