// Countdown-v0: reach a target from given numbers, each used at most once, by + - * /. The target
// is made from an expression over the numbers, which is the oracle's answer.
#include <algorithm>

#include "envs/text/expression.h"
#include "envs/text/task.h"

namespace bessemer {
namespace {

struct Countdown {
  using Action = std::string_view;

  static Spec spec() {
    return text_task::spec("Countdown-v0",
                           "Reach a target from given numbers by + - * /, each used at most once.",
                           {"exact", "format"},
                           {text_task::integer("count", 3, 2, 6, "how many numbers"),
                            text_task::integer("bound", 20, 2, 100, "numbers lie in 1 .. bound")});
  }
  explicit Countdown(const Settings& options)
      : split_(options, "Countdown-v0"),
        count_(options.integer("count")),
        bound_(options.integer("bound")) {}

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      do {
        draw_item(rng);
      } while (target_ < 1);
      return prompt();
    });
    exact_ = format_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    const auto expression = text_task::read_expression(reply.substr(0, text_task::kLongest));
    format_ = expression && allowed(expression->numbers);
    exact_ = format_ != 0 && expression->value == text_task::Fraction{target_, 1};
    return {.reward = exact_, .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, prompt()); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = format_;
  }
  std::string oracle() const { return solution_; }
  void state(StateIo& io) { io(numbers_, target_, solution_, exact_, format_); }

 private:
  /// ((n0 op n1) op n2) ..., over at least two of the numbers.
  void draw_item(Pcg64& rng) {
    numbers_.resize(static_cast<size_t>(count_));
    for (int64_t& n : numbers_) n = rng.integers(1, bound_ + 1);
    const int64_t used = rng.integers(2, count_ + 1);
    int64_t value = numbers_[0];
    solution_ = std::to_string(value);
    for (int64_t i = 1; i < used; ++i) {
      const int64_t n = numbers_[static_cast<size_t>(i)];
      switch (rng.integers(0, 4)) {
        case 0:
          value += n;
          solution_ += cat('+', n);
          break;
        case 1:
          value -= n;
          solution_ += cat('-', n);
          break;
        case 2:
          value *= n;
          solution_ = cat('(', solution_, ")*", n);
          break;
        default:
          if (value % n == 0) {
            value /= n;
            solution_ = cat('(', solution_, ")/", n);
          } else {
            value += n;
            solution_ += cat('+', n);
          }
      }
    }
    target_ = value;
  }
  std::string prompt() const {
    std::string out = "make " + std::to_string(target_) + " from";
    for (const int64_t n : numbers_) out += cat(' ', n);
    return out;
  }
  bool allowed(std::vector<int64_t> used) const {
    std::vector<int64_t> given = numbers_;
    std::sort(used.begin(), used.end());
    std::sort(given.begin(), given.end());
    return std::includes(given.begin(), given.end(), used.begin(), used.end());
  }

  text_task::Split split_;
  int64_t count_, bound_, target_ = 0;
  std::vector<int64_t> numbers_;
  std::string solution_;
  float exact_ = 0, format_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(Countdown)

}  // namespace bessemer
