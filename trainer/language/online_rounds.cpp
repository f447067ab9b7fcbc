// Rounds of generation: how far they run ahead of the training, and what a checkpoint keeps of
// those that are ahead (train.safetensors, "ahead.<i>.<column>").
#include <type_traits>

#include "rollout/token_samples.h"
#include "trainer/language/online.h"

namespace bessemer {

namespace {

/// The columns' elements as safetensors has them: keys of draws are the same 64 bits, signed.
template <class T>
using Stored = std::conditional_t<std::is_same_v<T, uint64_t>, int64_t, T>;

std::string column_name(size_t round, const char* column) {
  return cat("ahead.", round, ".", column);
}

}  // namespace

std::vector<Episode> OnlineTrainer::next_round() {
  while (static_cast<int64_t>(ahead_.size()) <= config_.placement.max_staleness) {
    Counters counters = counters_;
    source_->submit(next_play(config_.rollout.language.groups, counters));
    ahead_.push_back(std::exchange(counters_, counters));
  }
  std::vector<Episode> episodes = source_->take();
  check_round(episodes);
  ahead_.pop_front();
  return episodes;
}

void OnlineTrainer::check_round(const std::vector<Episode>& episodes) const {
  const auto size = static_cast<size_t>(config_.rollout.language.size);
  const size_t wanted = static_cast<size_t>(config_.rollout.language.groups) * size;
  BESSEMER_CHECK(episodes.size() == wanted, ValueError, "[episodes] a round of ", episodes.size(),
                 " episodes, expected ", wanted);
  const int32_t vocabulary = static_cast<int32_t>(model_.tokenizer->size());
  for (size_t i = 0; i < episodes.size(); ++i) {
    const Episode& episode = episodes[i];
    for (const auto* tokens : {&episode.prompt, &episode.continuation.tokens})
      for (const int32_t token : *tokens)
        BESSEMER_CHECK(token >= 0 && token < vocabulary, ValueError, "[episodes] token ", token,
                       " is beyond the vocabulary of ", vocabulary);
    BESSEMER_CHECK(episode.prompt == episodes[i - i % size].prompt, ValueError,
                   "[episodes] answers of one group to different prompts");
    BESSEMER_CHECK(episode.components.size() <= spec_.rewards.size(), ValueError,
                   "[episodes] an episode with ", episode.components.size(),
                   " rewards, the environment names ", spec_.rewards.size());
  }
}

LanguageTrainer::Counters OnlineTrainer::counters_at(size_t i) const {
  Counters out = counters_;
  if (i >= ahead_.size()) return out;
  out.items = ahead_[i].items;
  out.completions = ahead_[i].completions;
  return out;
}

/// After an error: the same items and draws again.
void OnlineTrainer::drop_ahead() {
  ahead_.clear();
  if (source_) source_->restore({});
}

/// Rounds that could not be played are generated anew by a run that goes on from here: their items
/// and draws are not counted.
LanguageTrainer::Counters OnlineTrainer::save_ahead(nn::NamedTensors& train) const {
  const std::vector<std::vector<Episode>> rounds = source_->ahead();
  for (size_t i = 0; i < rounds.size(); ++i) {
    const TokenSamples samples = token_samples(rounds[i]);
    TokenSamples::each_column(samples, [&](const char* name, const auto& column) {
      using T = typename std::decay_t<decltype(column)>::value_type;
      const std::span values(reinterpret_cast<const Stored<T>*>(column.data()), column.size());
      train.emplace_back(column_name(i, name),
                         Tensor::from(values, {static_cast<int64_t>(column.size())}));
    });
  }
  return counters_at(rounds.size());
}

void OnlineTrainer::load_ahead(const TensorFile& train) {
  if (!source_) return;
  std::vector<std::vector<Episode>> rounds;
  while (train.tensors.contains(column_name(rounds.size(), "offsets"))) {
    TokenSamples samples;
    TokenSamples::each_column(samples, [&](const char* name, auto& column) {
      using T = typename std::decay_t<decltype(column)>::value_type;
      const std::string full = column_name(rounds.size(), name);
      const Tensor& stored = train.at(full);
      BESSEMER_CHECK(stored.dtype() == dtype_of<Stored<T>>(), ValueError, "tensor '", full, "' is ",
                     dtype_name(stored.dtype()), ", expected ", dtype_name(dtype_of<Stored<T>>()));
      const auto values = stored.values<Stored<T>>();
      column.assign(values.begin(), values.end());
    });
    samples.check();
    rounds.push_back(episodes_of(samples));
    check_round(rounds.back());
  }
  // The counters of state.json are those after the last of them.
  const GenerationKeys& keys = config_.rollout.language;
  const auto count = static_cast<int64_t>(rounds.size());
  Counters at = counters_;
  at.items -= count * keys.groups;
  at.completions -= count * keys.groups * keys.size;
  BESSEMER_CHECK(at.items >= 0 && at.completions >= 0, ValueError, "a checkpoint of ",
                 counters_.items, " items cannot hold ", count, " rounds of them");
  ahead_.clear();
  for (int64_t i = 0; i < count; ++i) {
    ahead_.push_back(at);
    at.items += keys.groups;
    at.completions += keys.groups * keys.size;
  }
  source_->restore(std::move(rounds));
}

}  // namespace bessemer
