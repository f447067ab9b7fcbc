// What a run's model said, as <run>/completions.jsonl keeps it: one object a line,
//   {"step", "kind", "group", "prompt", "completion", "oracle", "tokens": [...],
//    "log_probs": [...], "reward", "rewards": {name: value}, "advantage", "finish"}
// Its pictures for people: a table on a terminal, a page of HTML.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bessemer {

struct ShownToken {
  std::string text;                // bytes of one token; may be part of a character
  std::optional<double> log_prob;  // none: not the model's own
};

struct ShownCompletion {
  int64_t step = 0, group = 0;
  std::string kind;  // "train": sampled to learn from; "eval": greedy, held-out
  std::string prompt, completion;
  std::string oracle;              // what would have been right; "" if unknown
  std::vector<ShownToken> tokens;  // empty: only the text was kept
  std::optional<double> reward, advantage;
  std::vector<std::pair<std::string, double>> rewards;  // components by name
  std::string finish;
};

/// Reads a file; those of one optimiser step where `step` is given. A last line that was cut off is
/// left out. Throws IoError, and ValueError naming the line that is damaged.
std::vector<ShownCompletion> read_completions(const std::filesystem::path& file,
                                              std::optional<int64_t> step = std::nullopt);

/// One block a completion: prompt, answer coloured by log-probability (with `colour`), reward and
/// its parts, advantage. `width`: columns of the terminal.
std::string completions_text(std::span<const ShownCompletion> completions, bool colour, int width);
/// A page that needs nothing beside itself.
std::string completions_html(std::span<const ShownCompletion> completions, std::string_view title);

}  // namespace bessemer
