#include "rollout/token_samples.h"

#include <algorithm>
#include <type_traits>

#include "core/wire/message.h"

namespace bessemer {

using wire::Code;
using wire::List;
using wire::Message;
using wire::Value;

namespace {

/// Calls visit(name, column) for each column of one entry a token.
template <class Samples, class Visit>
void token_columns(Samples& samples, const Visit& visit) {
  visit("tokens", samples.tokens);
  visit("author", samples.author);
  visit("trained", samples.trained);
  visit("log_prob", samples.log_prob);
  visit("version", samples.version);
}

template <class Samples, class Visit>
void sequence_columns(Samples& samples, const Visit& visit) {
  visit("sequence", samples.sequence);
  visit("group", samples.group);
  visit("prompt", samples.prompt);
  visit("finish", samples.finish);
  visit("reward", samples.reward);
}

/// Keys of draws are unsigned; on the wire they are the same 64 bits.
template <class T>
constexpr Dtype wire_dtype() {
  if constexpr (std::is_same_v<T, uint64_t>)
    return Dtype::i64;
  else
    return dtype_of<T>();
}

template <class T>
void write_column(Message& message, const std::string& name, const std::vector<T>& column) {
  message.add(name, wire_dtype<T>(), {static_cast<int64_t>(column.size())}, column.data());
}

template <class T>
void read_column(const Message& message, const std::string& name, int64_t size,
                 std::vector<T>& column) {
  const int64_t shape[] = {size};
  const auto* from = static_cast<const T*>(message.array(name, wire_dtype<T>(), shape).data);
  column.assign(from, from + size);
}

}  // namespace

void TokenSamples::append(const TokenSamples& next) {
  BESSEMER_CHECK(value.empty() == next.value.empty() || size() == 0 || next.size() == 0, ValueError,
                 "[tokens] only one of two batches has values");
  bool same = rewards.size() == next.rewards.size();
  for (size_t i = 0; same && i < rewards.size(); ++i)
    same = rewards[i].first == next.rewards[i].first;
  BESSEMER_CHECK(same || sequences() == 0, ValueError,
                 "[tokens] the batches have different reward components");
  const auto add = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  if (sequences() == 0) {
    rewards.clear();
    for (const auto& component : next.rewards) rewards.push_back({component.first, {}});
  }
  for (size_t i = 0; i < rewards.size(); ++i) add(rewards[i].second, next.rewards[i].second);
  const int64_t before = size();
  for (int64_t s = 1; s <= next.sequences(); ++s) offsets.push_back(before + next.offsets[s]);
  add(tokens, next.tokens);
  add(author, next.author);
  add(trained, next.trained);
  add(log_prob, next.log_prob);
  add(value, next.value);
  add(version, next.version);
  add(sequence, next.sequence);
  add(group, next.group);
  add(prompt, next.prompt);
  add(finish, next.finish);
  add(reward, next.reward);
}

void TokenSamples::check() const {
  BESSEMER_CHECK(!offsets.empty() && offsets[0] == 0 && std::ranges::is_sorted(offsets), ValueError,
                 "[tokens] offsets do not rise from 0");
  const auto length = [](std::string_view name, size_t found, int64_t wanted) {
    BESSEMER_CHECK(static_cast<int64_t>(found) == wanted, ValueError, "[tokens] '", name, "' has ",
                   found, " entries, expected ", wanted);
  };
  token_columns(*this, [&](std::string_view name, const auto& column) {
    length(name, column.size(), size());
  });
  if (!value.empty()) length("value", value.size(), size());
  sequence_columns(*this, [&](std::string_view name, const auto& column) {
    length(name, column.size(), sequences());
  });
  for (const auto& [name, column] : rewards) length(name, column.size(), sequences());
}

void write_tokens(Message& message, const TokenSamples& samples) {
  samples.check();
  message.fields.set("kind", "tokens");
  const auto write = [&](const char* name, const auto& column) {
    write_column(message, name, column);
  };
  write("offsets", samples.offsets);
  token_columns(samples, write);
  if (!samples.value.empty()) write("value", samples.value);
  sequence_columns(samples, write);
  List names;
  for (const auto& [name, column] : samples.rewards) {
    names.emplace_back(name);
    write_column(message, "rewards." + name, column);
  }
  message.fields.set("rewards", std::move(names));
}

TokenSamples read_tokens(const Message& message) {
  if (const std::string& kind = message.fields.text("kind"); kind != "tokens") {
    wire::refuse(Code::bad_value, "[tokens] rows of kind '", kind, "', expected tokens");
  }
  TokenSamples out;
  const int64_t offsets = message.array("offsets").numel();
  if (offsets < 1) wire::refuse(Code::malformed, "[tokens] no offsets");
  read_column(message, "offsets", offsets, out.offsets);
  if (out.offsets[0] != 0 || !std::ranges::is_sorted(out.offsets)) {
    wire::refuse(Code::malformed, "[tokens] offsets do not rise from 0");
  }
  token_columns(
      out, [&](const char* name, auto& column) { read_column(message, name, out.size(), column); });
  if (message.find("value")) read_column(message, "value", out.size(), out.value);
  sequence_columns(out, [&](const char* name, auto& column) {
    read_column(message, name, out.sequences(), column);
  });
  for (int64_t s = 0; s < out.sequences(); ++s) {
    const auto i = static_cast<size_t>(s);
    if (out.prompt[i] < 0 || out.prompt[i] > out.offsets[i + 1] - out.offsets[i])
      wire::refuse(Code::malformed, "[tokens] a prompt of ", out.prompt[i], " tokens");
  }
  for (const Value& item : message.fields.list("rewards")) {
    const std::string& name = item.text("rewards");
    for (const auto& [known, column] : out.rewards)
      if (known == name) wire::refuse(Code::malformed, "[tokens] two rewards '", name, "'");
    out.rewards.push_back({name, {}});
    read_column(message, "rewards." + name, out.sequences(), out.rewards.back().second);
  }
  return out;
}

}  // namespace bessemer
