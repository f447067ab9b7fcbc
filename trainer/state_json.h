// Reading a checkpoint's state.json: errors name the file and the member.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>

#include "core/base/error.h"
#include "core/base/text_file.h"

namespace bessemer {

/// The object in a checkpoint's state.json. IoError where it cannot be read, ValueError where it is
/// damaged or something else.
inline nlohmann::ordered_json read_state_json(const std::filesystem::path& path) {
  const std::string text = read_text_file(path.string());
  nlohmann::ordered_json json;
  if (json_depth(text) <= kMaxJsonDepth) json = nlohmann::ordered_json::parse(text, nullptr, false);
  BESSEMER_CHECK(json.is_object() && json.contains("format"), ValueError, path.string(),
                 ": not the state of a checkpoint, or a damaged one");
  return json;
}

/// The member as T; throws ValueError naming file and member. Whole numbers count something here:
/// they are neither negative nor beyond 2^53.
template <class T>
T state_member(const nlohmann::ordered_json& json, const std::filesystem::path& path,
               const char* name) {
  try {
    const auto& value = json.at(name);
    if constexpr (std::is_same_v<T, int64_t>) {
      constexpr uint64_t kMost = uint64_t{1} << 53;
      BESSEMER_CHECK(value.is_number_unsigned() && value.template get<uint64_t>() <= kMost,
                     ValueError, path.string(), ": member '", name, "' is ",
                     value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace),
                     ", expected a whole number from 0 to 2^53");
    }
    return value.template get<T>();
  } catch (const nlohmann::json::exception&) {
    fail<ValueError>(path.string(), ": member '", name, "' is missing or of another type");
  }
}

}  // namespace bessemer
