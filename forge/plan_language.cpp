#include "forge/plan_language.h"

#include <algorithm>

namespace bessemer {

namespace {

std::string state_of(const Prerequisite& p) {
  return p.finished ? "finished" : p.begun ? "unfinished: goes on first" : "missing: is run first";
}

/// Sizes that the recipe leaves to the weights it starts from.
void inherit_shape(DecoderKeys& keys, const DecoderKeys& from) {
  const auto take = [](auto& mine, const auto& theirs) {
    if (!mine) mine = theirs;
  };
  take(keys.hidden_size, from.hidden_size);
  take(keys.num_hidden_layers, from.num_hidden_layers);
  take(keys.num_attention_heads, from.num_attention_heads);
  take(keys.num_key_value_heads, from.num_key_value_heads);
  take(keys.intermediate_size, from.intermediate_size);
  take(keys.max_position_embeddings, from.max_position_embeddings);
  take(keys.rope_theta, from.rope_theta);
  keys.vocabulary = from.vocabulary;
  keys.tie_word_embeddings = from.tie_word_embeddings;
}

}  // namespace

void language_plan(const Recipe& recipe, const std::vector<Prerequisite>& prerequisites,
                   const PlanLine& line) {
  const RunConfig& run = recipe.run;
  const TrainerConfig& trainer = run.trainer;
  const GenerationKeys& keys = run.rollout.language;
  const uint32_t use = run.uses();
  for (const Prerequisite& p : prerequisites)
    line(p.key.substr(0, p.key.find('.')),
         cat(p.recipe.name, " in ", p.folder.root.string(), ", ", state_of(p)));
  if (run.init.from) line("init", *run.init.from);
  if (use & (kUsesSft | kUsesPairs)) {
    const Source& data = run.data.from;
    if (!data.recipe)
      line("data", data.path != "env" ? data.path
                   : use == kUsesSft  ? "the environment's oracle, new items without end"
                                      : cat("answers of the starting weights, ", keys.size,
                                            " a prompt; chosen: ", run.data.chosen));
  }
  if (use & kUsesOnline) {
    line("reward", run.reward.from);
    line("rollout", cat(keys.groups * keys.size, " completions = ", keys.groups, " prompts x ",
                        keys.size, ", at most ", keys.max_tokens, " tokens each"));
    line("updates", cat(trainer.epochs, trainer.epochs == 1 ? " epoch" : " epochs",
                        " in minibatches of ", trainer.batch_size, " completions"));
  } else {
    line("updates", cat(trainer.batch_size, use == kUsesSft ? " texts" : " pairs",
                        " a step, passes of at most ", trainer.language.micro_tokens, " tokens"));
  }
}

Recipe planned_recipe(Recipe recipe, const std::vector<Prerequisite>& prerequisites) {
  for (const Prerequisite& p : prerequisites) {
    if (p.finished) {
      use_prerequisite(recipe, p);
      continue;
    }
    recipe.run.act_only = true;
    if (p.key == "init.recipe") {
      const Recipe before = planned_recipe(p.recipe, prerequisites_of(p.recipe));
      inherit_shape(recipe.run.model.decoder, before.run.model.decoder);
    }
  }
  return recipe;
}

}  // namespace bessemer
