// A completion as people look at it: <run>/completions.jsonl, the console's table, `show`,
// `doctor`.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bessemer {

struct CompletionRecord {
  std::string kind;        // "train": sampled to learn from; "eval": greedy, held-out
  int64_t group = 0;       // completions of one prompt share it
  std::string prompt;      // the environment's words
  std::string completion;  // the model's, and what the environment said between them
  std::string oracle;      // what would have been right; "" if unknown
  // One entry a token of the completion; log_prob and trained are 0 where the model did not write
  // it.
  std::vector<int32_t> tokens;
  std::vector<std::string> texts;
  std::vector<uint8_t> trained;
  std::vector<float> log_prob;
  std::vector<std::pair<std::string, double>> rewards;  // named components
  double reward = 0;     // what is learned from; not a number after a fault
  double advantage = 0;  // of the completion: the mean over its tokens
  int64_t turns = 0;
  bool cut = false;    // without its end token
  std::string finish;  // "stop", "length", or why the episode failed
};

}  // namespace bessemer
