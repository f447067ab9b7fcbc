// GuessNumber-v0: find a hidden number; the environment answers "higher" or "lower". Many turns:
// what the environment says is not the model's.
#include "envs/text/task.h"

namespace bessemer {
namespace {

struct GuessNumber {
  using Action = std::string_view;

  static Spec spec() {
    Spec s = text_task::spec(
        "GuessNumber-v0", "Find a hidden number by guesses that are answered higher or lower.",
        {"solved", "format"},
        {text_task::integer("bound", 64, 2, 1000000, "the number lies in 1 .. bound")}, 16);
    s.reset_options = {text_task::integer("secret", 0, 0, 1000000, "the number; 0 draws one")};
    return s;
  }
  explicit GuessNumber(const Settings& options)
      : split_(options, "GuessNumber-v0"), bound_(options.integer("bound")) {}

  void reset(Pcg64& rng, const Settings& reset_options) {
    secret_ = reset_options.integer("secret");
    BESSEMER_CHECK(secret_ <= bound_, ValueError, "[env] GuessNumber-v0: secret ", secret_,
                   " is above bound ", bound_);
    // The numbers are few and bisection finds any of them: both splits hold them all.
    if (secret_ == 0) secret_ = rng.integers(1, bound_ + 1);
    low_ = 1;
    high_ = bound_;
    solved_ = format_ = 0;
    message_ = cat("guess 1-", bound_);
  }
  /// 1 for the right number less a twentieth for each guess before it; nothing otherwise.
  StepResult step(std::string_view reply, Pcg64&) {
    const auto guess = text_task::whole_number(reply);
    format_ = guess.has_value();
    solved_ = guess == secret_;
    if (solved_ != 0) {
      message_ = "correct";
      return {.reward = 1, .terminated = true};
    }
    if (!guess) {
      message_ = "a number";
    } else if (*guess < secret_) {
      message_ = "higher";
      low_ = std::max(low_, *guess + 1);
    } else {
      message_ = "lower";
      high_ = std::min(high_, *guess - 1);
    }
    return {.reward = -0.05};
  }
  void observe(RowOut& out) const { out.text(0, message_); }
  void rewards(std::span<float> out) const {
    out[0] = solved_;
    out[1] = format_;
  }
  std::string oracle() const { return std::to_string((low_ + high_) / 2); }
  void state(StateIo& io) { io(secret_, low_, high_, message_, solved_, format_); }

 private:
  text_task::Split split_;
  int64_t bound_, secret_ = 0, low_ = 1, high_ = 1;
  std::string message_;
  float solved_ = 0, format_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(GuessNumber)

}  // namespace bessemer
