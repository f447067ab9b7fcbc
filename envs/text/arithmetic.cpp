// Arithmetic-v0: the sum, difference or product of two numbers.
#include "envs/text/task.h"

namespace bessemer {
namespace {

struct ArithmeticTask {
  using Action = std::string_view;

  static Spec spec() {
    return text_task::spec("Arithmetic-v0",
                           "Work out the sum, difference or product of two numbers.",
                           {"exact", "format"},
                           {text_task::integer("digits", 2, 1, 9, "digits of a number at the most"),
                            {.name = "operators",
                             .type = Option::Type::text,
                             .fallback = "+-",
                             .doc = "some of + - *"}});
  }
  explicit ArithmeticTask(const Settings& options)
      : split_(options, "Arithmetic-v0"), operators_(options.text("operators")) {
    for (int64_t i = 0; i < options.integer("digits"); ++i) bound_ *= 10;
    BESSEMER_CHECK(!operators_.empty() && operators_.find_first_not_of("+-*") == std::string::npos,
                   ValueError, "[env] Arithmetic-v0: operators are some of + - *, not '",
                   operators_, "'");
  }

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      a_ = rng.integers(0, bound_);
      b_ = rng.integers(0, bound_);
      operator_ =
          operators_[static_cast<size_t>(rng.integers(0, static_cast<int64_t>(operators_.size())))];
      return prompt();
    });
    exact_ = format_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    const auto number = text_task::whole_number(reply);
    format_ = number.has_value();
    exact_ = number == answer();
    return {.reward = exact_, .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, prompt()); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = format_;
  }
  std::string oracle() const { return std::to_string(answer()); }
  void state(StateIo& io) { io(a_, b_, operator_, exact_, format_); }

 private:
  std::string prompt() const { return cat(a_, operator_, b_, '='); }
  int64_t answer() const {
    return operator_ == '+' ? a_ + b_ : operator_ == '-' ? a_ - b_ : a_ * b_;
  }

  text_task::Split split_;
  std::string operators_;
  int64_t bound_ = 1, a_ = 0, b_ = 0;
  char operator_ = '+';
  float exact_ = 0, format_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(ArithmeticTask)

}  // namespace bessemer
