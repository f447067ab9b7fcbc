// Text files, read and written whole, and how deep the JSON in one nests.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace bessemer {

/// The whole file (or pipe) as text. Throws IoError naming the path and the system's reason (a
/// folder is none), MemoryError where it does not fit.
std::string read_text_file(const std::string& path);

/// Behind a path: the name of a text that is being written.
constexpr const char* kUnfinishedFile = ".new";
/// Writes `text` aside, syncs and renames, so that readers see the old file or the new one; into a
/// device or a pipe directly. Throws IoError naming the path and the system's reason.
void write_text_file(const std::string& path, std::string_view text);

/// JSON is parsed in a loop but copied, written and walked by recursion, so that a file of brackets
/// could use up the stack. Nothing that is read here needs more levels than this.
constexpr int64_t kMaxJsonDepth = 64;

/// The deepest level of lists and objects in a JSON text: 0 for a number, 1 for []. Strings are
/// skipped; what is no JSON gets some number.
int64_t json_depth(std::string_view text);

}  // namespace bessemer
