#include "envs/wire/spec_map.h"

#include <algorithm>
#include <array>

namespace bessemer {

using wire::List;
using wire::Map;
using wire::Value;

namespace {

constexpr std::array<std::string_view, 5> kKinds = {"box", "discrete", "multi_discrete",
                                                    "multi_binary", "text"};
constexpr std::array<std::string_view, 4> kTypes = {"boolean", "integer", "number", "text"};

template <size_t N>
size_t position(const std::array<std::string_view, N>& names, std::string_view name,
                std::string_view what) {
  const auto found = std::ranges::find(names, name);
  if (found == names.end()) {
    wire::refuse(wire::Code::malformed, "[env] unknown ", what, " '", name, "'");
  }
  return static_cast<size_t>(found - names.begin());
}

template <class T>
List to_list(const std::vector<T>& values) {
  List list;
  list.reserve(values.size());
  for (const T& value : values) list.emplace_back(value);
  return list;
}
std::vector<int64_t> integers(const Map& map, std::string_view key) {
  std::vector<int64_t> values;
  for (const Value& value : map.list(key)) values.push_back(value.integer(key));
  return values;
}
std::vector<double> numbers(const Map& map, std::string_view key) {
  std::vector<double> values;
  for (const Value& value : map.list(key)) values.push_back(value.number(key));
  return values;
}

List channels_to_list(const std::vector<Channel>& channels) {
  List list;
  for (const Channel& c : channels) {
    list.emplace_back(Map{{"name", c.name},
                          {"kind", kKinds[static_cast<size_t>(c.kind)]},
                          {"dtype", dtype_name(c.dtype)},
                          {"shape", to_list(c.shape)},
                          {"low", to_list(c.low)},
                          {"high", to_list(c.high)},
                          {"n", to_list(c.n)},
                          {"start", c.start},
                          {"ragged", c.ragged},
                          {"max_length", c.max_length}});
  }
  return list;
}

std::vector<Channel> channels_from(const Map& map, std::string_view key) {
  std::vector<Channel> channels;
  for (const Value& value : map.list(key)) {
    const Map& item = value.map(key);
    Channel c;
    c.name = item.text("name");
    c.kind = static_cast<SpaceKind>(position(kKinds, item.text("kind"), "kind of channel"));
    try {
      c.dtype = dtype_parse(item.text("dtype"));
    } catch (const ValueError& error) {
      wire::refuse(wire::Code::malformed, "[env] channel '", c.name, "': ", error.what());
    }
    c.shape = integers(item, "shape");
    c.low = numbers(item, "low");
    c.high = numbers(item, "high");
    c.n = integers(item, "n");
    c.start = item.integer("start");
    c.ragged = item.flag("ragged", false);
    c.max_length = item.integer("max_length");
    if (c.shape.size() > kMaxDims - 1 ||
        std::ranges::any_of(c.shape, [](int64_t d) { return d < 0 || d > (1 << 24); }) ||
        c.numel() > (1 << 24)) {
      wire::refuse(wire::Code::malformed, "[env] channel '", c.name, "' has shape ", c.shape);
    }
    channels.push_back(std::move(c));
  }
  return channels;
}

List options_to_list(const std::vector<Option>& options, bool docs) {
  List list;
  for (const Option& o : options) {
    Map item{{"name", o.name},
             {"type", kTypes[static_cast<size_t>(o.type)]},
             {"fallback", o.fallback},
             {"min", o.min},
             {"max", o.max}};
    if (docs) item.set("doc", o.doc);
    list.emplace_back(std::move(item));
  }
  return list;
}

std::vector<Option> options_from(const Map& map, std::string_view key) {
  std::vector<Option> options;
  for (const Value& value : map.list(key)) {
    const Map& item = value.map(key);
    Option o;
    o.name = item.text("name");
    o.type = static_cast<Option::Type>(position(kTypes, item.text("type"), "type of option"));
    o.fallback = item.text("fallback");
    o.min = item.number("min");
    o.max = item.number("max");
    o.doc = item.text("doc", "");
    options.push_back(std::move(o));
  }
  return options;
}

Map to_map(const Spec& spec, bool docs) {
  Map map{{"id", spec.id},
          {"observation", channels_to_list(spec.observation)},
          {"action", channels_to_list(spec.action)},
          {"rewards", channels_to_list(spec.rewards)},
          {"infos", channels_to_list(spec.infos)},
          {"action_mask", spec.action_mask},
          {"rows", spec.rows},
          {"max_episode_steps", spec.max_episode_steps},
          {"reward_threshold",
           spec.reward_threshold == spec.reward_threshold ? Value(spec.reward_threshold) : Value()},
          {"render_fps", spec.render_fps},
          {"render_width", spec.render_width},
          {"render_height", spec.render_height},
          {"options", options_to_list(spec.options, docs)},
          {"reset_options", options_to_list(spec.reset_options, docs)}};
  if (docs) map.set("doc", spec.doc);
  return map;
}

}  // namespace

Map spec_to_map(const Spec& spec) { return to_map(spec, true); }

Spec spec_from_map(const Map& map) {
  Spec spec;
  spec.id = map.text("id");
  spec.doc = map.text("doc", "");
  spec.observation = channels_from(map, "observation");
  spec.action = channels_from(map, "action");
  spec.rewards = channels_from(map, "rewards");
  spec.infos = channels_from(map, "infos");
  spec.action_mask = map.flag("action_mask", false);
  spec.rows = static_cast<int>(map.integer("rows"));
  spec.max_episode_steps = map.integer("max_episode_steps");
  spec.reward_threshold = map.number("reward_threshold", std::numeric_limits<double>::quiet_NaN());
  spec.render_fps = map.number("render_fps");
  spec.render_width = static_cast<int>(map.integer("render_width"));
  spec.render_height = static_cast<int>(map.integer("render_height"));
  spec.options = options_from(map, "options");
  spec.reset_options = options_from(map, "reset_options");
  if (spec.observation.empty() || spec.action.size() != 1 || spec.rows < 1 || spec.rows > 65536) {
    wire::refuse(wire::Code::malformed, "[env] spec of '", spec.id, "' has ",
                 spec.observation.size(), " observation channels, ", spec.action.size(),
                 " action channels, ", spec.rows, " rows");
  }
  return spec;
}

std::string spec_hash(const Spec& spec) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char byte : wire::pack(to_map(spec, false))) {
    hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001b3ull;
  }
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(hash >> shift) & 15];
  return text;
}

}  // namespace bessemer
