// tokenizer.json: reading, checking and writing.
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/base/text_file.h"
#include "core/text/pretokenizer.h"
#include "core/text/tokenizer.h"
#include "core/text/utf8.h"

namespace bessemer {

namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

/// GPT-2's printable stand-ins for bytes: bytes that print stand for themselves, the others are
/// moved up to U+0100 and on.
const std::vector<std::string>& byte_letters() {
  static const std::vector<std::string> letters = [] {
    std::vector<std::string> out;
    uint32_t moved = 256;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      std::string letter;
      utf8_append(letter, prints ? b : moved++);
      out.push_back(std::move(letter));
    }
    return out;
  }();
  return letters;
}

std::string to_letters(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += byte_letters()[static_cast<uint8_t>(c)];
  return out;
}

/// What is wrong, with the file's name in front.
struct Reader {
  std::string name;
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail<ValueError>(name, ": ", parts...);
  }
  const Json& member(const Json& object, const char* key) const {
    if (!object.is_object() || !object.contains(key)) refuse("'", key, "' is missing");
    return object[key];
  }
  std::string text(const Json& value, const char* what) const {
    if (!value.is_string()) refuse(what, " is not a string");
    return value.get<std::string>();
  }
  /// The type of a component, "" for null or a missing one.
  std::string type(const Json& object, const char* key) const {
    if (!object.contains(key) || object[key].is_null()) return "";
    return text(member(object[key], "type"), "a type");
  }
  std::string from_letters(const std::string& letters,
                           const std::unordered_map<std::string, uint8_t>& byte_of) const {
    std::string out;
    for (size_t i = 0; i < letters.size();) {
      const int length = utf8_sequence(std::string_view(letters).substr(i));
      const auto known =
          length > 0 ? byte_of.find(letters.substr(i, static_cast<size_t>(length))) : byte_of.end();
      if (known == byte_of.end())
        refuse("the token '", letters, "' is not written in byte letters");
      out += static_cast<char>(known->second);
      i += static_cast<size_t>(length);
    }
    return out;
  }

  void add_split(Pretokenizer& to, const std::string& pattern) const {
    try {
      to.add_split(pattern);
    } catch (const ValueError& error) {
      refuse(error.what());
    }
  }
  void add_stage(const Json& stage, Pretokenizer& to) const {
    const std::string kind = text(member(stage, "type"), "a pre-tokenizer's type");
    if (kind == "Sequence") {
      const Json& list = member(stage, "pretokenizers");
      if (!list.is_array()) refuse("'pretokenizers' is not a list");
      for (const Json& inner : list) add_stage(inner, to);
    } else if (kind == "ByteLevel") {
      if (stage.value("add_prefix_space", false)) refuse("add_prefix_space is not supported");
      if (stage.value("use_regex", true)) add_split(to, kByteLevelPattern);
    } else if (kind == "Split") {
      const Json& pattern = member(stage, "pattern");
      if (!pattern.is_object() || !pattern.contains("Regex"))
        refuse("a Split by anything but a Regex is not supported");
      if (stage.value("invert", false) || stage.value("behavior", "Isolated") != "Isolated")
        refuse("a Split that is inverted or not Isolated is not supported");
      add_split(to, text(pattern["Regex"], "a Regex"));
    } else if (kind == "Digits") {
      add_split(to, stage.value("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)");
    } else {
      refuse("the pre-tokenizer ", kind,
             " is not supported (ByteLevel, Split, Digits, Sequence are)");
    }
  }
};

}  // namespace

Tokenizer Tokenizer::parse(std::string_view json, std::string_view name) {
  try {
    return parse_checked(json, name);
  } catch (const Json::exception& error) {  // a member of another type than the format says
    fail<ValueError>(name, ": ", error.what());
  }
}

Tokenizer Tokenizer::parse_checked(std::string_view json, std::string_view name) {
  const Reader reader{std::string(name)};
  if (json_depth(json) > kMaxJsonDepth)
    reader.refuse("nested more than ", kMaxJsonDepth, " levels deep");
  const Json root = Json::parse(json, nullptr, false);
  if (root.is_discarded() || !root.is_object()) reader.refuse("this is not a JSON object");
  const Json& model = reader.member(root, "model");
  if (reader.type(root, "model") != "BPE") reader.refuse("the model is not BPE");
  if (!reader.type(root, "normalizer").empty())
    reader.refuse("the normalizer ", reader.type(root, "normalizer"), " is not supported");
  if (reader.type(root, "decoder") != "ByteLevel") reader.refuse("the decoder is not ByteLevel");

  std::unordered_map<std::string, uint8_t> byte_of;
  for (int b = 0; b < 256; ++b)
    byte_of[byte_letters()[static_cast<size_t>(b)]] = static_cast<uint8_t>(b);

  Tokenizer out;
  const Json& vocab = reader.member(model, "vocab");
  if (!vocab.is_object()) reader.refuse("'vocab' is not an object");
  const Json added = root.value("added_tokens", Json::array());
  if (!added.is_array()) reader.refuse("'added_tokens' is not a list");
  const size_t most = vocab.size() + added.size();
  std::vector<uint8_t> seen(most, 0);
  std::unordered_map<std::string, int32_t> id_of;
  out.bytes_.resize(most);
  out.special_flag_.resize(most);
  const auto claim = [&](const Json& value, const std::string& token) {
    if (!value.is_number_integer()) reader.refuse("the id of '", token, "' is not an integer");
    const auto id = value.get<int64_t>();
    if (id < 0 || id >= static_cast<int64_t>(most))
      reader.refuse("the id ", id, " of '", token, "' leaves a gap in a vocabulary of ", most);
    return static_cast<size_t>(id);
  };
  std::unordered_set<std::string> added_names;
  for (const Json& entry : added) {
    const std::string content = reader.text(reader.member(entry, "content"), "an added token");
    const size_t id = claim(reader.member(entry, "id"), content);
    if (seen[id] || content.empty())
      reader.refuse("the added token '", content, "' is empty or its id taken");
    seen[id] = 1;
    out.bytes_[id] = content;
    out.special_flag_[id] = 1;
    out.special_.emplace(content, static_cast<int32_t>(id));
    added_names.insert(content);
  }
  for (const auto& [token, value] : vocab.items()) {
    const size_t id = claim(value, token);
    if (added_names.contains(token) && seen[id] && out.bytes_[id] == token)
      continue;  // listed twice
    if (seen[id]) reader.refuse("two tokens have the id ", id);
    seen[id] = 1;
    out.bytes_[id] = reader.from_letters(token, byte_of);
    id_of.emplace(token, static_cast<int32_t>(id));
  }
  while (!seen.empty() && !seen.back()) {  // tokens listed in both places
    seen.pop_back();
    out.bytes_.pop_back();
    out.special_flag_.pop_back();
  }
  for (size_t id = 0; id < seen.size(); ++id)
    if (!seen[id]) reader.refuse("no token has the id ", id);

  for (const std::string& letter : byte_letters()) {
    const auto known = id_of.find(letter);
    if (known == id_of.end()) reader.refuse("the byte '", letter, "' has no token");
    out.byte_id_.push_back(known->second);
  }
  const Json& merges = reader.member(model, "merges");
  if (!merges.is_array()) reader.refuse("'merges' is not a list");
  for (const Json& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {  // the older form: "a b"
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) reader.refuse("the merge '", text, "' has no space");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2) {
      left = reader.text(merge[0], "a merge");
      right = reader.text(merge[1], "a merge");
    } else {
      reader.refuse("a merge is neither two strings nor one");
    }
    for (const std::string& part : {left, right, left + right})
      if (!id_of.contains(part))
        reader.refuse("the merge of '", left, "' and '", right, "' needs '", part,
                      "', which is not in the vocabulary");
    out.add_merge(id_of[left], id_of[right], id_of[left + right]);
  }
  if (!reader.type(root, "pre_tokenizer").empty()) {
    out.pretokenizer_ = std::make_unique<Pretokenizer>();
    reader.add_stage(root["pre_tokenizer"], *out.pretokenizer_);
  }
  return out;
}

Tokenizer Tokenizer::load(const std::filesystem::path& file) {
  return parse(read_text_file(file.string()), file.string());
}

std::string Tokenizer::json() const {
  OrderedJson root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = OrderedJson::array();
  for (const std::string& name : special_names()) {
    root["added_tokens"].push_back({{"id", special_.at(name)},
                                    {"content", name},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", true}});
  }
  root["normalizer"] = nullptr;
  const OrderedJson byte_level = {{"type", "ByteLevel"},
                                  {"add_prefix_space", false},
                                  {"trim_offsets", true},
                                  {"use_regex", false}};
  OrderedJson stages = OrderedJson::array();
  if (pretokenizer_)
    for (const std::string& pattern : pretokenizer_->patterns())
      stages.push_back({{"type", "Split"},
                        {"pattern", {{"Regex", pattern}}},
                        {"behavior", "Isolated"},
                        {"invert", false}});
  stages.push_back(byte_level);
  root["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", stages}};
  root["post_processor"] = nullptr;
  root["decoder"] = byte_level;
  OrderedJson vocab = OrderedJson::object();
  // Straight into the list behind the ordered map, which would search it for every key.
  auto& entries = vocab.get_ref<OrderedJson::object_t&>();
  for (size_t id = 0; id < bytes_.size(); ++id)
    if (!special_flag_[id])
      static_cast<OrderedJson::object_t::Container&>(entries).emplace_back(to_letters(bytes_[id]),
                                                                           id);
  OrderedJson merges = OrderedJson::array();
  for (const Merge& m : merges_)
    merges.push_back({to_letters(token(m.left)), to_letters(token(m.right))});
  root["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", false},
                   {"vocab", std::move(vocab)},
                   {"merges", std::move(merges)}};
  return root.dump(1) + "\n";
}

void Tokenizer::save(const std::filesystem::path& file) const {
  write_text_file(file.string(), json());
}

}  // namespace bessemer
