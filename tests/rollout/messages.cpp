// Samples, states, tokens and weights as messages: what is read is what was written, and what does
// not fit is refused.
#include <doctest/doctest.h>

#include "rollout/episode_message.h"
#include "rollout/sample_message.h"
#include "tests/fuzz.h"
#include "tests/peak_memory.h"

using namespace bessemer;
using wire::Code;
using wire::Message;

namespace {

/// As it travels: header bytes and frames.
Message travel(const Message& message) {
  std::string header;
  wire::encode_header(message, header);
  Message out = wire::decode_header(header);
  auto frames = std::make_shared<std::vector<std::string>>();
  for (const wire::NamedArray& array : message.arrays)
    frames->emplace_back(static_cast<const char*>(array.view.data), array.view.bytes());
  std::vector<std::string_view> views(frames->begin(), frames->end());
  wire::attach_frames(out, views);
  out.storage = frames;
  return out;
}

template <class Read>
Code refused(const Read& read) {
  try {
    read();
  } catch (const wire::WireError& error) {
    return error.code();
  }
  FAIL("not refused");
  return Code::internal;
}

Rollout numbered(const RolloutShape& shape) {
  Rollout out = make_rollout(shape);
  int64_t n = 0;
  const auto number = [&](auto& column) {
    for (auto& x : column) x = static_cast<std::decay_t<decltype(x)>>(++n % 251);
  };
  number(out.obs);
  number(out.action_mask);
  for (auto* column : {&out.actions, &out.log_prob, &out.value, &out.raw_reward, &out.reward,
                       &out.state, &out.last_value})
    number(*column);
  for (auto* column : {&out.ended, &out.fault, &out.starts}) number(*column);
  return out;
}

/// An episode of two turns, and one that failed before it began.
std::vector<Episode> conversations() {
  Episode spoken, failed;
  spoken.prompt = {5, 6};
  spoken.continuation = {{7, 8, 9, 4}, {1, 0, 0, 1}};
  spoken.log_prob = {-1.5f, -0.25f};
  spoken.version = {4, 5};
  spoken.author = {Author::frame,   Author::message, Author::model,
                   Author::message, Author::frame,   Author::model};
  spoken.sequence = ~uint64_t{0};
  spoken.turn_end = {1, 2};
  spoken.turn_reward = {0.1f, 0.7f};
  spoken.reward = double{0.1f} + double{0.7f};
  spoken.components = {0.7f, 0};
  spoken.question = "q";
  spoken.answer = std::string("\0\xff", 2);
  spoken.oracle = "right";
  spoken.turns = 2;
  spoken.ended = spoken.off_policy = true;
  failed.prompt = {1};
  failed.author = {Author::frame};
  failed.sequence = 3;
  failed.reward = 0;
  failed.cut = true;
  failed.fault = "prompt_too_long";
  return {spoken, failed};
}

}  // namespace

TEST_CASE("control rows travel, whole or into their place among others") {
  const RolloutShape shape{4, 2, 3, 5, 6, 7};
  Rollout from = numbered(shape);
  from.faults = 2;
  from.fault_reason = "it broke";
  const std::vector<EpisodeEnd> episodes = {{1.5, 3}, {-2, 9}};
  Message message("samples");
  const RolloutMessage writer(from, episodes);
  writer.write(message);
  const Message got = travel(message);
  check_rollout_message(got, shape);
  const Rollout same = read_rollout(got, shape);
  CHECK(same.obs == from.obs);
  CHECK(same.action_mask == from.action_mask);
  CHECK(same.actions == from.actions);
  CHECK(same.starts == from.starts);
  CHECK(same.state == from.state);
  CHECK(same.last_value == from.last_value);
  CHECK(same.fault_reason == "it broke");
  CHECK(same.faults == 2);
  CHECK(read_episodes(got)[1].total == -2);
  CHECK(read_episodes(got)[1].length == 9);

  RolloutShape wide = shape;
  wide.rows = 5;
  Rollout all = make_rollout(wide);
  read_rollout_rows(got, shape, 2, all);
  for (int64_t t = 0; t < 4; ++t) {
    for (int64_t row = 0; row < 5; ++row) {
      const bool inside = row == 2 || row == 3;
      const int64_t at = t * 5 + row, own = t * 2 + row - 2;
      CHECK(all.reward[at] == (inside ? from.reward[own] : 0));
      CHECK(all.actions[at * 3 + 1] == (inside ? from.actions[own * 3 + 1] : 0));
      CHECK(all.obs[at * 5] == (inside ? from.obs[own * 5] : std::byte{}));
    }
  }
  CHECK(all.last_value[3] == from.last_value[1]);
}

TEST_CASE("control rows of another shape or kind are refused") {
  const RolloutShape shape{4, 2, 3, 5, 0, 0};
  const Rollout from = numbered(shape);
  const RolloutMessage writer(from, {});
  Message message("samples");
  writer.write(message);
  RolloutShape other = shape;
  SUBCASE("steps") { other.steps = 5; }
  SUBCASE("rows") { other.rows = 1; }
  SUBCASE("observation") { other.obs_bytes = 4; }
  CHECK(refused([&] { check_rollout_message(message, other); }) == Code::bad_type);
  other = shape;
  other.mask_width = 2;
  CHECK(refused([&] { check_rollout_message(message, other); }) == Code::malformed);
  message.fields.set("kind", "tokens");
  CHECK(refused([&] { check_rollout_message(message, shape); }) == Code::bad_value);
}

TEST_CASE("states of environments travel; damaged ones are refused") {
  SourceState state;
  state.counter = {3, 4};
  state.starts = {0, 1};
  state.states = {1, 2, 3, 4, 5, 6};
  state.envs = {std::string("a\0b", 3), ""};
  StateMessage writer(state);
  Message message("pull");
  writer.write(message);
  const std::optional<SourceState> got = read_state(travel(message), 2);
  REQUIRE(got.has_value());
  CHECK(got->counter == state.counter);
  CHECK(got->starts == state.starts);
  CHECK(got->states == state.states);
  CHECK(got->envs == state.envs);
  CHECK(!read_state(Message("pull"), 2));
  CHECK(refused([&] { (void)read_state(message, 3); }) == Code::bad_type);
  writer.offsets[1] = 9;
  CHECK(refused([&] { (void)read_state(message, 2); }) == Code::malformed);
}

TEST_CASE("conversations travel as token rows, bit for bit") {
  const std::vector<Episode> from = conversations();
  const TokenSamples samples = token_samples(from);
  Message message("samples");
  write_tokens(message, samples);
  const std::vector<Episode> got = episodes_of(read_tokens(travel(message)));
  REQUIRE(got.size() == from.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].prompt == from[i].prompt);
    CHECK(got[i].continuation.tokens == from[i].continuation.tokens);
    CHECK(got[i].continuation.trained == from[i].continuation.trained);
    CHECK(got[i].log_prob == from[i].log_prob);
    CHECK(got[i].version == from[i].version);
    CHECK((got[i].author == from[i].author));
    CHECK(got[i].sequence == from[i].sequence);
    CHECK(got[i].turn_end == from[i].turn_end);
    CHECK(got[i].turn_reward == from[i].turn_reward);
    CHECK(got[i].reward == from[i].reward);
    CHECK(got[i].components == from[i].components);
    CHECK(got[i].question == from[i].question);
    CHECK(got[i].answer == from[i].answer);
    CHECK(got[i].oracle == from[i].oracle);
    CHECK(got[i].turns == from[i].turns);
    CHECK(got[i].ended == from[i].ended);
    CHECK(got[i].cut == from[i].cut);
    CHECK(got[i].off_policy == from[i].off_policy);
    CHECK(got[i].fault == from[i].fault);
  }
}

TEST_CASE("token rows whose columns do not fit are refused on both sides") {
  const std::vector<Episode> from = conversations();
  TokenSamples wrong = token_samples(from);
  Message message("samples");
  write_tokens(message, wrong);
  const int64_t sinking[] = {0, 7, 6};
  Message bad = travel(message);
  bad.arrays[0].view.data = const_cast<int64_t*>(sinking);
  CHECK(refused([&] { (void)read_tokens(bad); }) == Code::malformed);
  bad = travel(message);
  bad.arrays[1].view.shape[0] = 4;
  CHECK(refused([&] { (void)read_tokens(bad); }) == Code::malformed);
  bad = travel(message);
  bad.arrays[1].view.dtype = Dtype::f32;
  CHECK(refused([&] { (void)read_tokens(bad); }) == Code::bad_type);
  wrong.prompt.pop_back();
  CHECK_THROWS_WITH_AS(write_tokens(message, wrong), "[tokens] 'prompt' has 1 entries, expected 2",
                       ValueError);
}

TEST_CASE("weights travel under their hash; a changed byte is refused") {
  const nn::NamedTensors tensors = {{"a", Tensor::arange(5, Dtype::f32)},
                                    {"b.c", Tensor::full({2, 3}, 0.5, Dtype::bf16)},
                                    {"none", Tensor::zeros({0, 4})}};
  const WeightSet set = make_weights(12, tensors);
  Message message("reply");
  write_weights(message, set);
  WeightSet got;
  {
    const Message arrived = travel(message);
    got = read_weights(arrived);
  }  // the set keeps the memory
  CHECK(got.version == 12);
  CHECK(got.hash == set.hash);
  REQUIRE(got.tensors.size() == 3);
  CHECK(got.tensors[1].first == "b.c");
  CHECK(weights_hash(got.tensors) == set.hash);
  const nn::NamedTensors into = {{"a", Tensor::zeros({5})},
                                 {"b.c", Tensor::zeros({2, 3}, Dtype::bf16)},
                                 {"none", Tensor::zeros({0, 4})}};
  assign_weights(into, got);
  CHECK(into[0].second.data<float>()[4] == 4);

  Message damaged = travel(message);
  static_cast<char*>(damaged.arrays[0].view.data)[3] ^= 1;
  CHECK(refused([&] { (void)read_weights(damaged); }) == Code::mismatch);
  damaged = travel(message);
  damaged.arrays[0].view.shape[0] -= 1;
  CHECK(refused([&] { (void)read_weights(damaged); }) == Code::bad_type);
  CHECK(refused([&] { (void)read_weights(Message("reply")); }) == Code::malformed);
  // Sizes whose product, or whose bytes, are nothing again in 64 bits.
  const std::vector<wire::List> vast = {{int64_t{1} << 40, int64_t{1} << 24},
                                        {int64_t{1} << 62},
                                        {int64_t{0}, int64_t{1} << 62},
                                        {int64_t{0}, int64_t{-1}}};
  for (const wire::List& sizes : vast) {
    Message claims("reply");
    wire::List tensors;
    tensors.emplace_back(wire::List{"a", "float64", sizes});
    claims.fields.set("weights",
                      wire::Map{{"version", 1}, {"hash", uint64_t{0}}, {"tensors", tensors}});
    claims.add("weights", Dtype::u8, {0}, nullptr);
    CHECK(refused([&] { (void)read_weights(claims); }) == Code::malformed);
  }
}

TEST_CASE("a column owns its numbers or looks at a message's; copies own theirs") {
  auto memory = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3});
  const std::weak_ptr<std::vector<float>> alive = memory;
  Column<float> view = Column<float>::view(memory->data(), 3, memory);
  (*memory)[1] = 5;
  CHECK(view == std::vector<float>{1, 5, 3});
  const Column<float> copy = view;
  view[0] = 9;
  CHECK((*memory)[0] == 9);
  CHECK(copy == std::vector<float>{1, 5, 3});
  Column<float> moved = std::move(view);
  memory.reset();
  CHECK(moved[2] == 3);  // held by the column alone
  moved.resize(4);
  CHECK(alive.expired());
  CHECK(moved == std::vector<float>{9, 5, 3, 0});
  moved = moved.vector();
  CHECK(moved.size() == 4);
}

TEST_CASE("token rows: a damaged message is read or refused, within its memory") {
  Message message("samples");
  const TokenSamples from = token_samples(conversations());
  write_tokens(message, from);
  std::string header;
  wire::encode_header(message, header);
  std::string frames;
  std::vector<size_t> sizes;
  for (const wire::NamedArray& array : message.arrays) {
    frames.append(static_cast<const char*>(array.view.data), array.view.bytes());
    sizes.push_back(array.view.bytes());
  }
  uint64_t read = 0, denied = 0;
  const uint64_t rounds = fuzz_rounds(1000);
  for (uint64_t round = 0; round < rounds; ++round) {
    CAPTURE(round);
    const bool of_header = round % 2 == 0;
    const std::string bytes = of_header ? damaged(header, round) : header;
    std::string elements = of_header ? frames : damaged(frames, round);
    const size_t total = bytes.size() + elements.size();
    elements.resize(std::max(elements.size(), frames.size()));
    const PeakMemory peak;
    try {
      Message got = wire::decode_header(bytes);
      std::vector<std::string> parts;  // aligned, as frames are
      for (size_t i = 0, at = 0; i < sizes.size(); at += sizes[i++])
        parts.push_back(elements.substr(at, sizes[i]));
      const std::vector<std::string_view> views(parts.begin(), parts.end());
      wire::attach_frames(got, views);
      const TokenSamples samples = read_tokens(got);
      samples.check();
      for (int64_t s = 0; s < samples.sequences(); ++s) {
        const auto i = static_cast<size_t>(s);
        CHECK(samples.prompt[i] >= 0);
        CHECK(samples.offsets[i] + samples.prompt[i] <= samples.offsets[i + 1]);
      }
      ++read;
    } catch (const wire::WireError&) {
      ++denied;
    }
    CHECK(peak.bytes() < memory_allowed(total));
  }
  CHECK(read > 0);
  CHECK(denied > 0);
}

TEST_CASE("token rows: prompts and turns beyond their sequence") {
  const auto sent = [](const TokenSamples& samples) {
    Message message("samples");
    TokenSamples::each_column(samples, [&](const char* name, const auto& column) {
      using T = typename std::decay_t<decltype(column)>::value_type;
      using Sent = std::conditional_t<std::is_same_v<T, uint64_t>, int64_t, T>;
      message.add(name, dtype_of<Sent>(), {static_cast<int64_t>(column.size())}, column.data());
    });
    message.fields.set("kind", "tokens");
    return refused([&] { read_tokens(travel(message)); });
  };
  const TokenSamples good = token_samples(conversations());
  for (const int64_t wrong : {7, -1}) {
    TokenSamples samples = good;
    samples.prompt[0] = wrong;
    CHECK(sent(samples) == Code::malformed);
    samples = good;
    samples.turns[0] = wrong;
    CHECK(sent(samples) == Code::malformed);
    for (const size_t turn : {0, 1}) {
      samples = good;
      samples.turn_end[turn] = wrong;
      CHECK(sent(samples) == Code::malformed);
    }
  }
  TokenSamples samples = good;
  samples.trained[1] = 1;  // of the prompt
  CHECK(sent(samples) == Code::malformed);
  samples = good;
  samples.trained[3] = 1;  // more than the turns have
  CHECK(sent(samples) == Code::malformed);
  samples = good;
  samples.prompt[0] = 0;  // sampled tokens that follow nothing
  CHECK(sent(samples) == Code::malformed);
  samples = good;
  samples.turn_end = {2, 1};
  CHECK(sent(samples) == Code::malformed);
}
