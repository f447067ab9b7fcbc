// What a language model says while it learns: one line a completion in completions.jsonl, and a few
// of them now and then on the terminal.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "trainer/completion.h"

namespace bessemer {

/// A line of completions.jsonl, as forge/completions.h reads it: {"step", "kind", "group",
/// "prompt", "completion", "oracle", "tokens": [text], "token_ids", "log_probs": [number or null
/// where the model did not speak], "reward", "rewards", "advantage", "turns", "finish"}. Bytes that
/// are not UTF-8 become U+FFFD.
std::string completion_json(int64_t step, const CompletionRecord& completion);

class CompletionLog {
 public:
  /// Appends to `path`, which is made with the first completion. `show`: some appear on stderr.
  CompletionLog(std::string path, bool show) : path_(std::move(path)), show_(show) {}
  /// Throws IoError.
  void write(int64_t step, std::span<const CompletionRecord> completions);
  void flush();

 private:
  void show(int64_t step, std::span<const CompletionRecord> completions);

  std::string path_;
  bool show_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_{nullptr, std::fclose};
  double shown_ = -1e9;  // seconds on the steady clock
};

}  // namespace bessemer
