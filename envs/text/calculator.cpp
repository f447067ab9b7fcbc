// Calculator-v0: a task with a tool. `calc: EXPRESSION` is answered with its value, `answer:
// NUMBER` ends the episode.
#include "envs/text/expression.h"
#include "envs/text/task.h"

namespace bessemer {
namespace {

struct Calculator {
  using Action = std::string_view;
  static constexpr std::string_view kTool = "calc:", kAnswer = "answer:";

  static Spec spec() {
    return text_task::spec(
        "Calculator-v0",
        "Work out a product and a sum with a calculator: `calc: 3*4`, `answer: 12`.",
        {"exact", "format", "tool"},
        {text_task::integer("digits", 3, 1, 6, "digits of a number at the most")}, 4);
  }
  explicit Calculator(const Settings& options) : split_(options, "Calculator-v0") {
    for (int64_t i = 0; i < options.integer("digits"); ++i) bound_ *= 10;
  }

  void reset(Pcg64& rng, const Settings&) {
    split_.draw([&] {
      a_ = rng.integers(1, bound_);
      b_ = rng.integers(1, bound_);
      c_ = rng.integers(1, bound_);
      return task();
    });
    exact_ = format_ = tool_ = 0;
    message_ = task() + "=?";
  }
  StepResult step(std::string_view reply, Pcg64&) {
    reply = text_task::trimmed(reply).substr(0, text_task::kLongest);
    if (reply.starts_with(kAnswer)) {
      const auto number = text_task::whole_number(reply.substr(kAnswer.size()));
      format_ = number.has_value();
      exact_ = number == a_ * b_ + c_;
      message_ = exact_ != 0 ? "correct" : "wrong";
      return {.reward = exact_, .terminated = true};
    }
    format_ = reply.starts_with(kTool);
    const auto result =
        format_ != 0 ? text_task::read_expression(reply.substr(kTool.size())) : std::nullopt;
    if (!result) {
      message_ = "error: write `calc: EXPRESSION` or `answer: NUMBER`";
      return {};
    }
    tool_ = 1;
    message_ = std::to_string(result->value.top);
    if (result->value.bottom != 1) message_ += cat('/', result->value.bottom);
    return {};
  }
  void observe(RowOut& out) const { out.text(0, message_); }
  void rewards(std::span<float> out) const {
    out[0] = exact_;
    out[1] = format_;
    out[2] = tool_;
  }
  std::string oracle() const {
    return tool_ != 0 ? cat(kAnswer, ' ', a_ * b_ + c_) : cat(kTool, ' ', task());
  }
  void state(StateIo& io) { io(a_, b_, c_, message_, exact_, format_, tool_); }

 private:
  std::string task() const { return cat(a_, '*', b_, '+', c_); }

  text_task::Split split_;
  int64_t bound_ = 1, a_ = 0, b_ = 0, c_ = 0;
  std::string message_;
  float exact_ = 0, format_ = 0, tool_ = 0;
};

}  // namespace

BESSEMER_ENVIRONMENT(Calculator)

}  // namespace bessemer
