// One way to list a configuration's keys. A config struct has
//     void fields(FieldVisitor& v) { v.field("lr", lr, {.doc = "learning rate", .min = 0}); }
// and the recipe reader, the resolved recipe, the plan and the documentation all derive from it.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bessemer {

struct FieldInfo {
  std::string_view doc;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool exclusive_min = false;             // true: the value must be above `min`
  std::vector<std::string> choices = {};  // for strings
  bool resume = false;                    // may change when a run is resumed
  bool path = false;  // text that may name a file: relative to the recipe, absolute once read
};

/// Something on the disk: a file or folder, or what another recipe's run leaves. In YAML a path, or
/// {recipe: FILE}. Paths are relative to the recipe that names them; what is read here is absolute.
struct Source {
  std::string path;  // empty: none
  bool recipe = false;
  bool given() const { return !path.empty(); }
  bool operator==(const Source&) const = default;
};

/// Who has a key, as a set of bits that the owner of the configuration defines; all of them where
/// nothing is said.
constexpr uint32_t kUsedByAll = ~0u;

/// Called once for each key, in the order in which the resolved recipe prints them.
class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;
  /// The fields that follow belong to `users` only; returns what it was.
  uint32_t used_by(uint32_t users) { return std::exchange(users_, users); }
  uint32_t users() const { return users_; }
  virtual void field(std::string_view name, bool& value, const FieldInfo& info) = 0;
  virtual void field(std::string_view name, int64_t& value, const FieldInfo& info) = 0;
  virtual void field(std::string_view name, double& value, const FieldInfo& info) = 0;
  virtual void field(std::string_view name, std::string& value, const FieldInfo& info) = 0;
  virtual void field(std::string_view name, std::vector<int64_t>& value, const FieldInfo& info) = 0;
  /// null in YAML: no value.
  virtual void field(std::string_view name, std::optional<double>& value,
                     const FieldInfo& info) = 0;
  virtual void field(std::string_view name, std::optional<int64_t>& value,
                     const FieldInfo& info) = 0;
  virtual void field(std::string_view name, std::optional<std::string>& value,
                     const FieldInfo& info) = 0;
  /// A mapping of names to scalars, as env.options: value keeps the text of each scalar.
  virtual void field(std::string_view name, std::vector<std::pair<std::string, std::string>>& value,
                     const FieldInfo& info) = 0;
  /// `info.choices`: words that are no paths.
  virtual void field(std::string_view name, Source& value, const FieldInfo& info) = 0;
  /// A nested mapping: visit its fields between begin and end. Returns false where it is absent and
  /// the caller need not descend.
  virtual bool begin(std::string_view name, const FieldInfo& info) = 0;
  virtual void end() = 0;

 private:
  uint32_t users_ = kUsedByAll;
};

}  // namespace bessemer
