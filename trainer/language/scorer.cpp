#include "trainer/language/scorer.h"

#include <cmath>

namespace bessemer {

namespace {

/// The reward of a whole conversation at its last token, as the model was trained to give it.
class ModelScorer final : public Scorer {
 public:
  ModelScorer(LanguageModel model, int64_t micro_tokens)
      : model_(std::move(model)), micro_tokens_(micro_tokens) {}

  void score(std::span<Episode> episodes) override {
    const NoGrad no_grad;
    std::vector<Text> texts;
    std::vector<Episode*> scored;
    for (Episode& episode : episodes) {
      if (!episode.fault.empty() || episode.length() == 0) continue;
      // Neighbours of one prompt share it.
      if (texts.empty() || texts.back().prompt != episode.prompt)
        texts.push_back({episode.prompt, {}});
      texts.back().continuations.push_back(episode.continuation);
      scored.push_back(&episode);
    }
    size_t next = 0;
    for (const Pack& pack : pack_texts(texts, {micro_tokens_, true})) {
      const Tensor hidden = pack_hidden(*model_.decoder, pack);
      const Tensor reward = (*model_.head)(index_select(hidden, 0, index_tensor(pack.last)));
      for (const float value : reward.values<float>()) {
        Episode& episode = *scored[next++];
        episode.reward = value;
        if (!std::isfinite(value)) episode.fault = "the reward model's score is not finite";
      }
    }
  }

 private:
  LanguageModel model_;
  int64_t micro_tokens_;
};

}  // namespace

std::unique_ptr<Scorer> make_scorer(const RunConfig& config, const Tokenizer& tokenizer) {
  if (config.reward.from == "env") return nullptr;
  BESSEMER_CHECK(config.reward.from == "model", ValueError, "reward.from: '", config.reward.from,
                 "' cannot be used in this build");
  return std::make_unique<ModelScorer>(
      load_reward_model(config.reward.folder, config.model.decoder, tokenizer),
      config.trainer.language.micro_tokens);
}

}  // namespace bessemer
