#include "forge/recipe_keys.h"

#include <cmath>

#include "forge/config.h"

namespace bessemer {

namespace {

/// Collects what a RecipeWriter prints together with what the FieldInfo says.
class KeyLister final : public FieldVisitor {
 public:
  std::vector<RecipeKey> keys;

  void field(std::string_view name, bool& value, const FieldInfo& info) override {
    put(name, value, "true or false", info);
  }
  void field(std::string_view name, int64_t& value, const FieldInfo& info) override {
    put(name, value, "whole number", info);
  }
  void field(std::string_view name, double& value, const FieldInfo& info) override {
    put(name, value, "number", info);
  }
  void field(std::string_view name, std::string& value, const FieldInfo& info) override {
    put(name, value, "text", info);
  }
  void field(std::string_view name, std::vector<int64_t>& value, const FieldInfo& info) override {
    put(name, value, "list of whole numbers", info);
  }
  void field(std::string_view name, std::optional<double>& value, const FieldInfo& info) override {
    put(name, value, "number or null", info);
  }
  void field(std::string_view name, std::optional<int64_t>& value, const FieldInfo& info) override {
    put(name, value, "whole number or null", info);
  }
  void field(std::string_view name, std::optional<std::string>& value,
             const FieldInfo& info) override {
    put(name, value, "text or null", info);
  }
  void field(std::string_view name, std::vector<std::pair<std::string, std::string>>& value,
             const FieldInfo& info) override {
    put(name, value, "mapping", info);
  }
  void field(std::string_view name, Source& value, const FieldInfo& info) override {
    put(name, value, "path or {recipe: FILE}", info);
  }
  bool begin(std::string_view name, const FieldInfo&) override {
    prefix_ = cat(name, ".");
    return true;
  }
  void end() override { prefix_.clear(); }

 private:
  template <class T>
  void put(std::string_view name, T& value, std::string_view type, const FieldInfo& info) {
    RecipeWriter writer;
    static_cast<FieldVisitor&>(writer).field(name, value, info);
    keys.push_back({cat(prefix_, name), std::string(type), writer.lines()[0].value,
                    range_text(info), std::string(info.doc), uses_text(users()), info.resume});
  }
  std::string prefix_;
};

std::string section_of(const RecipeKey& key) { return key.path.substr(0, key.path.find('.')); }

}  // namespace

std::string range_text(const FieldInfo& info) {
  std::string out;
  for (const std::string& choice : info.choices) {
    out += cat(out.empty() ? "one of " : ", ", choice);
  }
  if (std::isfinite(info.min)) out += cat(info.exclusive_min ? "above " : "at least ", info.min);
  if (std::isfinite(info.max)) out += cat(out.empty() ? "" : " and ", "at most ", info.max);
  return out;
}

std::vector<RecipeKey> recipe_keys() {
  Recipe recipe;
  KeyLister lister;
  recipe.fields(lister);
  return std::move(lister.keys);
}

std::string recipe_keys_markdown() {
  std::string out, section;
  for (const RecipeKey& key : recipe_keys()) {
    const bool nested = key.path.find('.') != std::string::npos;
    const std::string here = nested ? section_of(key) : "the top level";
    if (here != section) {
      out += cat(out.empty() ? "" : "\n", "### ", nested ? cat("`", here, "`") : here,
                 "\n\n| key | type | default | meaning |\n|---|---|---|---|\n");
      section = here;
    }
    std::string meaning = key.doc;
    if (!key.range.empty()) meaning += cat(" (", key.range, ")");
    if (!key.users.empty() && key.users != "control") meaning += cat(" [", key.users, "]");
    if (key.resume) meaning += " ↻";
    out += cat("| `", key.path, "` | ", key.type, " | `", key.fallback, "` | ", meaning, " |\n");
  }
  return out;
}

}  // namespace bessemer
