#include "rollout/episodes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace bessemer {

namespace {

constexpr int64_t kMostTurns = 1000;  // of an episode that never ends

class Play {
 public:
  Play(EpisodeEnvs& envs, Generator& generator, const Tokenizer& tokenizer,
       const PlayOptions& options)
      : envs_(envs),
        generator_(generator),
        tokenizer_(tokenizer),
        options_(options),
        rows_(static_cast<int64_t>(options.seeds.size()) * options.size),
        table_(envs.take(options.seeds, options.reset, options.size)),
        episodes_(static_cast<size_t>(rows_)) {
    options_.sampling.stop_ids = {tokenizer.special(ChatTemplate().turn_end)};
  }

  std::vector<Episode> run() {
    try {
      begin();
      int64_t open = rows_;
      while (open > 0) {
        generator_.step();
        const std::vector<Generator::Finished> finished = generator_.take();
        if (!finished.empty()) open -= answer(finished);
      }
    } catch (...) {  // its sequences must not go on in the generator's next play
      if (first_handle_ >= 0) generator_.forget_from(first_handle_);
      throw;
    }
    envs_.give(std::move(table_));
    return std::move(episodes_);
  }

 private:
  void begin() {
    chats_.reserve(static_cast<size_t>(rows_));
    for (int64_t row = 0; row < rows_; ++row) {
      Episode& episode = episodes_[static_cast<size_t>(row)];
      episode.sequence = options_.first_sequence + static_cast<uint64_t>(row);
      episode.question = table_->text.row(row);
      episode.oracle = table_->envs->oracle(row);
      Chat& chat = chats_.emplace_back(tokenizer_);
      chat.add(Role::user, episode.question);
      chat.open_assistant();
      episode.prompt = chat.ledger().tokens;
    }
    for (int64_t row = 0; row < rows_; row += options_.size) {
      Prompt prompt;
      prompt.tokens = episodes_[static_cast<size_t>(row)].prompt;
      prompt.completions = options_.size;
      prompt.sequence = options_.first_sequence + static_cast<uint64_t>(row);
      const int64_t handle = generator_.add(prompt, options_.sampling, true);
      if (row == 0) first_handle_ = handle;
    }
  }

  /// Writes what the generator finished into the chats and lets their environments answer; returns
  /// how many episodes ended.
  int64_t answer(const std::vector<Generator::Finished>& finished) {
    Ragged replies;
    std::vector<int64_t> ids;
    int64_t ended = 0;
    for (const Generator::Finished& one : finished) {
      const int64_t row = one.handle - first_handle_;
      Episode& episode = episodes_[static_cast<size_t>(row)];
      if (!take(row, one.completion)) {
        finish(row);
        ++ended;
        continue;
      }
      const int64_t longest = table_->envs->spec().action[0].max_length;
      const auto bytes = longest > 0 ? static_cast<size_t>(longest) : std::string::npos;
      replies.push(std::string_view(episode.answer).substr(0, bytes));
      ids.push_back(row);
    }
    if (ids.empty()) return ended;
    table_->step(replies, ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (go_on(ids[i], static_cast<int64_t>(i))) continue;
      finish(ids[i]);
      ++ended;
    }
    return ended;
  }

  /// The model's turn; false where there is none to give to the environment.
  bool take(int64_t row, const Completion& completion) {
    using Finish = Completion::Finish;
    Episode& episode = episodes_[static_cast<size_t>(row)];
    // An answer without a token: what the environment said filled the context to its last place.
    if (completion.finish == Finish::prompt_too_long || completion.finish == Finish::out_of_pages ||
        completion.tokens.empty()) {
      if (episode.turns == 0) fail_episode(episode, finish_name(completion.finish));
      episode.cut = true;  // a conversation that outgrew the context ends where it stands
      return false;
    }
    // Weights may have more rows than the tokenizer has entries.
    const int32_t most = std::ranges::max(completion.tokens);
    if (most >= tokenizer_.size()) {
      fail_episode(episode, cat("token ", most, " is beyond the tokenizer's vocabulary of ",
                                tokenizer_.size(), " entries"));
      return false;
    }
    Chat& chat = chats_[static_cast<size_t>(row)];
    for (size_t i = 0; i < completion.tokens.size(); ++i) {
      chat.sampled(completion.tokens[i], completion.log_prob[i], completion.version[i]);
      episode.log_prob.push_back(completion.log_prob[i]);
      episode.version.push_back(completion.version[i]);
    }
    episode.turn_end.push_back(episode.length());
    episode.turn_reward.push_back(0);
    episode.answer = chat.last_answer();
    episode.cut = completion.finish != Finish::stop;
    episode.off_policy |= completion.truncated_sampling;
    ++episode.turns;
    return true;
  }

  /// The environment's turn, in row `at` of its arrays; false where the episode ended.
  bool go_on(int64_t row, int64_t at) {
    Episode& episode = episodes_[static_cast<size_t>(row)];
    const auto i = static_cast<size_t>(at);
    if (table_->fault[i]) {
      fail_episode(episode, table_->envs->fault_reason(row));
      return false;
    }
    episode.reward += table_->reward[i];
    episode.turn_reward.back() = table_->reward[i];
    episode.components.clear();
    for (const std::vector<float>& column : table_->components)
      episode.components.push_back(column[i]);
    if (table_->terminated[i] || table_->truncated[i] || episode.turns >= kMostTurns) {
      episode.ended = true;
      return false;
    }
    Chat& chat = chats_[static_cast<size_t>(row)];
    // What the model has not seen yet: its own frame, the environment's turn, the next header.
    int64_t seen = chat.ledger().size();
    while (!chat.ledger().trained[static_cast<size_t>(seen - 1)]) --seen;
    chat.close_assistant();
    chat.add(Role::user, table_->text.row(at));
    chat.open_assistant();
    generator_.extend(first_handle_ + row,
                      std::span(chat.ledger().tokens).subspan(static_cast<size_t>(seen)),
                      options_.sampling);
    return true;
  }

  static void fail_episode(Episode& episode, std::string_view why) {
    episode.fault = why;
    episode.reward = std::numeric_limits<double>::quiet_NaN();
  }

  void finish(int64_t row) {
    Episode& episode = episodes_[static_cast<size_t>(row)];
    const TokenLedger& ledger = chats_[static_cast<size_t>(row)].ledger();
    auto end = static_cast<size_t>(ledger.size());
    while (end > episode.prompt.size() && !ledger.trained[end - 1]) --end;
    const auto from = static_cast<int64_t>(episode.prompt.size());
    const auto to = static_cast<int64_t>(end);
    episode.continuation.tokens.assign(ledger.tokens.begin() + from, ledger.tokens.begin() + to);
    episode.continuation.trained.assign(ledger.trained.begin() + from, ledger.trained.begin() + to);
    episode.author.assign(ledger.author.begin(), ledger.author.begin() + to);
    generator_.release(first_handle_ + row);
  }

  EpisodeEnvs& envs_;
  Generator& generator_;
  const Tokenizer& tokenizer_;
  PlayOptions options_;
  int64_t rows_;
  std::unique_ptr<EpisodeTable> table_;
  std::vector<Episode> episodes_;
  std::vector<Chat> chats_;
  int64_t first_handle_ = -1;  // none was added yet
};

}  // namespace

std::vector<Episode> play_episodes(EpisodeEnvs& envs, Generator& generator,
                                   const Tokenizer& tokenizer, const PlayOptions& options) {
  if (options.seeds.empty()) return {};
  return Play(envs, generator, tokenizer, options).run();
}

std::vector<std::vector<Turn>> oracle_conversations(EpisodeEnvs& envs,
                                                    std::span<const uint64_t> seeds) {
  const auto rows = static_cast<int64_t>(seeds.size());
  std::unique_ptr<EpisodeTable> table = envs.take(seeds, {}, 1);
  std::vector<std::vector<Turn>> out(seeds.size());
  std::vector<int64_t> ids(seeds.size());
  std::iota(ids.begin(), ids.end(), int64_t{0});
  for (int64_t row = 0; row < rows; ++row)
    out[static_cast<size_t>(row)].push_back({Role::user, std::string(table->text.row(row))});
  for (int64_t turn = 0; !ids.empty(); ++turn) {
    BESSEMER_CHECK(turn < kMostTurns, ValueError, table->envs->spec().id,
                   ": the oracle's episode does not end");
    Ragged replies;
    for (const int64_t id : ids) {
      const std::string reply = table->envs->oracle(id);
      BESSEMER_CHECK(!reply.empty(), ValueError, table->envs->spec().id,
                     " has no oracle to learn from");
      replies.push(reply);
      out[static_cast<size_t>(id)].push_back({Role::assistant, reply});
    }
    table->step(replies, ids);
    std::vector<int64_t> left;
    for (size_t i = 0; i < ids.size(); ++i) {
      BESSEMER_CHECK(!table->fault[i], ValueError, table->envs->spec().id,
                     ": the oracle's episode failed: ", table->envs->fault_reason(ids[i]));
      if (table->terminated[i] || table->truncated[i]) continue;
      out[static_cast<size_t>(ids[i])].push_back(
          {Role::user, std::string(table->text.row(static_cast<int64_t>(i)))});
      left.push_back(ids[i]);
    }
    ids = std::move(left);
  }
  envs.give(std::move(table));
  return out;
}

}  // namespace bessemer
