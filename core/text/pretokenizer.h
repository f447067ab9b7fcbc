// Cuts text into words before BPE, by the rules that tokenizer.json names.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bessemer {

/// What GPT-2's ByteLevel pre-tokenizer splits by.
inline constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A sequence of regular expressions; matches and what lies between them become words ("isolated").
class Pretokenizer {
 public:
  Pretokenizer();
  ~Pretokenizer();
  /// Throws ValueError with PCRE2's message and the place in the pattern.
  void add_split(const std::string& pattern);
  const std::vector<std::string>& patterns() const { return patterns_; }
  /// Calls `word` for each piece in order. Bytes that are not UTF-8 match nothing and stay pieces.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  struct Compiled;
  void split_from(size_t stage, std::string_view text,
                  const std::function<void(std::string_view)>& word) const;
  std::vector<std::string> patterns_;
  std::vector<std::unique_ptr<Compiled>> compiled_;
};

}  // namespace bessemer
