// What the file of a simulator includes: the concept, its options, its outputs, saving,
// registration.
//
// A simulator is a struct that steps one world (docs/environments.md has a complete one):
//
//     struct Walk {
//       using Action = int64_t;                        // the action channel's C++ type
//       static Spec spec();
//       explicit Walk(const Settings& options);        // values of spec().options
//       void reset(Pcg64& rng, const Settings& reset_options);
//       StepResult step(int64_t action, Pcg64& rng);   // span<const Action> where the channel has
//       a
//                                                      // shape; string_view where it is text
//       void observe(RowOut& out) const;
//       void state(StateIo& io);                       // one function saves and loads
//       // optional:
//       void draw(Canvas& canvas) const;
//       void infos(RowOut& out) const;                 // channels of spec().infos
//       void rewards(std::span<float> out) const;      // spec().rewards, of the last step
//       void mask(std::span<uint8_t> out) const;       // spec().action_mask
//       std::string oracle() const;                    // a best action from here, as text
//     };
//     BESSEMER_ENVIRONMENT(Walk)
//
// An environment of several agents (spec().rows > 1) has
//     void step(std::span<const Action> all_rows, std::span<StepResult> results, Pcg64& rng);
//     void observe(int row, RowOut& out) const;          // likewise infos, rewards, mask
// and its episode ends when every row has ended.
//
// An exception from reset or step makes the row a fault: it is reported with its text and the world
// is built anew by the next reset. Batching, threads, autoreset, limits and statistics are
// batch.h's.
#pragma once

#include <concepts>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/base/pcg64.h"
#include "envs/env.h"

namespace bessemer {

/// Option values, checked against the Spec: every option has one, its fallback if not given.
class Settings {
 public:
  Settings() = default;
  /// Throws ValueError naming `where`, the name, the value and what is allowed.
  Settings(const std::vector<Option>& allowed, const Options& given, std::string_view where);

  double number(std::string_view name) const { return find(name).number; }
  int64_t integer(std::string_view name) const { return static_cast<int64_t>(find(name).number); }
  bool boolean(std::string_view name) const { return find(name).number != 0; }
  const std::string& text(std::string_view name) const { return find(name).text; }

 private:
  struct Value {
    std::string name, text;
    double number = 0;
  };
  const Value& find(std::string_view name) const;
  std::vector<Value> values_;
};

struct StepResult {
  double reward = 0;
  bool terminated = false;
  bool truncated = false;  // a limit of the world's own; the Spec's step limit is the batch's
};

/// Where one row's values of a list of channels go.
class RowOut {
 public:
  RowOut(std::span<void* const> dense, std::span<std::string> text) : dense_(dense), text_(text) {}
  /// The row's `numel` elements of a dense channel. Always valid to write.
  template <class T>
  T* dense(int channel) {
    return static_cast<T*>(dense_[channel]);
  }
  void text(int channel, std::string_view value) { text_[channel].assign(value); }

 private:
  std::span<void* const> dense_;
  std::span<std::string> text_;
};

/// Saves or loads numbers, strings and vectors of numbers, by one and the same call.
class StateIo {
 public:
  StateIo() = default;                                                      // saves
  explicit StateIo(std::string_view bytes) : in_(bytes), loading_(true) {}  // loads

  bool loading() const { return loading_; }
  template <class... T>
  void operator()(T&... values) {
    (value(values), ...);
  }
  std::string& bytes() { return out_; }
  bool exhausted() const { return in_.empty(); }

 private:
  template <class T>
  requires std::is_trivially_copyable_v<T>
  void value(T& x) { raw(&x, sizeof x); }
  template <class T, class A>
  void value(std::vector<T, A>& x) {
    sized(x, sizeof(T));
  }
  void value(std::string& x) { sized(x, 1); }
  template <class Container>
  void sized(Container& x, size_t element) {
    uint64_t count = x.size();
    raw(&count, sizeof count);
    if (loading_) {
      BESSEMER_CHECK(count <= in_.size() / element, ValueError, "[env] saved state is cut short");
      x.resize(count);
    }
    raw(x.data(), count * element);
  }
  void raw(void* data, size_t size);

  std::string out_;
  std::string_view in_;
  bool loading_ = false;
};

/// One agent whose action is a scalar (or text), or an array.
template <class S>
concept StepsScalar = requires(S s, typename S::Action a, Pcg64& rng) {
  { s.step(a, rng) } -> std::same_as<StepResult>;
};
template <class S>
concept StepsArray = requires(S s, std::span<const typename S::Action> a, Pcg64& rng) {
  { s.step(a, rng) } -> std::same_as<StepResult>;
};
template <class S>
concept StepsRows = requires(S s, std::span<const typename S::Action> a, std::span<StepResult> r,
                             Pcg64& rng) {
  s.step(a, r, rng);
};

template <class S>
concept Simulator =
    (StepsScalar<S> || StepsArray<S> ||
     StepsRows<S>)&&std::constructible_from<S, const Settings&>&& requires(S s, Pcg64& rng,
                                                                           const Settings& settings,
                                                                           StateIo& io) {
  { S::spec() } -> std::same_as<Spec>;
  s.reset(rng, settings);
  s.state(io);
};

}  // namespace bessemer
