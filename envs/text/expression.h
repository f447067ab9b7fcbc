// Reads and evaluates arithmetic: whole numbers, + - * /, brackets and a leading minus, exactly, in
// fractions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace bessemer::text_task {

struct Fraction {
  int64_t top = 0, bottom = 1;  // in lowest terms, bottom > 0
  bool operator==(const Fraction&) const = default;
};

struct Expression {
  Fraction value;
  std::vector<int64_t> numbers;  // as they were written, in order
};

/// Nothing for text that is not an expression, divides by zero, is nested more than 64 deep or
/// leaves the range of 64 bits.
std::optional<Expression> read_expression(std::string_view text);

}  // namespace bessemer::text_task
