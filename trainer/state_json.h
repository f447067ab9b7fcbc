// Reading a checkpoint's state.json: errors name the file and the member.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"

namespace bessemer {

/// The object in a checkpoint's state.json. IoError where it cannot be read, ValueError where it is
/// damaged or something else.
inline nlohmann::ordered_json read_state_json(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  BESSEMER_CHECK(in.good(), IoError, path.string(), ": cannot be read; is it a checkpoint folder?");
  std::ostringstream text;
  text << in.rdbuf();
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(text.str(), nullptr, false);
  BESSEMER_CHECK(json.is_object() && json.contains("format"), ValueError, path.string(),
                 ": not the state of a checkpoint, or a damaged one");
  return json;
}

/// The member as T; throws ValueError naming file and member.
template <class T>
T state_member(const nlohmann::ordered_json& json, const std::filesystem::path& path,
               const char* name) {
  try {
    return json.at(name).get<T>();
  } catch (const nlohmann::json::exception&) {
    fail<ValueError>(path.string(), ": member '", name, "' is missing or of another type");
  }
}

}  // namespace bessemer
