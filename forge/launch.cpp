#include "forge/launch.h"

#include <charconv>
#include <cstdio>

#include "envs/render/video.h"
#include "forge/evaluation.h"
#include "forge/prerequisites.h"
#ifdef BESSEMER_HAS_WIRE
#include "forge/processes.h"
#endif
#include "forge/stage.h"
#include "trainer/checkpoint.h"

namespace bessemer {

namespace {

/// The number in step-000000001024.
int64_t step_of(const std::filesystem::path& checkpoint) {
  const std::string name = std::filesystem::canonical(checkpoint).filename().string();
  int64_t step = 0;
  const size_t dash = name.find('-');
  if (dash != std::string::npos) {
    std::from_chars(name.data() + dash + 1, name.data() + name.size(), step);
  }
  return step;
}

/// A film is a present, not a result: where it cannot be made the run is as good without.
void film_run(Algorithm& algorithm, const RunConfig& config, const std::string& file) {
  if (config.uses() & kUsesLanguage) return;  // there is nothing to see
  if (!video_available()) {
    std::fputs("no video: this build has no FFmpeg libraries\n", stderr);
    return;
  }
  try {
    Stage stage(config.env.id, config.env.options, config.env.max_episode_steps);
    film_episode(stage, policy_actions(algorithm, config.eval.deterministic, config.eval.seed),
                 static_cast<uint64_t>(config.eval.seed), file);
  } catch (const Error& error) {
    std::fprintf(stderr, "no video: %s\n", error.what());
  }
}

void check_override(const std::string& text) {
  const std::string key = text.substr(0, text.find('='));
  for (const std::string_view kept : {"env.", "eval.", "placement.", "rollout.max_tokens"})
    if (key.starts_with(kept)) return;
  fail<RecipeError>("override '", text,
                    "': what is judged has been trained; only keys of env, "
                    "eval and placement, and rollout.max_tokens, can be set");
}

/// What a language model needs beside its checkpoint to be judged: nothing for its answers; for
/// pairs and examples, where they come from.
void prepare_language(Recipe& recipe, const std::filesystem::path& checkpoint) {
  RunConfig& run = recipe.run;
  use_paths(recipe);
  run.act_only = !judged_by_data(run);
  const bool start =
      (run.uses() == kUsesReward && run.data.file.empty() && !run.data.from.recipe) ||
      (run.uses() == kUsesDpo && !run.trainer.language.reference_free);
  if (run.act_only || !start) run.init.folder = checkpoint.string();
  // Recipes that nothing is asked of may be gone.
  if (run.act_only || (!start && !run.data.from.recipe)) return;
  for (const Prerequisite& p : prerequisites_of(recipe)) {
    if (p.key == "init.recipe" && !start) continue;
    BESSEMER_CHECK(p.finished, ValueError, p.key, ": the run ", p.folder.root.string(),
                   p.begun ? " is unfinished" : " is not here",
                   ", and this evaluation needs it; ./bessemer run ", p.recipe.file, " makes it");
    use_prerequisite(recipe, p);
  }
}

}  // namespace

Runner default_runner(bool announce, [[maybe_unused]] std::vector<std::string> program) {
  Runner runner;
  runner.factory = make_algorithm;
  runner.video = film_run;
  runner.announce = announce;
#ifdef BESSEMER_HAS_WIRE
  runner.placement = local_placement(std::move(program));
#endif
  return runner;
}

TrainedPolicy load_trained_policy(const std::string& path, std::span<const std::string> overrides) {
  for (const std::string& text : overrides) check_override(text);
  TrainedPolicy out;
  out.recipe = recipe_of_run(path, overrides);
  BESSEMER_CHECK(!out.recipe.seeds, ValueError, path,
                 " holds the runs of several seeds; choose one, as ", path, "/seed-0");
  const std::filesystem::path checkpoint = find_checkpoint(path);
  verify_checkpoint(checkpoint);
  out.step = step_of(checkpoint);
  out.pool = std::make_unique<ThreadPool>(static_cast<int>(out.recipe.run.placement.threads));
  if (out.recipe.run.uses() & kUsesLanguage) prepare_language(out.recipe, checkpoint);
  out.algorithm = make_algorithm(out.recipe.run, *out.pool);
  out.algorithm->load_policy(checkpoint);
  return out;
}

}  // namespace bessemer
