// The command line: a table of commands and flags, parsed by hand so that the program starts at
// once.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/error.h"

namespace bessemer {

/// A command line that cannot be understood; the program exits with 2.
class UsageError : public ValueError {
 public:
  using ValueError::ValueError;
};

struct Flag {
  std::string_view name;        // "--episodes"
  std::string_view value = {};  // "N": what its value is called; empty for a switch
  std::string_view doc = {};
};

struct Command {
  std::string_view name;
  std::string_view usage;  // what follows the name: "RECIPE [a.b=c ...]"
  std::string_view doc;    // one line
  std::vector<Flag> flags;
  std::string_view notes = {};  // further lines of its help
};

/// What a command was given; `--flag value` and `--flag=value` mean the same.
struct Arguments {
  std::vector<std::string> positional;
  std::vector<std::pair<std::string, std::string>> flags;  // name, value ("" for a switch)

  bool has(std::string_view flag) const { return find(flag) != nullptr; }
  const std::string* find(std::string_view flag) const;
  /// A whole number of at least `min`; UsageError otherwise.
  int64_t integer(std::string_view flag, int64_t fallback, int64_t min) const;
};

/// A recipe or run folder and what is set beside it: words with "=".
struct Words {
  std::string first;
  std::vector<std::string> overrides;
};
/// UsageError for more than one `what` ("recipe").
Words sort_words(const Arguments& arguments, std::string_view what);

/// Throws UsageError for an unknown flag (naming the nearest) or a missing or superfluous value.
Arguments parse_arguments(const Command& command, std::span<const std::string> words);

/// The help of one command, and the list of all of them.
std::string command_help(const Command& command);
std::string program_help(std::span<const Command> commands);

}  // namespace bessemer
