#include "core/text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/error.h"

namespace bessemer {

struct Pretokenizer::Compiled {
  pcre2_code* code = nullptr;
  ~Compiled() { pcre2_code_free(code); }
};

namespace {
struct MatchData {
  pcre2_match_data* data;
  explicit MatchData(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)) {}
  ~MatchData() { pcre2_match_data_free(data); }
  MatchData(const MatchData&) = delete;
  MatchData& operator=(const MatchData&) = delete;
};
}  // namespace

Pretokenizer::Pretokenizer() = default;
Pretokenizer::~Pretokenizer() = default;

void Pretokenizer::add_split(const std::string& pattern) {
  int error = 0;
  size_t place = 0;
  auto compiled = std::make_unique<Compiled>();
  compiled->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &place, nullptr);
  if (!compiled->code) {
    char message[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    fail<ValueError>("the split pattern '", pattern, "' does not compile: ", message, " at ",
                     place);
  }
  pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);  // without it matching is interpreted
  patterns_.push_back(pattern);
  compiled_.push_back(std::move(compiled));
}

void Pretokenizer::split(std::string_view text,
                         const std::function<void(std::string_view)>& word) const {
  split_from(0, text, word);
}

void Pretokenizer::split_from(size_t stage, std::string_view text,
                              const std::function<void(std::string_view)>& word) const {
  if (text.empty()) return;
  if (stage == compiled_.size()) {
    word(text);
    return;
  }
  const pcre2_code* code = compiled_[stage]->code;
  const MatchData match(code);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = 0, from = 0;
  while (from <= text.size()) {
    const int found = pcre2_match(code, subject, text.size(), from, 0, match.data, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      char message[256] = "";
      pcre2_get_error_message(found, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
      fail<ValueError>("splitting text by '", patterns_[stage], "': ", message);
    }
    const size_t* range = pcre2_get_ovector_pointer(match.data);
    const size_t start = range[0], stop = range[1];
    if (stop == start) {  // an empty match cuts nothing
      from = stop + 1;
      continue;
    }
    split_from(stage + 1, text.substr(done, start - done), word);
    split_from(stage + 1, text.substr(start, stop - start), word);
    done = from = stop;
  }
  split_from(stage + 1, text.substr(done), word);
}

}  // namespace bessemer
