#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "core/base/text_file.h"
#include "forge/commands.h"
#include "forge/completions.h"
#include "forge/run_folder.h"

namespace bessemer {

namespace {

int terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 100;
}

}  // namespace

bool colour_wanted() {
  const char* off = std::getenv("NO_COLOR");
  return (!off || !*off) && ::isatty(STDOUT_FILENO) == 1;
}

int command_show(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 1, UsageError, "which run folder?");
  const RunFolder folder{arguments.positional[0]};
  BESSEMER_CHECK(std::filesystem::exists(folder.root), ValueError, folder.root.string(),
                 ": there is no such folder");
  BESSEMER_CHECK(!std::filesystem::exists(folder.seed(0).root), ValueError, folder.root.string(),
                 " holds the runs of several seeds; choose one, as ", folder.root.string(),
                 "/seed-0");
  BESSEMER_CHECK(std::filesystem::exists(folder.completions()), ValueError, folder.root.string(),
                 " holds no completions.jsonl: only runs of models that speak write one");
  std::optional<int64_t> step;
  if (arguments.has("--step")) step = arguments.integer("--step", 0, 0);
  std::vector<ShownCompletion> all = read_completions(folder.completions());
  BESSEMER_CHECK(!all.empty(), ValueError, folder.completions().string(),
                 ": nothing has been said yet");
  const int64_t wanted = step.value_or(all.back().step);
  std::vector<int64_t> steps;
  for (const ShownCompletion& c : all)
    if (steps.empty() || steps.back() != c.step) steps.push_back(c.step);
  const std::string* html = arguments.find("--html");
  if (step || !html) {  // a page shows every step unless one is named
    std::erase_if(all, [&](const ShownCompletion& c) { return c.step != wanted; });
  }
  if (all.empty()) {
    const auto nearest = std::min_element(steps.begin(), steps.end(), [&](int64_t a, int64_t b) {
      return std::abs(a - wanted) < std::abs(b - wanted);
    });
    fail<ValueError>(folder.root.string(), ": nothing was kept of step ", wanted,
                     "; the nearest is ", *nearest, " (", steps.size(),
                     steps.size() == 1 ? " step, " : " steps, ", steps.front(), " to ",
                     steps.back(), ")");
  }
  if (html) {
    write_text_file(*html, completions_html(all, folder.root.string()));
    std::printf("%zu completions in %s\n", all.size(), html->c_str());
    return kExitOk;
  }
  std::fputs(completions_text(all, colour_wanted(), terminal_width()).c_str(), stdout);
  return kExitOk;
}

}  // namespace bessemer
