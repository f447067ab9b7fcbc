#include "trainer/language/dataset.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/hash.h"
#include "core/base/text_file.h"

namespace bessemer {

namespace {

using Json = nlohmann::json;

std::string columns_of(const Json& line) {
  std::string out;
  for (auto& [key, value] : line.items()) out += cat(out.empty() ? "" : ", ", key);
  return out.empty() ? "none" : out;
}

/// A column as turns; a plain string is one turn without a role.
struct Column {
  bool plain = false;
  std::vector<Turn> turns;
  std::string text() const { return turns.empty() ? std::string() : turns[0].content; }
};

Column read_column(const Json& line, const char* name, const std::string& where) {
  Column out;
  const Json& value = line.at(name);
  if (value.is_string()) {
    out.plain = true;
    out.turns.push_back({Role::user, value.get<std::string>()});
    return out;
  }
  BESSEMER_CHECK(value.is_array(), ValueError, where, "column '", name,
                 "' must be a string or a list of {\"role\", \"content\"}");
  for (const Json& turn : value) {
    const bool whole = turn.is_object() && turn.contains("role") && turn.contains("content") &&
                       turn["role"].is_string() && turn["content"].is_string();
    BESSEMER_CHECK(whole, ValueError, where, "a turn of column '", name,
                   "' must be {\"role\": text, \"content\": text}");
    try {
      out.turns.push_back(
          {role_parse(turn["role"].get<std::string>()), turn["content"].get<std::string>()});
    } catch (const ValueError& error) {
      fail<ValueError>(where, error.what());
    }
  }
  return out;
}

/// Reads examples of one shape; the shape is that of the first line.
class Reader {
 public:
  Reader(const Tokenizer& tokenizer, const DatasetOptions& options)
      : tokenizer_(tokenizer),
        options_(options),
        end_(tokenizer.special(ChatTemplate().turn_end)) {}

  Text read(const Json& line, const std::string& where) {
    const auto has = [&](const char* name) { return line.contains(name); };
    const auto use = options_.use;
    std::string shape;
    Text text;
    if (use == DataUse::pairs && has("chosen") && has("rejected")) {
      shape = has("prompt") ? "prompt, chosen, rejected" : "chosen, rejected";
      text = pair(line, where);
    } else if (use == DataUse::supervised && has("messages")) {
      shape = "messages";
      const Column messages = read_column(line, "messages", where);
      BESSEMER_CHECK(!messages.plain, ValueError, where,
                     "column 'messages' must be a list of {\"role\", \"content\"}");
      text = conversation_text(tokenizer_, messages.turns, !options_.completion_only);
    } else if (use == DataUse::supervised && has("prompt") && has("completion")) {
      shape = "prompt, completion";
      text = completion(line, where);
    } else if (use == DataUse::supervised && has("text")) {
      shape = "text";
      const Column column = read_column(line, "text", where);
      BESSEMER_CHECK(column.plain, ValueError, where, "column 'text' must be a string");
      text.continuations.push_back(plain(column.text(), true));
    } else if (use == DataUse::prompts && has("prompt")) {
      shape = "prompt";
      const Column prompt = read_column(line, "prompt", where);
      text.prompt = prompt.plain ? tokenizer_.encode(prompt.text(), false)
                                 : conversation_prompt(tokenizer_, prompt.turns);
    } else {
      fail<ColumnsError>(where, "columns found: ", columns_of(line),
                         "; accepted here: ", accepted());
    }
    const std::string kind = cat(shape, plain_ ? "" : " (conversational)");
    if (shape_.empty()) shape_ = kind;
    BESSEMER_CHECK(kind == shape_, ValueError, where, "is of the shape '", kind,
                   "', the lines before are '", shape_, "'");
    return text;
  }
  const std::string& shape() const { return shape_; }

 private:
  std::string_view accepted() const {
    if (options_.use == DataUse::pairs) return "prompt, chosen, rejected | chosen, rejected";
    if (options_.use == DataUse::prompts) return "prompt";
    return "text | messages | prompt, completion";
  }

  Continuation plain(const std::string& content, bool train) {
    plain_ = true;
    Continuation out;
    out.tokens = tokenizer_.encode(content, false);
    out.tokens.push_back(end_);
    out.trained.assign(out.tokens.size(), train ? 1 : 0);
    return out;
  }

  static void check_answer(bool empty, const char* column, const std::string& where) {
    BESSEMER_CHECK(!empty, ValueError, where, "column '", column,
                   "' is empty: nothing would be learned but to stop");
  }

  /// The turns of an answer, which the model writes.
  static void check_roles(const Column& column, const char* name, const std::string& where) {
    BESSEMER_CHECK(!column.turns.empty() && column.turns.front().role == Role::assistant,
                   ValueError, where, "column '", name,
                   "' must begin with a turn of the assistant");
  }

  Text completion(const Json& line, const std::string& where) {
    const Column prompt = read_column(line, "prompt", where);
    const Column answer = read_column(line, "completion", where);
    BESSEMER_CHECK(prompt.plain == answer.plain, ValueError, where,
                   "columns 'prompt' and 'completion' are both plain or both conversational");
    if (!prompt.plain) {
      plain_ = false;
      check_roles(answer, "completion", where);
      std::vector<Turn> turns = prompt.turns;
      turns.insert(turns.end(), answer.turns.begin(), answer.turns.end());
      return conversation_text(tokenizer_, turns, !options_.completion_only);
    }
    check_answer(answer.text().empty(), "completion", where);
    Text text;
    if (options_.completion_only) {
      text.prompt = tokenizer_.encode(prompt.text(), false);
      text.continuations.push_back(plain(answer.text(), true));
    } else {
      text.continuations.push_back(plain(prompt.text() + answer.text(), true));
    }
    return text;
  }

  Text pair(const Json& line, const std::string& where) {
    const Column chosen = read_column(line, "chosen", where);
    const Column rejected = read_column(line, "rejected", where);
    BESSEMER_CHECK(chosen.plain == rejected.plain, ValueError, where,
                   "columns 'chosen' and 'rejected' are both plain or both conversational");
    if (chosen.plain) return plain_pair(line, chosen.text(), rejected.text(), where);
    plain_ = false;
    std::vector<Turn> prompt;
    size_t common = 0;
    if (line.contains("prompt")) {
      const Column column = read_column(line, "prompt", where);
      BESSEMER_CHECK(!column.plain, ValueError, where,
                     "columns 'prompt' and 'chosen' are both plain or both conversational");
      prompt = column.turns;
    } else {
      const size_t shorter = std::min(chosen.turns.size(), rejected.turns.size());
      while (common < shorter && chosen.turns[common].role == rejected.turns[common].role &&
             chosen.turns[common].content == rejected.turns[common].content)
        ++common;
      prompt.assign(chosen.turns.begin(), chosen.turns.begin() + static_cast<int64_t>(common));
    }
    Text text;
    text.prompt = conversation_prompt(tokenizer_, prompt);
    for (const auto& [column, name] : {std::pair(&chosen, "chosen"), {&rejected, "rejected"}}) {
      const bool single = column->turns.size() == common + 1;
      BESSEMER_CHECK(single && column->turns[common].role == Role::assistant, ValueError, where,
                     "column '", name, "' must be one turn of the assistant after the prompt");
      check_answer(column->turns[common].content.empty(), name, where);
      text.continuations.push_back(answer_tokens(tokenizer_, column->turns[common].content));
    }
    return text;
  }

  Text plain_pair(const Json& line, std::string chosen, std::string rejected,
                  const std::string& where) {
    Text text;
    if (line.contains("prompt")) {
      const Column prompt = read_column(line, "prompt", where);
      BESSEMER_CHECK(prompt.plain, ValueError, where,
                     "columns 'prompt' and 'chosen' are both plain or both conversational");
      text.prompt = tokenizer_.encode(prompt.text(), false);
    } else {
      // Whole characters only: the beginning ends before the first that differs.
      size_t common = static_cast<size_t>(
          std::mismatch(chosen.begin(), chosen.end(), rejected.begin(), rejected.end()).first -
          chosen.begin());
      while (common > 0 && common < chosen.size() &&
             (static_cast<uint8_t>(chosen[common]) & 0xC0) == 0x80)
        --common;
      text.prompt = tokenizer_.encode(chosen.substr(0, common), false);
      chosen.erase(0, common);
      rejected.erase(0, common);
    }
    check_answer(chosen.empty(), "chosen", where);
    check_answer(rejected.empty(), "rejected", where);
    text.continuations.push_back(plain(chosen, true));
    text.continuations.push_back(plain(rejected, true));
    return text;
  }

  const Tokenizer& tokenizer_;
  const DatasetOptions& options_;
  int32_t end_;
  bool plain_ = true;
  std::string shape_;
};

/// A run that could only learn nothing, or never to stop, is refused.
class Trained {
 public:
  explicit Trained(const Tokenizer& tokenizer) : end_(tokenizer.special(ChatTemplate().turn_end)) {}

  void add(const Text& text) {
    tokens_ += trained_tokens(text);
    for (const Continuation& c : text.continuations)
      for (size_t i = 0; i < c.tokens.size(); ++i) ends_ += c.trained[i] && c.tokens[i] == end_;
  }
  void check(const std::string& name) const {
    BESSEMER_CHECK(tokens_ > 0, ValueError, name,
                   ": nothing is trained: no example has an answer of the assistant");
    BESSEMER_CHECK(ends_ > 0, ValueError, name,
                   ": no answer's end token is trained: the model would never learn to stop");
  }

 private:
  int32_t end_;
  int64_t tokens_ = 0, ends_ = 0;
};

/// Hash of the line, as a share of 1.
double share_of(std::string_view line) { return static_cast<double>(xxh64(line) >> 11) * 0x1p-53; }

Json parse_line(std::string_view line, const std::string& where) {
  BESSEMER_CHECK(json_depth(line) <= kMaxJsonDepth, ValueError, where, "is nested more than ",
                 kMaxJsonDepth, " levels deep");
  try {
    Json json = Json::parse(line);
    BESSEMER_CHECK(json.is_object(), ValueError, where, "is no JSON object");
    return json;
  } catch (const nlohmann::json::exception& error) {
    const std::string_view what = error.what();
    const size_t colon = what.find("] ");
    fail<ValueError>(
        where, "is damaged: ", colon == std::string_view::npos ? what : what.substr(colon + 2));
  }
}

/// A count: a cast from anything else than a whole number of its range has no meaning.
uint64_t whole(const Json& value, const std::string& where) {
  BESSEMER_CHECK(value.is_number_unsigned(), ValueError, where, "is no completion of a run");
  return value.get<uint64_t>();
}

template <class Visit>
void each_line(std::string_view text, const std::string& name, Visit&& visit) {
  int64_t number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    visit(line, cat(name, ":", number, ": "));
  }
}

}  // namespace

Text conversation_text(const Tokenizer& tokenizer, std::span<const Turn> turns, bool all) {
  Chat chat(tokenizer);
  int64_t split = -1;
  for (const Turn& turn : turns) {
    if (turn.role != Role::assistant) {
      chat.add(turn.role, turn.content);
      continue;
    }
    chat.open_assistant();
    if (split < 0) split = chat.ledger().size();
    for (const int32_t id : tokenizer.encode(turn.content, false)) chat.sampled(id, 0, 0);
    chat.sampled(chat.end_token(), 0, 0);
  }
  const TokenLedger& ledger = chat.ledger();
  const int64_t begin = all || split < 0 ? 0 : split;
  Text out;
  out.prompt.assign(ledger.tokens.begin(), ledger.tokens.begin() + begin);
  Continuation answer;
  answer.tokens.assign(ledger.tokens.begin() + begin, ledger.tokens.end());
  answer.trained.assign(ledger.trained.begin() + begin, ledger.trained.end());
  if (all) std::fill(answer.trained.begin(), answer.trained.end(), uint8_t{1});
  out.continuations.push_back(std::move(answer));
  return out;
}

std::vector<int32_t> conversation_prompt(const Tokenizer& tokenizer, std::span<const Turn> turns) {
  Chat chat(tokenizer);
  for (const Turn& turn : turns) {
    if (turn.role != Role::assistant) {
      chat.add(turn.role, turn.content);
      continue;
    }
    chat.open_assistant();
    for (const int32_t id : tokenizer.encode(turn.content, false)) chat.sampled(id, 0, 0);
    chat.close_assistant();
  }
  chat.open_assistant();
  return chat.ledger().tokens;
}

Continuation answer_tokens(const Tokenizer& tokenizer, std::string_view content) {
  Continuation out;
  out.tokens = tokenizer.encode(content, false);
  out.tokens.push_back(tokenizer.special(ChatTemplate().turn_end));
  out.trained.assign(out.tokens.size(), 1);
  return out;
}

Dataset parse_dataset(std::string_view text, const std::string& name, const Tokenizer& tokenizer,
                      const DatasetOptions& options) {
  Dataset out;
  Reader reader(tokenizer, options);
  Trained trained(tokenizer);
  int64_t lines = 0;
  each_line(text, name, [&](std::string_view line, const std::string& where) {
    ++lines;
    Text example = reader.read(parse_line(line, where), where);
    if (options.max_tokens > 0 && text_tokens(example) > options.max_tokens) {
      ++out.too_long;
      return;
    }
    trained.add(example);
    const bool held = options.holdout > 0 && share_of(line) < options.holdout;
    (held ? out.test : out.train).push_back(std::move(example));
  });
  out.shape = reader.shape();
  BESSEMER_CHECK(lines > 0, ValueError, name, ": there are no examples");
  BESSEMER_CHECK(out.too_long < lines, ValueError, name, ": all ", lines,
                 " examples are longer than ", options.max_tokens, " tokens");
  if (options.use != DataUse::prompts) trained.check(name);
  BESSEMER_CHECK(!out.train.empty(), ValueError, name,
                 ": every example is held out; lower data.holdout");
  return out;
}

Dataset load_dataset(const std::filesystem::path& file, const Tokenizer& tokenizer,
                     const DatasetOptions& options) {
  return parse_dataset(read_text_file(file.string()), file.string(), tokenizer, options);
}

Dataset load_completions(const std::filesystem::path& file, const Tokenizer& tokenizer,
                         const DatasetOptions& options) {
  struct Said {
    double reward = 0, advantage = 0;
    Text text;
  };
  std::map<std::pair<uint64_t, uint64_t>, std::vector<Said>> groups;  // by step and group
  each_line(read_text_file(file.string()), file.string(),
            [&](std::string_view line, const std::string& where) {
              const Json json = parse_line(line, where);
              try {
                if (json.at("kind") != "train" || !json.at("reward").is_number()) return;
                Said said;
                said.reward = json.at("reward").get<double>();
                said.advantage = json.at("advantage").get<double>();
                const std::array<Turn, 1> question = {
                    Turn{Role::user, json.at("prompt").get<std::string>()}};
                said.text.prompt = conversation_prompt(tokenizer, question);
                Continuation answer;
                for (const Json& id : json.at("token_ids")) {
                  const uint64_t token = whole(id, where);
                  BESSEMER_CHECK(token < static_cast<uint64_t>(tokenizer.size()), ValueError, where,
                                 "token ", token, " is beyond the vocabulary of ",
                                 tokenizer.size());
                  answer.tokens.push_back(static_cast<int32_t>(token));
                }
                for (const Json& own : json.at("log_probs"))
                  answer.trained.push_back(!own.is_null());
                BESSEMER_CHECK(answer.tokens.size() == answer.trained.size(), ValueError, where,
                               "has another number of log_probs than of token_ids");
                const bool spoke = std::ranges::find(answer.trained, 1) != answer.trained.end();
                if (!spoke) return;  // a question longer than the context
                said.text.continuations.push_back(std::move(answer));
                groups[{whole(json.at("step"), where), whole(json.at("group"), where)}].push_back(
                    std::move(said));
              } catch (const nlohmann::json::exception&) {
                fail<ValueError>(where, "is no completion of a run");
              }
            });
  Dataset out;
  out.shape = "completions of a run";
  Trained trained(tokenizer);
  const auto keep = [&](Text text, uint64_t key) {
    if (options.max_tokens > 0 && text_tokens(text) > options.max_tokens) {
      ++out.too_long;
      return;
    }
    trained.add(text);
    const bool held = options.holdout > 0 && share_of(cat(key)) < options.holdout;
    (held ? out.test : out.train).push_back(std::move(text));
  };
  uint64_t key = 0;
  for (auto& [place, said] : groups) {
    ++key;
    if (options.use != DataUse::pairs) {
      for (Said& one : said)
        if (one.advantage > 0) keep(std::move(one.text), key);
      continue;
    }
    const auto less = [](const Said& a, const Said& b) { return a.reward < b.reward; };
    const auto [worst, best] = std::minmax_element(said.begin(), said.end(), less);
    if (worst->reward == best->reward) continue;
    Text pair = best->text;
    pair.continuations.push_back(worst->text.continuations[0]);
    keep(std::move(pair), key);
  }
  BESSEMER_CHECK(!out.train.empty(), ValueError, file.string(),
                 ": holds no completion that was better than its group's others");
  trained.check(file.string());
  return out;
}

std::vector<std::string> dataset_strings(const std::filesystem::path& file) {
  std::vector<std::string> out;
  const std::string text = read_text_file(file.string());
  const auto collect = [&](const auto& self, const Json& value) -> void {
    if (value.is_string()) out.push_back(value.get<std::string>());
    if (value.is_structured())
      for (const Json& item : value) self(self, item);
  };
  each_line(text, file.string(), [&](std::string_view line, const std::string& where) {
    collect(collect, parse_line(line, where));
  });
  return out;
}

}  // namespace bessemer
