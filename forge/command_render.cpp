#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "envs/render/image.h"
#include "envs/render/keys.h"
#include "envs/render/video.h"
#include "envs/render/window.h"
#include "forge/commands.h"
#include "forge/launch.h"
#include "forge/stage.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

/// What is watched: an environment, who acts in it, and where its film goes by default.
struct Show {
  std::unique_ptr<Stage> stage;
  ActionSource actions;
  bool keyboard = false;
  uint64_t seed = 0;
  std::string film;
  TrainedPolicy policy;
};

/// A language model has no picture to act in.
void check_visible(const std::string& target) {
  const RunConfig run = recipe_of_run(target, {}).run;
  if (!(run.uses() & kUsesLanguage)) return;
  const bool speaks = run.uses() != kUsesReward;
  fail<ValueError>(target, " is the run of a language model, which has no picture: ",
                   speaks ? cat("bessemer show ", target, " has what it said, bessemer chat ",
                                target, " talks to it")
                          : cat("bessemer eval ", target, " judges it by held-out pairs"));
}

Show make_show(const Arguments& arguments, bool window) {
  const std::string& target = arguments.positional[0];
  Show show;
  if (fs::exists(target)) {
    check_visible(target);
    show.policy = load_trained_policy(target);
    const RunConfig& config = show.policy.recipe.run;
    const int64_t seed = arguments.integer("--seed", config.eval.seed, 0);
    show.seed = static_cast<uint64_t>(seed);
    show.stage =
        std::make_unique<Stage>(config.env.id, config.env.options, config.env.max_episode_steps);
    const bool deterministic = config.eval.deterministic && !arguments.has("--stochastic");
    show.actions = policy_actions(*show.policy.algorithm, deterministic, seed);
    const bool run_folder = fs::exists(fs::path(target) / "recipe.yaml");  // or a checkpoint in one
    show.film = run_folder ? RunFolder{target}.video().string() : "video.mp4";
    return show;
  }
  const std::vector<std::string> ids = env_ids();
  BESSEMER_CHECK(std::find(ids.begin(), ids.end(), target) != ids.end(), UsageError, "'", target,
                 "' is neither a run folder nor an environment", did_you_mean(target, ids));
  show.seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));
  show.stage = std::make_unique<Stage>(target, Options{});
  show.keyboard = window && playable(show.stage->spec());
  show.actions = random_actions(show.seed);
  show.film = target + ".mp4";
  return show;
}

std::string caption(const Stage& stage) {
  char text[80];
  std::snprintf(text, sizeof text, "step %lld   return %.2f", static_cast<long long>(stage.steps()),
                stage.episode_return());
  return text;
}

/// Episode after episode until the window is closed.
void watch(Show& show) {
  Stage& stage = *show.stage;
  const Spec& spec = stage.spec();
  stage.reset(show.seed);
  const Canvas& picture = stage.draw();
  Player player(spec.id, picture.width(), picture.height(), spec.render_fps, show.keyboard);
  player.show(picture, show.keyboard ? key_help(spec) : caption(stage));
  std::vector<std::byte> action(stage.action_bytes());
  while (player.next()) {
    if (stage.over()) {
      stage.reset(++show.seed);
    } else {
      if (show.keyboard) {
        key_action(spec, player.keys(), stage.steps(), action.data());
      } else {
        show.actions(stage, action.data());
      }
      stage.step(action.data());
    }
    player.show(stage.draw(), caption(stage));
  }
}

void picture(Show& show, int64_t steps, const std::string& file) {
  Stage& stage = *show.stage;
  stage.reset(show.seed);
  std::vector<std::byte> action(stage.action_bytes());
  while (stage.steps() < steps && !stage.over()) {
    show.actions(stage, action.data());
    stage.step(action.data());
  }
  write_png(file, stage.draw());
}

}  // namespace

int command_render(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 1, UsageError, "which run folder or environment?");
  const std::string* video = arguments.find("--video");
  const std::string* png = arguments.find("--png");
  const bool human = arguments.has("--human");
  BESSEMER_CHECK(human + (video != nullptr) + (png != nullptr) <= 1, UsageError,
                 "one of --human, --video and --png");
  BESSEMER_CHECK(png || !arguments.has("--step"), UsageError, "--step belongs to --png");
  const int64_t steps = arguments.integer("--step", 60, 0);

  const bool window = human || (!video && !png && display_available());
  Show show = make_show(arguments, window);
  if (window) {
    watch(show);
  } else if (png) {
    picture(show, steps, *png);
    std::printf("%s\n", png->c_str());
  } else {
    const std::string file = video ? *video : show.film;
    if (!video) std::fputs("There is no display: the episode goes to a film.\n", stderr);
    const double total = film_episode(*show.stage, show.actions, show.seed, file);
    std::printf("%s  (return %.2f)\n", file.c_str(), total);
  }
  return kExitOk;
}

}  // namespace bessemer
