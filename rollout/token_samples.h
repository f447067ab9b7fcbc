// Token rows: conversations of prompts, turns and completions, packed without padding. Every token
// is accounted for: who wrote it, whether it is trained, its log-probability and the weights that
// produced it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bessemer {

namespace wire {
struct Message;
}

/// Sequence s has the tokens [offsets[s], offsets[s + 1]). Columns have one entry a token or one a
/// sequence.
struct TokenSamples {
  std::vector<int64_t> offsets{0};

  // a token
  std::vector<int32_t> tokens;
  std::vector<uint8_t> author;   // core/text's Author: frame, message, model
  std::vector<uint8_t> trained;  // 1: in the loss
  std::vector<float> log_prob;   // of sampled tokens, 0 elsewhere
  std::vector<float> value;      // of the state before the token; may be empty
  std::vector<int64_t> version;  // of the weights, sampled tokens; 0 elsewhere

  // a sequence
  std::vector<uint64_t> sequence;  // key of its draws
  std::vector<int64_t> group;      // sequences of one prompt share it
  std::vector<int64_t> prompt;     // tokens before the first that was sampled
  std::vector<uint8_t> finish;     // why it ended
  std::vector<float> reward;       // the sum of its components
  std::vector<std::pair<std::string, std::vector<float>>> rewards;  // named components

  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t size() const { return offsets.back(); }
  /// Adds the sequences of another batch, which has the same reward components (ValueError).
  void append(const TokenSamples& next);
  /// Throws ValueError naming the column whose length does not fit.
  void check() const;
};

/// Adds token rows to a message. They must outlive the sending.
void write_tokens(wire::Message& message, const TokenSamples& samples);
/// Throws WireError (malformed, bad_type) where the columns do not fit each other.
TokenSamples read_tokens(const wire::Message& message);

}  // namespace bessemer
