// LetterCount-v0: how often a letter occurs in a word. Words use few letters, so that answers vary.
#include <algorithm>

#include "envs/text/task.h"

namespace bessemer {
namespace {

struct LetterCount {
  using Action = std::string_view;

  static Spec spec() {
    return text_task::spec(
        "LetterCount-v0", "Count how often a letter occurs in a word.", {"exact", "format"},
        {text_task::integer("min_length", 4, 1, 256, "letters of the shortest word"),
         text_task::integer("max_length", 10, 1, 256, "letters of the longest word"),
         text_task::integer("letters", 6, 2, 26, "how many different letters")});
  }
  explicit LetterCount(const Settings& options)
      : split_(options, "LetterCount-v0"),
        shortest_(options.integer("min_length")),
        longest_(options.integer("max_length")),
        letters_(text_task::kLowercase.substr(0, static_cast<size_t>(options.integer("letters")))) {
    text_task::check_order("LetterCount-v0", shortest_, longest_, "length");
  }

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      word_ = text_task::random_word(rng, shortest_, longest_, letters_);
      letter_ =
          letters_[static_cast<size_t>(rng.integers(0, static_cast<int64_t>(letters_.size())))];
      return prompt();
    });
    exact_ = format_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    const auto number = text_task::whole_number(reply);
    format_ = number.has_value();
    exact_ = number == std::count(word_.begin(), word_.end(), letter_);
    return {.reward = exact_, .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, prompt()); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = format_;
  }
  std::string oracle() const {
    return std::to_string(std::count(word_.begin(), word_.end(), letter_));
  }
  void state(StateIo& io) { io(word_, letter_, exact_, format_); }

 private:
  std::string prompt() const { return cat("count ", letter_, ": ", word_); }

  text_task::Split split_;
  int64_t shortest_, longest_;
  std::string_view letters_;
  std::string word_;
  char letter_ = 'a';
  float exact_ = 0, format_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(LetterCount)

}  // namespace bessemer
