// Samples, states, tokens and weights as messages: what is read is what was written, and what does
// not fit is refused.
#include <doctest/doctest.h>

#include "rollout/sample_message.h"
#include "rollout/token_samples.h"
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

TokenSamples conversations() {
  TokenSamples out;
  out.offsets = {0, 3, 3, 5};
  out.tokens = {5, 6, 7, 8, 9};
  out.author = {0, 1, 2, 2, 2};
  out.trained = {0, 0, 1, 1, 1};
  out.log_prob = {0, 0, -1.5f, -0.25f, -2};
  out.version = {0, 0, 4, 4, 5};
  out.sequence = {1, 2, ~uint64_t{0}};
  out.group = {7, 7, 8};
  out.prompt = {2, 0, 0};
  out.finish = {0, 1, 1};
  out.reward = {1, 0, 0.5f};
  out.rewards = {{"solved", {1, 0, 0}}, {"format", {0, 0, 0.5f}}};
  return out;
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

TEST_CASE("token rows travel and are joined") {
  const TokenSamples from = conversations();
  Message message("samples");
  write_tokens(message, from);
  TokenSamples got = read_tokens(travel(message));
  CHECK(got.offsets == from.offsets);
  CHECK(got.tokens == from.tokens);
  CHECK(got.author == from.author);
  CHECK(got.trained == from.trained);
  CHECK(got.log_prob == from.log_prob);
  CHECK(got.value.empty());
  CHECK(got.version == from.version);
  CHECK(got.sequence == from.sequence);
  CHECK(got.group == from.group);
  CHECK(got.prompt == from.prompt);
  CHECK(got.finish == from.finish);
  CHECK(got.rewards == from.rewards);

  TokenSamples both;
  both.append(from);
  both.append(got);
  both.check();
  CHECK(both.sequences() == 6);
  CHECK(both.offsets == std::vector<int64_t>{0, 3, 3, 5, 8, 8, 10});
  CHECK(both.rewards[1].second[5] == 0.5f);
  got.rewards.pop_back();
  CHECK_THROWS_AS(both.append(got), ValueError);
}

TEST_CASE("token rows whose columns do not fit are refused on both sides") {
  TokenSamples wrong = conversations();
  Message message("samples");
  write_tokens(message, wrong);
  const int64_t sinking[] = {0, 4, 3, 5};
  Message bad = travel(message);
  bad.arrays[0].view.data = const_cast<int64_t*>(sinking);
  CHECK(refused([&] { (void)read_tokens(bad); }) == Code::malformed);
  bad = travel(message);
  bad.arrays[1].view.shape[0] = 4;
  CHECK(refused([&] { (void)read_tokens(bad); }) == Code::bad_type);
  wrong.prompt.pop_back();
  CHECK_THROWS_WITH_AS(write_tokens(message, wrong), "[tokens] 'prompt' has 2 entries, expected 3",
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
  const TokenSamples from = conversations();
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

TEST_CASE("token rows: two rewards of one name, and prompts beyond their sequence") {
  const auto sent = [](const TokenSamples& samples) {
    Message message("samples");
    write_tokens(message, samples);
    return refused([&] { read_tokens(travel(message)); });
  };
  TokenSamples samples = conversations();
  samples.prompt = {4, 0, 0};
  CHECK(sent(samples) == Code::malformed);
  samples.prompt = {-1, 0, 0};
  CHECK(sent(samples) == Code::malformed);
  Message message("samples");
  const TokenSamples good = conversations();
  write_tokens(message, good);
  message.fields.set("rewards", wire::List{"solved", "solved"});
  CHECK(refused([&] { read_tokens(travel(message)); }) == Code::malformed);
}
