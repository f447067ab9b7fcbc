// Recipes as text: YAML to a tree in which every key and value knows where it stands, overrides on
// top of it, and the two visitors that fill config structs from the tree and print them back.
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/config.h"
#include "core/base/error.h"

namespace bessemer {

/// A recipe or an override that cannot be used: one line a finding, each with file:line:column.
class RecipeError : public ValueError {
 public:
  using ValueError::ValueError;
};

struct RecipeNode {
  enum class Kind : uint8_t { null, scalar, sequence, mapping };
  struct Entry;

  Kind kind = Kind::null;
  bool quoted = false;            // a scalar in quotes: always text
  std::string text;               // of a scalar
  std::string where;              // "recipe.yaml:3:7", or "override 'a.b=c'"
  std::vector<RecipeNode> items;  // of a sequence
  std::vector<Entry> entries;     // of a mapping, in the order written

  const Entry* find(std::string_view key) const;
};

struct RecipeNode::Entry {
  std::string key;
  std::string where;
  RecipeNode value;
};

/// Parses one YAML document whose top is a mapping. `file` names it in positions. Duplicate keys,
/// anchors, tags and further documents are refused. Throws RecipeError.
RecipeNode parse_recipe(std::string_view text, const std::string& file);

/// Applies "a.b=c": c is read as YAML and replaces whatever a.b was; missing mappings are made.
void apply_override(RecipeNode& root, const std::string& assignment);

/// A key of the schema that this version cannot honour yet.
struct UnavailableKey {
  std::string_view path;
  std::string_view value = {};  // refused for this value only; empty: for every value
};

/// Whose keys a recipe may hold: a bit of Uses, and how to name it in errors.
struct RecipeUser {
  uint32_t uses = kUsedByAll;
  std::string name;  // "trainer.algo: sft"
};

/// Fills config structs from a tree. Findings are collected; finish() throws them all at once.
class RecipeReader final : public FieldVisitor {
 public:
  /// Paths in the recipe are relative to the folder of `file`, those of overrides to the working
  /// directory. Keys of others than `user` are findings.
  RecipeReader(const RecipeNode& root, std::span<const UnavailableKey> unavailable,
               const std::string& file = {}, RecipeUser user = {});

  void field(std::string_view name, bool& value, const FieldInfo& info) override;
  void field(std::string_view name, int64_t& value, const FieldInfo& info) override;
  void field(std::string_view name, double& value, const FieldInfo& info) override;
  void field(std::string_view name, std::string& value, const FieldInfo& info) override;
  void field(std::string_view name, std::vector<int64_t>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<double>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<int64_t>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<std::string>& value,
             const FieldInfo& info) override;
  void field(std::string_view name, std::vector<std::pair<std::string, std::string>>& value,
             const FieldInfo& info) override;
  void field(std::string_view name, Source& value, const FieldInfo& info) override;
  bool begin(std::string_view name, const FieldInfo& info) override;
  void end() override;

  /// Adds a finding about the key at `path`, with the position at which it was written.
  void reject(std::string_view path, std::string_view reason);
  /// True when the recipe or an override gives `path` a value.
  bool given(std::string_view path) const;
  /// Rejects keys that nothing asked for, then throws RecipeError if there is any finding.
  void finish();

 private:
  struct Frame {
    const RecipeNode* node;
    std::string path;                // "", "trainer", ...
    std::vector<std::string> known;  // keys asked for so far
  };

  const RecipeNode* take(std::string_view name);
  void close(const Frame& frame);
  std::string path_of(std::string_view name) const;
  void error(const std::string& where, const std::string& text);
  bool unavailable(const std::string& path, const RecipeNode& value, const std::string& where);
  bool read_integer(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                    int64_t& out);
  bool read_number(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                   double& out);
  bool read_text(const RecipeNode& node, std::string_view name, const FieldInfo& info,
                 std::string& out);
  bool in_range(const RecipeNode& node, std::string_view name, const FieldInfo& info, double value);
  void expected(const RecipeNode& node, std::string_view name, std::string_view what);
  std::string absolute(const RecipeNode& node, const std::string& path) const;

  const RecipeNode& root_;
  std::span<const UnavailableKey> unavailable_;
  std::string file_;
  RecipeUser user_;
  std::vector<Frame> frames_;
  std::vector<std::string> errors_;
};

/// Prints what config structs hold: as YAML that reads back to the same values, and as a flat list.
class RecipeWriter final : public FieldVisitor {
 public:
  struct Line {
    std::string path;     // "trainer.lr"
    std::string value;    // as YAML
    bool resume = false;  // may change when a run is resumed
  };

  /// Keys of others than `uses` are left out.
  explicit RecipeWriter(uint32_t uses = kUsedByAll) : uses_(uses) {}

  void field(std::string_view name, bool& value, const FieldInfo& info) override;
  void field(std::string_view name, int64_t& value, const FieldInfo& info) override;
  void field(std::string_view name, double& value, const FieldInfo& info) override;
  void field(std::string_view name, std::string& value, const FieldInfo& info) override;
  void field(std::string_view name, std::vector<int64_t>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<double>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<int64_t>& value, const FieldInfo& info) override;
  void field(std::string_view name, std::optional<std::string>& value,
             const FieldInfo& info) override;
  void field(std::string_view name, std::vector<std::pair<std::string, std::string>>& value,
             const FieldInfo& info) override;
  void field(std::string_view name, Source& value, const FieldInfo& info) override;
  bool begin(std::string_view name, const FieldInfo& info) override;
  void end() override;

  const std::string& yaml() const { return yaml_; }
  const std::vector<Line>& lines() const { return lines_; }

 private:
  void put(std::string_view name, const std::string& value, const FieldInfo& info);

  uint32_t uses_;
  std::string yaml_;
  std::vector<Line> lines_;
  std::vector<std::string> path_;
};

/// A scalar as YAML: plain where that reads back as the same text, else in double quotes.
std::string yaml_scalar(std::string_view text);

}  // namespace bessemer
