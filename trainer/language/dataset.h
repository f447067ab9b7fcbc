// Texts to learn from as JSON lines, one example a line, in the shapes that TRL reads
// (huggingface.co/docs/trl/dataset_formats):
//   {"text"}  {"messages"}  {"prompt"}  {"prompt", "completion"}
//   {"prompt", "chosen", "rejected"}  {"chosen", "rejected"} whose common beginning is the prompt
// each plain (strings) or conversational (lists of {"role", "content"}). Plain texts are taken as
// they are, with the end token after a completion; conversations go through the chat template.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/chat.h"
#include "trainer/language/packing.h"

namespace bessemer {

/// What an example is used for decides which shapes are accepted.
enum class DataUse : uint8_t { supervised, pairs, prompts };

/// The columns of an example have no accepted shape.
class ColumnsError : public ValueError {
 public:
  using ValueError::ValueError;
};

struct DatasetOptions {
  DataUse use = DataUse::supervised;
  bool completion_only = true;  // supervised: train answers only
  int64_t max_tokens = 0;       // longer examples are left out and counted; 0: no bound
  double holdout = 0;           // share kept for evaluations, by a hash of the line
};

struct Dataset {
  std::vector<Text> train, test;  // pairs: continuation 0 is chosen, 1 rejected
  std::string shape;              // "prompt, completion (conversational)"
  int64_t too_long = 0;
};

/// Reads lines of JSON. Errors name `name` and the line number: ValueError for damaged lines,
/// columns of no accepted shape (ColumnsError, naming those found), wrong types, texts that are not
/// UTF-8, nothing to train, answers whose end token is not trained.
Dataset parse_dataset(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                      const DatasetOptions& options);
/// IoError where the file cannot be read.
Dataset load_dataset(const std::filesystem::path& file, const Tokenizer& tokenizer,
                     const DatasetOptions& options);
/// What another run said, as its completions.jsonl keeps it: answers that were better than the mean
/// of their group; for pairs the best and the worst of each group. ValueError where the file holds
/// none, or another vocabulary's.
Dataset load_completions(const std::filesystem::path& file, const Tokenizer& tokenizer,
                         const DatasetOptions& options);
/// Every string of a file's examples, for learning a vocabulary.
std::vector<std::string> dataset_strings(const std::filesystem::path& file);

/// One conversation as a text. `turns`: role and content. Assistant turns are trained, their end
/// marks with them; with `all`, every token is.
Text conversation_text(const Tokenizer& tokenizer, std::span<const Turn> turns, bool all = false);
/// The turns before the answer, with the header of the answer: a prompt.
std::vector<int32_t> conversation_prompt(const Tokenizer& tokenizer, std::span<const Turn> turns);
/// An answer to it: the content's tokens and the end mark.
Continuation answer_tokens(const Tokenizer& tokenizer, std::string_view content);

}  // namespace bessemer
