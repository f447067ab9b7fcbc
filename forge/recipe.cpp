#include "forge/recipe.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "forge/recipe_keys.h"

namespace bessemer {

namespace {

using Kind = RecipeNode::Kind;

std::string_view kind_name(const RecipeNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "nothing";
    case Kind::scalar:
      return "a value";
    case Kind::sequence:
      return "a list";
    case Kind::mapping:
      return "a mapping";
  }
  return "";
}

std::string shown(const RecipeNode& node) {
  if (node.kind != Kind::scalar) return std::string(kind_name(node));
  std::string text = node.text.substr(0, 60);
  if (node.text.size() > 60) text += "...";
  return cat("'", text, "'");
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Removes underscores that stand between digits and a leading plus; false where one stands
/// elsewhere.
bool plain_number(std::string_view text, std::string& out) {
  out.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_') {
      const bool between =
          i > 0 && i + 1 < text.size() && is_digit(text[i - 1]) && is_digit(text[i + 1]);
      if (!between) return false;
    } else if (i > 0 || text[i] != '+') {
      out += text[i];
    }
  }
  return !out.empty();
}

template <class T>
bool parse_whole(const std::string& text, T& out) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool to_number(const RecipeNode& node, double& out) {
  std::string text;
  return node.kind == Kind::scalar && !node.quoted && plain_number(node.text, text) &&
         parse_whole(text, out);
}

bool to_integer(const RecipeNode& node, int64_t& out) {
  std::string text;
  if (node.kind != Kind::scalar || node.quoted || !plain_number(node.text, text)) return false;
  if (parse_whole(text, out)) return true;
  double number = 0;  // 1e6 and 3.0 are whole numbers too
  if (!parse_whole(text, number) || !(std::abs(number) <= 0x1p53) || number != std::floor(number)) {
    return false;
  }
  out = static_cast<int64_t>(number);
  return true;
}

std::string join(std::span<const std::string> names) {
  std::string out;
  for (size_t i = 0; i < names.size(); ++i) out += cat(i ? ", " : "", names[i]);
  return out;
}

const RecipeNode::Entry* find_path(const RecipeNode& root, std::string_view path) {
  const RecipeNode* node = &root;
  for (;;) {
    const size_t dot = path.find('.');
    const RecipeNode::Entry* entry = node->find(path.substr(0, dot));
    if (!entry || dot == std::string_view::npos) return entry;
    node = &entry->value;
    path.remove_prefix(dot + 1);
  }
}

}  // namespace

const RecipeNode::Entry* RecipeNode::find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

// ---- reader
// ----------------------------------------------------------------------------------------

RecipeReader::RecipeReader(const RecipeNode& root, std::span<const UnavailableKey> unavailable,
                           const std::string& file, RecipeUser user)
    : root_(root), unavailable_(unavailable), file_(file), user_(std::move(user)) {
  frames_.push_back({&root, "", {}});
}

std::string RecipeReader::path_of(std::string_view name) const {
  const std::string& base = frames_.back().path;
  return base.empty() ? std::string(name) : cat(base, ".", name);
}

void RecipeReader::error(const std::string& where, const std::string& text) {
  errors_.push_back(cat(where, ": ", text));
}

void RecipeReader::reject(std::string_view path, std::string_view reason) {
  const RecipeNode::Entry* entry = find_path(root_, path);
  error(entry ? entry->value.where : root_.where, cat("'", path, "' ", reason));
}

bool RecipeReader::given(std::string_view path) const { return find_path(root_, path) != nullptr; }

bool RecipeReader::unavailable(const std::string& path, const RecipeNode& value,
                               const std::string& where) {
  for (const UnavailableKey& key : unavailable_) {
    if (key.path != path) continue;
    if (key.value.empty()) {
      error(where, cat("'", path, "' is not available in this version"));
      return true;
    }
    if (value.kind == Kind::scalar && value.text == key.value) {
      error(value.where, cat("'", path, ": ", key.value, "' is not available in this version"));
      return true;
    }
  }
  return false;
}

const RecipeNode* RecipeReader::take(std::string_view name) {
  Frame& frame = frames_.back();
  frame.known.emplace_back(name);
  const RecipeNode::Entry* entry = frame.node->find(name);
  if (!entry || unavailable(path_of(name), entry->value, entry->where)) return nullptr;
  if (!(users() & user_.uses)) {
    error(entry->where, cat("'", path_of(name), "' means nothing to ", user_.name));
    return nullptr;
  }
  return &entry->value;
}

std::string RecipeReader::absolute(const RecipeNode& node, const std::string& path) const {
  namespace fs = std::filesystem;
  constexpr std::string_view python = "py:";
  if (path.starts_with(python)) return cat(python, absolute(node, path.substr(python.size())));
  const fs::path base = node.where.starts_with("override ") ? "" : fs::path(file_).parent_path();
  return fs::absolute(base / path).lexically_normal().string();
}

void RecipeReader::expected(const RecipeNode& node, std::string_view name, std::string_view what) {
  error(node.where, cat("'", path_of(name), "' must be ", what, ", got ", shown(node)));
}

bool RecipeReader::in_range(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                            double value) {
  if (!std::isfinite(value)) {
    error(node.where, cat("'", path_of(name), "' must be finite, got ", shown(node)));
    return false;
  }
  const bool low = info.exclusive_min ? value > info.min : value >= info.min;
  if (low && value <= info.max) return true;
  error(node.where, cat("'", path_of(name), "' must be ", range_text(info), ", got ", shown(node)));
  return false;
}

bool RecipeReader::read_integer(const RecipeNode& node, std::string_view name,
                                const FieldInfo& info, int64_t& out) {
  int64_t value = 0;
  if (!to_integer(node, value)) {
    expected(node, name, "a whole number");
    return false;
  }
  if (!in_range(node, name, info, static_cast<double>(value))) return false;
  out = value;
  return true;
}

bool RecipeReader::read_number(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                               double& out) {
  double value = 0;
  if (!to_number(node, value)) {
    expected(node, name, "a number");
    return false;
  }
  if (!in_range(node, name, info, value)) return false;
  out = value;
  return true;
}

bool RecipeReader::read_text(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                             std::string& out) {
  if (node.kind != Kind::scalar) {
    expected(node, name, "text");
    return false;
  }
  const auto& choices = info.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), node.text) == choices.end()) {
    error(node.where, cat("'", path_of(name), "' must be one of ", join(choices), ", got ",
                          shown(node), did_you_mean(node.text, choices)));
    return false;
  }
  out = node.text;
  return true;
}

void RecipeReader::field(std::string_view name, bool& value, const FieldInfo&) {
  const RecipeNode* node = take(name);
  if (!node) return;
  if (node->kind == Kind::scalar && !node->quoted &&
      (node->text == "true" || node->text == "false")) {
    value = node->text == "true";
  } else {
    expected(*node, name, "true or false");
  }
}

void RecipeReader::field(std::string_view name, int64_t& value, const FieldInfo& info) {
  if (const RecipeNode* node = take(name)) read_integer(*node, name, info, value);
}

void RecipeReader::field(std::string_view name, double& value, const FieldInfo& info) {
  if (const RecipeNode* node = take(name)) read_number(*node, name, info, value);
}

void RecipeReader::field(std::string_view name, std::string& value, const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node || !read_text(*node, name, info, value)) return;
  if (info.path && value.starts_with("py:")) value = absolute(*node, value);
}

void RecipeReader::field(std::string_view name, std::vector<int64_t>& value,
                         const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node) return;
  if (node->kind != Kind::sequence) return expected(*node, name, "a list of whole numbers");
  std::vector<int64_t> items;
  for (const RecipeNode& item : node->items) {
    int64_t number = 0;
    if (!read_integer(item, name, info, number)) return;
    items.push_back(number);
  }
  value = std::move(items);
}

void RecipeReader::field(std::string_view name, std::optional<double>& value,
                         const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node) return;
  double number = 0;
  if (node->kind == Kind::null) {
    value.reset();
  } else if (read_number(*node, name, info, number)) {
    value = number;
  }
}

void RecipeReader::field(std::string_view name, std::optional<int64_t>& value,
                         const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node) return;
  int64_t number = 0;
  if (node->kind == Kind::null) {
    value.reset();
  } else if (read_integer(*node, name, info, number)) {
    value = number;
  }
}

void RecipeReader::field(std::string_view name, std::optional<std::string>& value,
                         const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node) return;
  std::string text;
  if (node->kind == Kind::null) {
    value.reset();
  } else if (read_text(*node, name, info, text)) {
    value = info.path ? absolute(*node, text) : std::move(text);
  }
}

void RecipeReader::field(std::string_view name, Source& value, const FieldInfo& info) {
  const RecipeNode* node = take(name);
  if (!node) return;
  const RecipeNode::Entry* recipe =
      node->kind == Kind::mapping && node->entries.size() == 1 ? node->find("recipe") : nullptr;
  if (node->kind == Kind::null) {
    value = {};
  } else if (node->kind == Kind::scalar) {
    const auto& words = info.choices;
    const bool word = std::find(words.begin(), words.end(), node->text) != words.end();
    value = {word ? node->text : absolute(*node, node->text), false};
  } else if (recipe && recipe->value.kind == Kind::scalar) {
    value = {absolute(recipe->value, recipe->value.text), true};
  } else {
    expected(*node, name, "a path or {recipe: FILE}");
  }
}

void RecipeReader::field(std::string_view name,
                         std::vector<std::pair<std::string, std::string>>& value,
                         const FieldInfo&) {
  const RecipeNode* node = take(name);
  if (!node) return;
  if (node->kind == Kind::null) return value.clear();
  if (node->kind != Kind::mapping) return expected(*node, name, "a mapping");
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const RecipeNode::Entry& entry : node->entries) {
    if (entry.value.kind != Kind::scalar) {
      return error(entry.value.where, cat("'", path_of(name), ".", entry.key,
                                          "' must be a value, got ", shown(entry.value)));
    }
    pairs.emplace_back(entry.key, entry.value.text);
  }
  value = std::move(pairs);
}

bool RecipeReader::begin(std::string_view name, const FieldInfo&) {
  const RecipeNode* node = take(name);
  if (!node || node->kind == Kind::null) return false;
  if (node->kind != Kind::mapping) {
    expected(*node, name, "a mapping");
    return false;
  }
  frames_.push_back({node, path_of(name), {}});
  return true;
}

void RecipeReader::end() {
  close(frames_.back());
  frames_.pop_back();
}

void RecipeReader::close(const Frame& frame) {
  for (const RecipeNode::Entry& entry : frame.node->entries) {
    if (std::find(frame.known.begin(), frame.known.end(), entry.key) != frame.known.end()) continue;
    const std::string path = frame.path.empty() ? entry.key : cat(frame.path, ".", entry.key);
    if (unavailable(path, entry.value, entry.where)) continue;
    const std::string in = frame.path.empty() ? std::string() : cat(" in '", frame.path, "'");
    error(entry.where,
          cat("unknown key '", entry.key, "'", in, did_you_mean(entry.key, frame.known)));
  }
}

void RecipeReader::finish() {
  close(frames_.front());
  if (errors_.empty()) return;
  std::string text;
  for (const std::string& line : errors_) text += cat(text.empty() ? "" : "\n", line);
  throw RecipeError(text);
}

// ---- writer
// ----------------------------------------------------------------------------------------

std::string yaml_scalar(std::string_view text) {
  // Only what YAML reads as null, or not as a scalar at all, needs quotes: readers of text take
  // numbers and truth values as they are written.
  static constexpr std::string_view reserved[] = {"", "~", "null", "Null", "NULL"};
  bool plain = std::find(std::begin(reserved), std::end(reserved), text) == std::end(reserved) &&
               (text[0] != '-' || (text.size() > 1 && is_digit(text[1]))) && text[0] != '.';
  for (char c : text) {
    plain = plain && (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' ||
                      c == '.' || c == '/' || c == '+');
  }
  if (plain) return std::string(text);
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += cat("\\", c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      static constexpr char digits[] = "0123456789abcdef";
      out += cat("\\x", digits[byte >> 4], digits[byte & 15]);
    } else {
      out += c;
    }
  }
  return out + '"';
}

void RecipeWriter::put(std::string_view name, const std::string& value, const FieldInfo& info) {
  if (!(users() & uses_)) return;
  yaml_ += cat(std::string(2 * path_.size(), ' '), name, ": ", value, "\n");
  std::string path;
  for (const std::string& part : path_) path += cat(part, ".");
  lines_.push_back({cat(path, name), value, info.resume});
}

void RecipeWriter::field(std::string_view name, bool& value, const FieldInfo& info) {
  put(name, cat(value), info);
}
void RecipeWriter::field(std::string_view name, int64_t& value, const FieldInfo& info) {
  put(name, cat(value), info);
}
void RecipeWriter::field(std::string_view name, double& value, const FieldInfo& info) {
  put(name, cat(value), info);
}
void RecipeWriter::field(std::string_view name, std::string& value, const FieldInfo& info) {
  put(name, yaml_scalar(value), info);
}
void RecipeWriter::field(std::string_view name, std::vector<int64_t>& value,
                         const FieldInfo& info) {
  std::string list;
  for (int64_t item : value) list += cat(list.empty() ? "" : ", ", item);
  put(name, cat("[", list, "]"), info);
}
void RecipeWriter::field(std::string_view name, std::optional<double>& value,
                         const FieldInfo& info) {
  put(name, value ? cat(*value) : "null", info);
}
void RecipeWriter::field(std::string_view name, std::optional<int64_t>& value,
                         const FieldInfo& info) {
  put(name, value ? cat(*value) : "null", info);
}
void RecipeWriter::field(std::string_view name, std::optional<std::string>& value,
                         const FieldInfo& info) {
  put(name, value ? yaml_scalar(*value) : "null", info);
}
void RecipeWriter::field(std::string_view name,
                         std::vector<std::pair<std::string, std::string>>& value,
                         const FieldInfo& info) {
  std::string list;
  for (const auto& [key, text] : value) {
    list += cat(list.empty() ? "" : ", ", yaml_scalar(key), ": ", yaml_scalar(text));
  }
  put(name, cat("{", list, "}"), info);
}
void RecipeWriter::field(std::string_view name, Source& value, const FieldInfo& info) {
  const std::string text = value.given() ? yaml_scalar(value.path) : "null";
  put(name, value.recipe ? cat("{recipe: ", text, "}") : text, info);
}
bool RecipeWriter::begin(std::string_view name, const FieldInfo&) {
  if (!(users() & uses_)) return false;
  yaml_ += cat(std::string(2 * path_.size(), ' '), name, ":\n");
  path_.emplace_back(name);
  return true;
}
void RecipeWriter::end() { path_.pop_back(); }

}  // namespace bessemer
