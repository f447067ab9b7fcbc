// Conversations as tokens: a plain chat template with roles, appended turn by turn (what was said
// is never rendered again), and a ledger of every token: who wrote it, whether it is trained, its
// log-probability and the weights that produced it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/tokenizer.h"

namespace bessemer {

enum class Role : uint8_t { system, user, assistant, tool };
std::string_view role_name(Role role);
/// Throws ValueError with the nearest right name.
Role role_parse(std::string_view name);

struct Turn {
  Role role = Role::user;
  std::string content;
};

/// Who wrote a token: the template (role headers, turn ends), a message of the environment or a
/// person, or the model.
enum class Author : uint8_t { frame, message, model };

/// How turns look: `<|im_start|>role\n` text `<|im_end|>\n`, with the names of ChatML. A tokenizer
/// made by chat_special_tokens() holds both marks as special tokens; text that contains them stays
/// text.
struct ChatTemplate {
  std::string turn_start = "<|im_start|>";
  std::string turn_end = "<|im_end|>";
};
std::vector<std::string> chat_special_tokens(const ChatTemplate& look = {});
/// The text of tokenizer_config.json, which tells transformers the end mark and, as a Jinja
/// template, what Chat does: apply_chat_template() gives the same tokens.
std::string chat_tokenizer_config(const ChatTemplate& look = {});

/// One conversation. All vectors have one entry a token.
struct TokenLedger {
  std::vector<int32_t> tokens;
  std::vector<Author> author;
  std::vector<uint8_t> trained;          // 1: a sample of the model, in the loss
  std::vector<float> log_prob;           // of sampled tokens, 0 elsewhere
  std::vector<uint64_t> weight_version;  // of sampled tokens, 0 elsewhere

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  void push(int32_t token, Author who, bool train = false, float log_probability = 0,
            uint64_t version = 0);
};

/// What follows a prompt. trained [tokens]: 1 puts a token in the loss.
struct Continuation {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> trained;
};

class Chat {
 public:
  /// The tokenizer must outlive it and hold the template's marks (ValueError).
  explicit Chat(const Tokenizer& tokenizer, ChatTemplate look = {});

  /// A whole turn that the model did not write.
  void add(Role role, std::string_view text);
  /// The header of the model's turn: sampling goes on from here.
  void open_assistant();
  /// A sampled token of the open turn. The turn's end mark closes it.
  void sampled(int32_t token, float log_prob, uint64_t weight_version);
  /// Closes a turn that ended without its mark (length limit, stop string): the mark and newline
  /// belong to the frame and are not trained.
  void close_assistant();
  bool open() const { return open_; }

  const TokenLedger& ledger() const { return ledger_; }
  int32_t end_token() const { return end_; }
  /// What the model said in its last turn, without marks.
  std::string last_answer() const;

 private:
  void frame(std::string_view text);
  const Tokenizer& tokenizer_;
  ChatTemplate look_;
  int32_t start_, end_;
  bool open_ = false;
  int64_t answer_begin_ = 0;
  TokenLedger ledger_;
};

}  // namespace bessemer
