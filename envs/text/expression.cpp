#include "envs/text/expression.h"

#include <cctype>
#include <numeric>

namespace bessemer::text_task {

namespace {

std::optional<Fraction> fraction(__int128 top, __int128 bottom) {
  if (bottom == 0) return std::nullopt;
  if (bottom < 0) {
    top = -top;
    bottom = -bottom;
  }
  __int128 a = top < 0 ? -top : top, b = bottom;
  while (b) {
    const __int128 rest = a % b;
    a = b;
    b = rest;
  }
  if (a) {
    top /= a;
    bottom /= a;
  }
  constexpr __int128 kMost = INT64_MAX;
  if (top > kMost || top < -kMost || bottom > kMost) return std::nullopt;
  return Fraction{static_cast<int64_t>(top), static_cast<int64_t>(bottom)};
}

/// sum := product (('+' | '-') product)*, product := factor (('*' | '/') factor)*,
/// factor := '-' factor | number | '(' sum ')'
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Expression> read() {
    const auto value = sum(0);
    skip();
    if (!value || at_ != text_.size()) return std::nullopt;
    return Expression{*value, std::move(numbers_)};
  }

 private:
  static constexpr int kDeepest = 64;

  void skip() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool take(char c) {
    skip();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  std::optional<Fraction> sum(int depth) {
    auto left = product(depth);
    while (left) {
      const bool plus = take('+');
      if (!plus && !take('-')) break;
      const auto right = product(depth);
      if (!right) return std::nullopt;
      const __int128 a = static_cast<__int128>(left->top) * right->bottom;
      const __int128 b = static_cast<__int128>(right->top) * left->bottom;
      left = fraction(plus ? a + b : a - b, static_cast<__int128>(left->bottom) * right->bottom);
    }
    return left;
  }

  std::optional<Fraction> product(int depth) {
    auto left = factor(depth);
    while (left) {
      const bool times = take('*');
      if (!times && !take('/')) break;
      const auto right = factor(depth);
      if (!right) return std::nullopt;
      left = times ? fraction(static_cast<__int128>(left->top) * right->top,
                              static_cast<__int128>(left->bottom) * right->bottom)
                   : fraction(static_cast<__int128>(left->top) * right->bottom,
                              static_cast<__int128>(left->bottom) * right->top);
    }
    return left;
  }

  std::optional<Fraction> factor(int depth) {
    if (depth > kDeepest) return std::nullopt;
    if (take('-')) {
      const auto value = factor(depth + 1);
      if (!value) return std::nullopt;
      return Fraction{-value->top, value->bottom};
    }
    if (take('(')) {
      const auto value = sum(depth + 1);
      if (!value || !take(')')) return std::nullopt;
      return value;
    }
    skip();
    const size_t begin = at_;
    int64_t number = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      if (__builtin_mul_overflow(number, 10, &number) ||
          __builtin_add_overflow(number, text_[at_] - '0', &number))
        return std::nullopt;
      ++at_;
    }
    if (at_ == begin) return std::nullopt;
    numbers_.push_back(number);
    return Fraction{number, 1};
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<int64_t> numbers_;
};

}  // namespace

std::optional<Expression> read_expression(std::string_view text) { return Parser(text).read(); }

}  // namespace bessemer::text_task
