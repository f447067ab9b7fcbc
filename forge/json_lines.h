// metrics.jsonl and completions.jsonl, read back line by line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/error.h"
#include "core/base/text_file.h"

namespace bessemer {

/// Calls visit(object) for every line of `text`; a last one without its end was cut off, or is
/// still being written, and is left out. ValueError names file and line where one is no object, or
/// where visit throws ValueError or an error of JSON. `what` a file of this kind is called.
template <class Visit>
void each_json_line(std::string_view text, const std::string& name, const char* what,
                    const Visit& visit) {
  int64_t line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) return;
    const std::string_view row = text.substr(at, end - at);
    at = end + 1;
    ++line;
    nlohmann::json json;
    if (json_depth(row) <= kMaxJsonDepth) json = nlohmann::json::parse(row, nullptr, false);
    BESSEMER_CHECK(json.is_object(), ValueError, name, ":", line, ": not a JSON object; is it a ",
                   what, "?");
    try {
      visit(json);
    } catch (const nlohmann::json::exception& error) {
      fail<ValueError>(name, ":", line, ": ", error.what());
    } catch (const ValueError& error) {
      fail<ValueError>(name, ":", line, ": ", error.what());
    }
  }
}

}  // namespace bessemer
