// ReverseText-v0: write a word backwards. The reward is the longest common subsequence with the
// answer, as a share of the longer of the two, so that a policy that is nearly right hears so.
#include <algorithm>

#include "envs/text/task.h"

namespace bessemer {
namespace {

/// Length of the longest common subsequence.
int64_t common_subsequence(std::string_view a, std::string_view b) {
  std::vector<int64_t> row(b.size() + 1, 0);
  for (const char c : a) {
    int64_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const int64_t above = row[j + 1];
      row[j + 1] = c == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

struct ReverseText {
  using Action = std::string_view;

  static Spec spec() {
    return text_task::spec(
        "ReverseText-v0", "Write a word backwards.", {"exact", "lcs"},
        {text_task::integer("min_length", 3, 1, 256, "letters of the shortest word"),
         text_task::integer("max_length", 8, 1, 256, "letters of the longest word")});
  }
  explicit ReverseText(const Settings& options)
      : split_(options, "ReverseText-v0"),
        shortest_(options.integer("min_length")),
        longest_(options.integer("max_length")) {
    text_task::check_order("ReverseText-v0", shortest_, longest_, "length");
  }

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      return word_ = text_task::random_word(rng, shortest_, longest_, text_task::kLowercase);
    });
    exact_ = lcs_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    const std::string answer = oracle();
    reply = text_task::trimmed(reply).substr(0, text_task::kLongest);
    const size_t longer = std::max(reply.size(), answer.size());
    exact_ = reply == answer;
    lcs_ = static_cast<float>(common_subsequence(reply, answer)) / static_cast<float>(longer);
    return {.reward = lcs_, .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, "reverse: " + word_); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = lcs_;
  }
  std::string oracle() const { return {word_.rbegin(), word_.rend()}; }
  void state(StateIo& io) { io(word_, exact_, lcs_); }

 private:
  text_task::Split split_;
  int64_t shortest_, longest_;
  std::string word_;
  float exact_ = 0, lcs_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(ReverseText)

}  // namespace bessemer
