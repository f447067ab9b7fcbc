#include "trainer/language/scorer.h"

#include <cmath>

#include "core/text/utf8.h"
#include "trainer/language/packing.h"
#ifdef BESSEMER_HAS_WIRE
#include "envs/server/reward_host.h"
#endif

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
      const int64_t context = model_.decoder->config().max_position_embeddings;
      if (static_cast<int64_t>(episode.prompt.size() + episode.continuation.tokens.size()) >
          context) {
        episode.fault = cat("longer than the reward model's context of ", context, " tokens");
        continue;
      }
      // Neighbours of one prompt share it.
      if (texts.empty() || texts.back().prompt != episode.prompt)
        texts.push_back({episode.prompt, {}});
      texts.back().continuations.push_back(episode.continuation);
      scored.push_back(&episode);
    }
    if (scored.empty()) return;
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

#ifdef BESSEMER_HAS_WIRE
/// Bytes that are no UTF-8 as U+FFFD, as Python's text wants them.
std::string valid_text(std::string_view bytes) {
  Utf8Decoder decoder;
  std::string out = decoder.push(bytes);
  return out + decoder.finish();
}

/// A function of the user's, in a process of its own. Beside prompts and completions (the model's
/// last words) it gets the columns oracle, turns, env_reward and finish.
class PythonScorer final : public Scorer {
 public:
  PythonScorer(const std::string& spec, double deadline)
      : host_(spec, RewardOptions{.deadline = deadline}) {}

  void score(std::span<Episode> episodes) override {
    std::vector<std::string> prompts, completions;
    wire::List oracle, turns, env_reward, finish;
    std::vector<Episode*> scored;
    for (Episode& episode : episodes) {
      if (!episode.fault.empty()) continue;
      prompts.push_back(valid_text(episode.question));
      completions.push_back(valid_text(episode.answer));
      oracle.emplace_back(valid_text(episode.oracle));
      turns.emplace_back(episode.turns);
      env_reward.emplace_back(episode.reward);
      finish.emplace_back(episode.cut ? "length" : "stop");
      scored.push_back(&episode);
    }
    if (scored.empty()) return;
    const std::vector<Score> scores = host_.score(prompts, completions,
                                                  {{"oracle", std::move(oracle)},
                                                   {"turns", std::move(turns)},
                                                   {"env_reward", std::move(env_reward)},
                                                   {"finish", std::move(finish)}});
    for (size_t i = 0; i < scored.size(); ++i) {
      scored[i]->reward = scores[i].value;
      scored[i]->fault = scores[i].fault;
    }
  }

 private:
  RewardHost host_;
};
#endif

}  // namespace

std::unique_ptr<Scorer> make_scorer(const RunConfig& config, const Tokenizer& tokenizer) {
  if (config.reward.from == "env") return nullptr;
  if (config.reward.from != "model") {
#ifdef BESSEMER_HAS_WIRE
    return std::make_unique<PythonScorer>(config.reward.from, config.reward.deadline);
#else
    fail<ValueError>(
        "reward.from: this build has no wire, over which Python functions are asked: it was made "
        "without libzmq, cppzmq and msgpack");
#endif
  }
  return std::make_unique<ModelScorer>(
      load_reward_model(config.reward.folder, config.model.decoder, tokenizer),
      config.trainer.language.micro_tokens);
}

}  // namespace bessemer
