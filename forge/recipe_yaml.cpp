// yaml-cpp's event stream to RecipeNode; the only file that includes yaml-cpp.
#include <yaml-cpp/emitterstyle.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <sstream>

#include "forge/recipe.h"

namespace bessemer {

namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxDepth = 32;

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(RecipeNode& root, std::string name, bool positions)
      : root_(root), name_(std::move(name)), positions_(positions) {}

  bool has_document() const { return documents_ > 0; }
  std::string where(const YAML::Mark& mark) const {
    if (!positions_ || mark.is_null()) return name_;
    return cat(name_, ":", mark.line + 1, ":", mark.column + 1);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) refuse(mark, "a recipe is one YAML document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    open(mark, "", anchor, RecipeNode::Kind::null);
    close();
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    refuse(mark, "aliases are not allowed in recipes");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    if (anchor) refuse(mark, "anchors are not allowed in recipes");
    if (expecting_key()) {
      RecipeNode& mapping = *stack_.back();
      if (const auto* before = mapping.find(value)) {
        refuse(mark, cat("key '", value, "' is given twice, first at ", before->where));
      }
      mapping.entries.push_back({value, where(mark), {}});
      keys_.back() = true;
      return;
    }
    RecipeNode& node = open(mark, tag, anchor, RecipeNode::Kind::scalar);
    node.text = value;
    node.quoted = tag == "!";
    close();
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, RecipeNode::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, RecipeNode::Kind::mapping);
  }
  void OnMapEnd() override { close(); }

 private:
  [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& text) const {
    fail<RecipeError>(where(mark), ": ", text);
  }
  bool expecting_key() const {
    return !stack_.empty() && stack_.back()->kind == RecipeNode::Kind::mapping && !keys_.back();
  }
  RecipeNode& open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                   RecipeNode::Kind kind) {
    if (anchor) refuse(mark, "anchors are not allowed in recipes");
    if (!tag.empty() && tag != "?" && tag != "!")
      refuse(mark, cat("tag '", tag, "' is not allowed in recipes"));
    if (expecting_key()) refuse(mark, "a key must be text");
    if (stack_.size() >= kMaxDepth) refuse(mark, "nested too deeply");
    RecipeNode* node = &root_;
    if (!stack_.empty()) {
      RecipeNode& parent = *stack_.back();
      if (parent.kind == RecipeNode::Kind::mapping) {
        node = &parent.entries.back().value;
        keys_.back() = false;
      } else {
        node = &parent.items.emplace_back();
      }
    }
    node->kind = kind;
    node->where = where(mark);
    stack_.push_back(node);  // stays valid: a parent's vectors do not grow while a child is open
    keys_.push_back(false);
    return *node;
  }
  void close() {
    stack_.pop_back();
    keys_.pop_back();
  }

  RecipeNode& root_;
  std::string name_;
  bool positions_;
  int documents_ = 0;
  std::vector<RecipeNode*> stack_;
  std::vector<bool> keys_;  // for each open mapping: a key was read, its value comes next
};

RecipeNode parse_yaml(std::string_view text, const std::string& name, bool positions) {
  BESSEMER_CHECK(text.size() <= kMaxBytes, RecipeError, name, ": larger than 1 MiB");
  RecipeNode root;
  root.where = positions ? cat(name, ":1:1") : name;
  TreeBuilder builder(root, name, positions);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    fail<RecipeError>(builder.where(error.mark), ": ", error.msg);
  }
  return root;
}

}  // namespace

RecipeNode parse_recipe(std::string_view text, const std::string& file) {
  RecipeNode root = parse_yaml(text, file, true);
  BESSEMER_CHECK(root.kind == RecipeNode::Kind::mapping, RecipeError, root.where,
                 ": a recipe is a mapping of keys to values");
  return root;
}

void apply_override(RecipeNode& root, const std::string& assignment) {
  const std::string where = cat("override '", assignment, "'");
  const size_t equals = assignment.find('=');
  BESSEMER_CHECK(equals != std::string::npos && equals > 0, RecipeError, where,
                 ": expected key=value, as trainer.lr=1e-3");
  RecipeNode value = parse_yaml(std::string_view(assignment).substr(equals + 1), where, false);
  std::string_view path = std::string_view(assignment).substr(0, equals);
  RecipeNode* node = &root;
  for (;;) {
    const size_t dot = path.find('.');
    const std::string key(path.substr(0, dot));
    BESSEMER_CHECK(!key.empty(), RecipeError, where, ": empty name in the path of the key");
    if (node->kind != RecipeNode::Kind::mapping) {
      node->kind = RecipeNode::Kind::mapping;  // the override says that it is one
      node->where = where;
    }
    RecipeNode::Entry* entry = nullptr;
    for (RecipeNode::Entry& candidate : node->entries) {
      if (candidate.key == key) entry = &candidate;
    }
    if (!entry) entry = &node->entries.emplace_back(RecipeNode::Entry{key, where, {}});
    node = &entry->value;
    if (dot == std::string_view::npos) {
      entry->where = where;
      break;
    }
    path.remove_prefix(dot + 1);
  }
  *node = std::move(value);
}

}  // namespace bessemer
