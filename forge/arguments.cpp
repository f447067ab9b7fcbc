#include "forge/arguments.h"

#include <algorithm>
#include <charconv>

namespace bessemer {

namespace {

std::string padded(std::string text, size_t width) {
  text.resize(std::max(text.size() + 2, width), ' ');
  return text;
}

}  // namespace

const std::string* Arguments::find(std::string_view flag) const {
  for (const auto& [name, value] : flags) {
    if (name == flag) return &value;
  }
  return nullptr;
}

int64_t Arguments::integer(std::string_view flag, int64_t fallback, int64_t min) const {
  const std::string* text = find(flag);
  if (!text) return fallback;
  int64_t value = 0;
  const char* end = text->data() + text->size();
  const auto read = std::from_chars(text->data(), end, value);
  BESSEMER_CHECK(read.ec == std::errc() && read.ptr == end && value >= min, UsageError, flag,
                 " must be a whole number of at least ", min, ", got '", *text, "'");
  return value;
}

Words sort_words(const Arguments& arguments, std::string_view what) {
  Words out;
  for (const std::string& word : arguments.positional) {
    if (word.find('=') != std::string::npos) {
      out.overrides.push_back(word);
      continue;
    }
    BESSEMER_CHECK(out.first.empty(), UsageError, "more than one ", what, ": '", out.first,
                   "' and '", word, "'");
    out.first = word;
  }
  return out;
}

Arguments parse_arguments(const Command& command, std::span<const std::string> words) {
  Arguments out;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word.size() < 2 || word[0] != '-') {
      out.positional.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const auto flag = std::find_if(command.flags.begin(), command.flags.end(),
                                   [&](const Flag& candidate) { return candidate.name == name; });
    if (flag == command.flags.end()) {
      std::vector<std::string> names{"--help"};
      for (const Flag& known : command.flags) names.emplace_back(known.name);
      fail<UsageError>("unknown flag '", name, "' of '", command.name, "'",
                       did_you_mean(name, names));
    }
    BESSEMER_CHECK(!out.has(name), UsageError, name, " is given twice");
    std::string value;
    if (flag->value.empty()) {
      BESSEMER_CHECK(equals == std::string::npos, UsageError, name, " takes no value");
    } else if (equals != std::string::npos) {
      value = word.substr(equals + 1);
    } else {
      BESSEMER_CHECK(i + 1 < words.size(), UsageError, name, " needs a value: ", name, " ",
                     flag->value);
      value = words[++i];
    }
    out.flags.emplace_back(name, value);
  }
  return out;
}

std::string command_help(const Command& command) {
  std::string out = cat("bessemer ", command.name, " ", command.usage, "\n\n  ", command.doc, "\n");
  if (!command.flags.empty()) out += "\n";
  for (const Flag& flag : command.flags) {
    const std::string left =
        flag.value.empty() ? std::string(flag.name) : cat(flag.name, " ", flag.value);
    out += cat("  ", padded(left, 20), flag.doc, "\n");
  }
  if (!command.notes.empty()) out += cat("\n", command.notes, "\n");
  return out;
}

std::string program_help(std::span<const Command> commands) {
  std::string out =
      "Bessemer: reinforcement learning in one native stack.\n\n"
      "usage: bessemer COMMAND [...]; bessemer COMMAND --help explains one\n\n";
  for (const Command& command : commands)
    out += cat("  ", padded(std::string(command.name), 10), command.doc, "\n");
  out += cat("  ", padded("--version", 10), "the version of this program\n");
  return out;
}

}  // namespace bessemer
