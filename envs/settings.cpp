// Option values of a Spec, and the bytes of saved states.
#include <charconv>
#include <cmath>

#include "envs/simulator.h"

namespace bessemer {

namespace {
bool parse_number(std::string_view text, double& out) {
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

bool parse_boolean(std::string_view text, double& out) {
  if (text == "true" || text == "True" || text == "1") return out = 1, true;
  if (text == "false" || text == "False" || text == "0") return out = 0, true;
  return false;
}

void parse(const Option& option, std::string_view text, std::string_view where, double& number) {
  constexpr std::string_view kinds[] = {"true or false", "an integer", "a number", "text"};
  bool good = true;
  switch (option.type) {
    case Option::Type::boolean:
      good = parse_boolean(text, number);
      break;
    case Option::Type::integer:
      good =
          parse_number(text, number) && std::abs(number) <= 0x1p53 && number == std::floor(number);
      break;
    case Option::Type::number:
      good = parse_number(text, number);
      break;
    case Option::Type::text:
      return;
  }
  BESSEMER_CHECK(good, ValueError, "[env] ", where, ": ", option.name, " is '", text,
                 "', expected ", kinds[static_cast<int>(option.type)]);
  BESSEMER_CHECK(number >= option.min && number <= option.max, ValueError, "[env] ", where, ": ",
                 option.name, " is ", number, ", allowed are ", option.min, " to ", option.max);
}
}  // namespace

Settings::Settings(const std::vector<Option>& allowed, const Options& given,
                   std::string_view where) {
  std::vector<std::string> names;
  for (const Option& option : allowed) {
    Value value{option.name, option.fallback};
    parse(option, value.text, where, value.number);
    values_.push_back(std::move(value));
    names.push_back(option.name);
  }
  for (const auto& [name, text] : given) {
    size_t i = 0;
    while (i < names.size() && names[i] != name) ++i;
    BESSEMER_CHECK(i < names.size(), ValueError, "[env] ", where, " has no option '", name, "'",
                   did_you_mean(name, names));
    values_[i].text = text;
    parse(allowed[i], text, where, values_[i].number);
  }
}

const Settings::Value& Settings::find(std::string_view name) const {
  for (const Value& value : values_) {
    if (value.name == name) return value;
  }
  fail<ValueError>("[env] the Spec lists no option '", name, "'");
}

void StateIo::raw(void* data, size_t size) {
  if (loading_) {
    BESSEMER_CHECK(size <= in_.size(), ValueError, "[env] saved state is cut short");
    if (size > 0) std::memcpy(data, in_.data(), size);
    in_.remove_prefix(size);
  } else {
    out_.append(static_cast<const char*>(data), size);
  }
}

}  // namespace bessemer
