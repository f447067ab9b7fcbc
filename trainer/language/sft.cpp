#include "trainer/language/sft.h"

#include <chrono>
#include <cmath>

#include "autograd/engine.h"

namespace bessemer {

Sft::Sft(const RunConfig& config, ThreadPool& pool, EnvFactory make_envs)
    : LanguageTrainer(config, pool, std::move(make_envs), false) {
  if (config_.act_only) return;
  const bool completion_only = config_.trainer.language.completion_only;
  if (config_.data.file.empty()) {
    feed_ = TextFeed([this, completion_only](int64_t first, int64_t count) {
      std::vector<uint64_t> seeds;
      for (int64_t i = first; i < first + count; ++i) seeds.push_back(item_seed(i));
      std::vector<Text> texts;
      for (const std::vector<Turn>& turns : oracle_conversations(task("train"), seeds))
        texts.push_back(conversation_text(*model_.tokenizer, turns, !completion_only));
      const int64_t context = model_.decoder->config().max_position_embeddings;
      too_long_ = static_cast<int64_t>(
          std::erase_if(texts, [&](const Text& text) { return text_tokens(text) > context; }));
      return texts;
    });
    feed_.take(0, 1);  // an environment without an oracle is refused before anything is written
  } else {
    DatasetOptions options;
    options.completion_only = completion_only;
    options.max_tokens = model_.decoder->config().max_position_embeddings;
    feed_ = TextFeed(read_data(config_, *model_.tokenizer, options),
                     static_cast<uint64_t>(config_.seed));
    if (!has_envs()) check_held_out(feed_.data());
    too_long_ = feed_.data().too_long;
  }
}

void Sft::pass(const Pack& pack, double total, bool learn, Sums& sums) {
  const auto n = static_cast<int64_t>(pack.rows.size());
  if (n == 0) return;
  const Tensor x = pack_rows(pack_hidden(*model_.decoder, pack), pack);
  const Tensor weight = model_.decoder->output_weight(), targets = index_tensor(pack.targets);
  const auto [loss, hit] = linear_nll(x, weight, targets, Tensor::full({n}, 1 / total));
  if (learn) backward(loss);
  for (const bool right : hit.values<bool>()) sums.right += right;
  sums.loss += loss.item();
  sums.tokens += static_cast<double>(n);
}

void Sft::learn(Metrics& metrics) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Text> texts = feed_.take(counters_.items, config_.trainer.batch_size);
  counters_.items += config_.trainer.batch_size;
  int64_t total = 0;
  for (const Text& text : texts) total += trained_tokens(text);
  BESSEMER_CHECK(!texts.empty(), ValueError, "every text of step ", steps_ + 1,
                 " is longer than the model's context of ",
                 model_.decoder->config().max_position_embeddings, " tokens");
  BESSEMER_CHECK(total > 0, ValueError, "nothing is trained in the texts of step ", steps_ + 1);
  if (too_long_ > 0) metrics.last("data/too_long", static_cast<double>(too_long_));
  Sums sums;
  double computed = 0;
  for (const Pack& pack : pack_texts(texts, packing())) {
    computed += static_cast<double>(pack.tokens.size());
    pass(pack, static_cast<double>(total), true, sums);
  }
  metrics.mean("loss", sums.loss);
  metrics.mean("mean_token_accuracy", sums.right / sums.tokens);
  count_tokens(texts, metrics);
  optimise(sums.loss, metrics);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  metrics.last("time/tokens_per_second", computed / spent.count());
}

EvalResult Sft::judge(int64_t episodes, int64_t seed, bool deterministic) {
  if (has_envs()) return LanguageTrainer::judge(episodes, seed, deterministic);
  const std::vector<Text>& held = feed_.data().test;
  const NoGrad no_grad;
  EvalResult out;
  out.scores = true;
  Sums all;
  for (size_t i = 0; i < held.size() && i < static_cast<size_t>(episodes); ++i) {
    const std::span<const Text> one(&held[i], 1);
    Sums sums;
    for (const Pack& pack : pack_texts(one, packing())) pass(pack, 1, false, sums);
    BESSEMER_CHECK(std::isfinite(sums.loss), NotFiniteError, "the loss is ", sums.loss);
    out.returns.push_back(sums.tokens > 0 ? sums.right / sums.tokens : 0);
    out.lengths.push_back(static_cast<int64_t>(sums.tokens));
    all.loss += sums.loss;
    all.right += sums.right;
    all.tokens += sums.tokens;
  }
  out.unit = "examples";
  out.means.emplace_back("eval/loss", all.loss / std::max(all.tokens, 1.0));
  out.means.emplace_back("eval/mean_token_accuracy", all.right / std::max(all.tokens, 1.0));
  return out;
}

}  // namespace bessemer
