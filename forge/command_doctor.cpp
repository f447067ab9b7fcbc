#include <cstdio>

#include "forge/commands.h"
#include "forge/config.h"
#include "forge/doctor.h"
#include "forge/run_folder.h"
#include "forge/runner.h"

namespace bessemer {

int command_doctor(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 1, UsageError, "which run folder?");
  const RunFolder folder{arguments.positional[0]};
  BESSEMER_CHECK(std::filesystem::exists(folder.recipe()), ValueError, folder.root.string(),
                 ": there is no run here (recipe.yaml is missing)");
  const Recipe recipe = recipe_of_run(folder.root.string(), {});
  BESSEMER_CHECK(!recipe.seeds, ValueError, folder.root.string(),
                 " holds the runs of several seeds; choose one, as ", folder.root.string(),
                 "/seed-0");
  if (!std::filesystem::exists(folder.metrics())) {
    std::printf("%s: nothing was measured; metrics.jsonl is missing (metrics.jsonl: false?)\n",
                folder.root.string().c_str());
    return kExitFailure;
  }
  const MeasuredRun run = read_measured_run(folder.metrics());
  std::vector<ShownCompletion> said;
  if (std::filesystem::exists(folder.completions())) {
    said = read_completions(folder.completions());
    std::erase_if(said, [](const ShownCompletion& c) { return c.kind == "eval"; });
  }
  DoctorFacts facts;
  facts.algo = recipe.run.trainer.algo;
  facts.language = recipe.run.model.kind == "decoder";
  facts.kl_coef = recipe.run.trainer.language.kl_coef;
  facts.max_tokens = facts.language ? recipe.run.rollout.language.max_tokens : 0;
  const std::vector<Finding> findings = diagnose(run, said, facts);
  std::printf("%s: %s, %lld rows of measurements, %zu completions kept\n",
              folder.root.string().c_str(), facts.algo.c_str(), static_cast<long long>(run.rows),
              said.size());
  if (findings.empty()) {
    std::puts(run.rows < 10 ? "nothing looks wrong, but there is little to look at yet"
                            : "nothing looks wrong");
    return kExitOk;
  }
  bool problem = false;
  for (const Finding& finding : findings) {
    constexpr const char* kWords[] = {"note", "warning", "PROBLEM"};
    std::printf("\n%s: %s\n  %s.\n  -> %s.\n", kWords[static_cast<int>(finding.weight)],
                finding.rule.c_str(), finding.text.c_str(), finding.advice.c_str());
    problem |= finding.weight == Finding::Weight::problem;
  }
  return problem ? kExitFailure : kExitOk;
}

}  // namespace bessemer
