// Token rows: conversations of prompts, turns and completions as flat columns, packed without
// padding. Every token is accounted for: who wrote it, whether it is trained, its log-probability
// and the weights that produced it. The form in which episodes travel and are kept.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "rollout/episodes.h"

namespace bessemer {

/// Sequence s has the tokens [offsets[s], offsets[s + 1]).
struct TokenSamples {
  std::vector<int64_t> offsets{0};

  // a token
  std::vector<int32_t> tokens;
  std::vector<uint8_t> author;   // core/text's Author: frame, message, model
  std::vector<uint8_t> trained;  // 1: in the loss
  std::vector<float> log_prob;   // of sampled tokens, 0 elsewhere
  std::vector<int64_t> version;  // of the weights, sampled tokens; 0 elsewhere

  // a sequence
  std::vector<uint64_t> sequence;  // key of its draws
  std::vector<int64_t> prompt;     // tokens before the first that was sampled
  std::vector<uint8_t> finish;     // how it ended: bits of Finish
  std::vector<int64_t> turns;      // that the model had
  std::vector<int64_t> turn_end;   // [all turns] trained tokens up to the end of each
  std::vector<float> turn_reward;  // [all turns] of the environment
  std::vector<double> reward;      // over all turns; not a number after a fault
  std::vector<float> rewards;      // [sequences, components] in the order of the Spec's rewards

  // Four texts a sequence, in order: question, answer, oracle, fault. Text i is the bytes
  // [text_offsets[i], text_offsets[i + 1]).
  std::vector<int64_t> text_offsets{0};
  std::vector<uint8_t> text;

  enum Finish : uint8_t {
    kEnded = 1,      // by the environment
    kCut = 2,        // the last answer has no end token
    kOffPolicy = 4,  // truncated sampling
    kRewarded = 8,   // its row of `rewards` says something
  };

  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t size() const { return offsets.back(); }
  /// Throws ValueError naming the column that does not fit.
  void check() const;

  /// Calls visit(name, column) for each column.
  template <class Self, class Visit>
  static void each_column(Self& self, const Visit& visit) {
    visit("offsets", self.offsets);
    visit("tokens", self.tokens);
    visit("author", self.author);
    visit("trained", self.trained);
    visit("log_prob", self.log_prob);
    visit("version", self.version);
    visit("sequence", self.sequence);
    visit("prompt", self.prompt);
    visit("finish", self.finish);
    visit("turns", self.turns);
    visit("turn_end", self.turn_end);
    visit("turn_reward", self.turn_reward);
    visit("reward", self.reward);
    visit("rewards", self.rewards);
    visit("text.offsets", self.text_offsets);
    visit("text.bytes", self.text);
  }
};

TokenSamples token_samples(std::span<const Episode> episodes);
/// The other direction, bit for bit; `samples` passed check().
std::vector<Episode> episodes_of(const TokenSamples& samples);

}  // namespace bessemer
