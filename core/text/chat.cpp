#include "core/text/chat.h"

#include <array>
#include <nlohmann/json.hpp>

namespace bessemer {

namespace {
constexpr std::array<std::string_view, 4> kRoles = {"system", "user", "assistant", "tool"};
}

std::string_view role_name(Role role) { return kRoles[static_cast<size_t>(role)]; }

Role role_parse(std::string_view name) {
  for (size_t i = 0; i < kRoles.size(); ++i)
    if (kRoles[i] == name) return static_cast<Role>(i);
  const std::vector<std::string> known(kRoles.begin(), kRoles.end());
  fail<ValueError>("unknown role '", name, "'", did_you_mean(name, known));
}

std::vector<std::string> chat_special_tokens(const ChatTemplate& look) {
  return {look.turn_start, look.turn_end};
}

void TokenLedger::push(int32_t token, Author who, bool train, float log_probability,
                       uint64_t version) {
  tokens.push_back(token);
  author.push_back(who);
  trained.push_back(train ? 1 : 0);
  log_prob.push_back(log_probability);
  weight_version.push_back(version);
}

std::string chat_tokenizer_config(const ChatTemplate& look) {
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  const std::string start = quoted(look.turn_start), end = quoted(look.turn_end + "\n");
  nlohmann::ordered_json config;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  config["eos_token"] = look.turn_end;
  config["clean_up_tokenization_spaces"] = false;
  config["chat_template"] = cat("{% for message in messages %}{{ ", start,
                                " + message['role'] + \"\\n\" + message['content'] + ", end,
                                " }}{% endfor %}{% if add_generation_prompt %}{{ ", start,
                                " + \"assistant\\n\" }}{% endif %}");
  return config.dump(2) + "\n";
}

Chat::Chat(const Tokenizer& tokenizer, ChatTemplate look)
    : tokenizer_(tokenizer),
      look_(std::move(look)),
      start_(tokenizer.special(look_.turn_start)),
      end_(tokenizer.special(look_.turn_end)) {}

void Chat::frame(std::string_view text) {
  for (const int32_t id : tokenizer_.encode(text, false)) ledger_.push(id, Author::frame);
}

void Chat::add(Role role, std::string_view text) {
  BESSEMER_CHECK(!open_, ValueError, "a turn of ", role_name(role),
                 " cannot begin inside the model's open turn");
  ledger_.push(start_, Author::frame);
  frame(cat(role_name(role), '\n'));
  for (const int32_t id : tokenizer_.encode(text, false)) ledger_.push(id, Author::message);
  ledger_.push(end_, Author::frame);
  frame("\n");
}

void Chat::open_assistant() {
  BESSEMER_CHECK(!open_, ValueError, "the model's turn is already open");
  ledger_.push(start_, Author::frame);
  frame(cat(role_name(Role::assistant), '\n'));
  open_ = true;
  answer_begin_ = ledger_.size();
}

void Chat::sampled(int32_t token, float log_prob, uint64_t weight_version) {
  BESSEMER_CHECK(open_, ValueError, "a sampled token outside the model's turn");
  tokenizer_.token(token);  // IndexError beyond the vocabulary
  ledger_.push(token, Author::model, true, log_prob, weight_version);
  if (token != end_) return;
  frame("\n");
  open_ = false;
}

void Chat::close_assistant() {
  if (!open_) return;
  ledger_.push(end_, Author::frame);
  frame("\n");
  open_ = false;
}

std::string Chat::last_answer() const {
  std::string out;
  for (int64_t i = answer_begin_; i < ledger_.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (ledger_.author[at] == Author::model && ledger_.tokens[at] != end_)
      out += tokenizer_.token(ledger_.tokens[at]);
  }
  return out;
}

}  // namespace bessemer
