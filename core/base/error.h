// Typed errors and the text that explains them. Python sees ValueError, TypeError, IndexError,
// MemoryError, OSError and RuntimeError; C++ sees the classes below.
#pragma once

#include <charconv>
#include <concepts>
#include <source_location>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace bessemer {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
/// The right type with a wrong value: shapes that do not fit, an unknown name, a range.
class ValueError : public Error {
 public:
  using Error::Error;
};
/// A wrong dtype or kind of argument.
class TypeError : public Error {
 public:
  using Error::Error;
};
class IndexError : public Error {
 public:
  using Error::Error;
};
class MemoryError : public Error {
 public:
  using Error::Error;
};
/// Files, devices, sockets: the message names the path and the system's reason.
class IoError : public Error {
 public:
  using Error::Error;
};

/// A loss, gradient or network output that is NaN or infinite; the message names the tensor.
class NotFiniteError : public Error {
 public:
  using Error::Error;
};

namespace detail {
inline void cat_one(std::string& out, std::string_view text) { out += text; }
inline void cat_one(std::string& out, const char* text) { out += text; }
inline void cat_one(std::string& out, const std::string& text) { out += text; }
inline void cat_one(std::string& out, char c) { out += c; }
inline void cat_one(std::string& out, bool value) { out += value ? "true" : "false"; }
template <class T>
requires(std::integral<T> || std::floating_point<T>) void cat_one(std::string& out, T value) {
  char text[64];
  out.append(text, std::to_chars(text, text + sizeof text, value).ptr);
}
/// A sequence of numbers reads as a shape: (4, 8), (3,), ().
template <class T>
void cat_one(std::string& out, std::span<T> values) {
  out += '(';
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) out += ", ";
    cat_one(out, values[i]);
  }
  if (values.size() == 1) out += ',';
  out += ')';
}
template <class T>
void cat_one(std::string& out, const std::vector<T>& values) {
  cat_one(out, std::span<const T>(values));
}
}  // namespace detail

/// Joins text, numbers (shortest form that reads back) and shapes into one string.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (detail::cat_one(out, parts), ...);
  return out;
}

/// Throws E with the joined text.
template <class E = Error, class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const Parts&... parts) {
  throw E(cat(parts...));
}

/// The candidate nearest to `name` by edit distance, or "" where none is near enough to suggest.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);
/// ", did you mean 'x'?" or "" — to append to an error about an unknown name.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

}  // namespace bessemer

/// Checks `condition`; the parts are only joined when it fails.
#define BESSEMER_CHECK(condition, ErrorType, ...)           \
  do {                                                      \
    if (!(condition)) [[unlikely]] {                        \
      ::bessemer::fail<::bessemer::ErrorType>(__VA_ARGS__); \
    }                                                       \
  } while (0)
