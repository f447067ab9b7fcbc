#include "rollout/episode_message.h"

#include <type_traits>

namespace bessemer {

using wire::Code;
using wire::Message;

namespace {

constexpr int64_t kMostEpisodes = int64_t{1} << 31;  // of one task

/// Keys of draws are unsigned; on the wire they are the same 64 bits.
template <class T>
constexpr Dtype wire_dtype() {
  if constexpr (std::is_same_v<T, uint64_t>)
    return Dtype::i64;
  else
    return dtype_of<T>();
}

template <class T>
void write_column(Message& message, const char* name, const std::vector<T>& column) {
  message.add(name, wire_dtype<T>(), {static_cast<int64_t>(column.size())}, column.data());
}

template <class T>
void read_column(const Message& message, const char* name, std::vector<T>& column) {
  const int64_t shape[] = {message.array(name).numel()};
  const auto* from = static_cast<const T*>(message.array(name, wire_dtype<T>(), shape).data);
  column.assign(from, from + shape[0]);
}

}  // namespace

void check_play(const PlayOptions& play) {
  BESSEMER_CHECK(play.reset.empty() && play.sampling.stop.empty() && play.sampling.stop_ids.empty(),
                 ValueError, "[episodes] workers take no reset options and no stop strings or ids");
  BESSEMER_CHECK(!play.seeds.empty() && play.size >= 1, ValueError, "[episodes] ",
                 play.seeds.size(), " groups of ", play.size);
}

void write_play(Message& message, const PlayOptions& play) {
  const SamplingOptions& sampling = play.sampling;
  message.fields.set("size", play.size);
  message.fields.set("sequence", play.first_sequence);
  message.fields.set("temperature", sampling.temperature);
  message.fields.set("top_k", sampling.top_k);
  message.fields.set("top_p", sampling.top_p);
  message.fields.set("max_tokens", sampling.max_tokens);
  write_column(message, "seeds", play.seeds);
}

PlayOptions read_play(const Message& message) {
  PlayOptions play;
  play.size = message.fields.integer("size");
  play.first_sequence = message.fields.count("sequence");
  play.sampling.temperature = message.fields.number("temperature");
  play.sampling.top_k = message.fields.integer("top_k");
  play.sampling.top_p = message.fields.number("top_p");
  play.sampling.max_tokens = message.fields.integer("max_tokens");
  read_column(message, "seeds", play.seeds);
  const auto groups = static_cast<int64_t>(play.seeds.size());
  if (groups < 1 || play.size < 1 || play.size > kMostEpisodes / groups) {
    wire::refuse(Code::malformed, "[episodes] ", groups, " groups of ", play.size);
  }
  return play;
}

void write_tokens(Message& message, const TokenSamples& samples) {
  samples.check();
  message.fields.set("kind", "tokens");
  TokenSamples::each_column(
      samples, [&](const char* name, const auto& column) { write_column(message, name, column); });
}

TokenSamples read_tokens(const Message& message) {
  if (const std::string& kind = message.fields.text("kind"); kind != "tokens") {
    wire::refuse(Code::bad_value, "[tokens] rows of kind '", kind, "', expected tokens");
  }
  TokenSamples out;
  TokenSamples::each_column(
      out, [&](const char* name, auto& column) { read_column(message, name, column); });
  try {
    out.check();
  } catch (const ValueError& error) {
    wire::refuse(Code::malformed, error.what());
  }
  return out;
}

}  // namespace bessemer
