#include <algorithm>
#include <cmath>
#include <cstdio>

#include "envs/env.h"
#include "forge/commands.h"
#include "forge/json.h"

namespace bessemer {

namespace {

std::string_view kind_name(SpaceKind kind) {
  switch (kind) {
    case SpaceKind::box:
      return "box";
    case SpaceKind::discrete:
      return "discrete";
    case SpaceKind::multi_discrete:
      return "multi_discrete";
    case SpaceKind::multi_binary:
      return "multi_binary";
    case SpaceKind::text:
      return "text";
  }
  return "";
}

std::string_view type_name(Option::Type type) {
  switch (type) {
    case Option::Type::boolean:
      return "true or false";
    case Option::Type::integer:
      return "integer";
    case Option::Type::number:
      return "number";
    case Option::Type::text:
      return "text";
  }
  return "";
}

std::string brief(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string list_of(const std::vector<double>& values) {
  std::string out;
  for (double value : values) out += cat(out.empty() ? "" : ", ", brief(value));
  return cat("[", out, "]");
}

void print_channels(std::string_view title, const std::vector<Channel>& channels) {
  for (const Channel& channel : channels) {
    std::string text = cat(kind_name(channel.kind), " ", dtype_name(channel.dtype));
    if (channel.ragged) text += ", ragged";
    if (!channel.ragged) text += cat(" ", channel.shape);
    if (!channel.n.empty()) text += cat(", n ", channel.n);
    if (channel.start != 0) text += cat(", from ", channel.start);
    if (!channel.low.empty()) text += cat(", low ", list_of(channel.low));
    if (!channel.high.empty()) text += cat(", high ", list_of(channel.high));
    std::printf("  %-12s %s: %s\n", std::string(title).c_str(), channel.name.c_str(), text.c_str());
  }
}

void print_options(std::string_view title, const std::vector<Option>& options) {
  for (const Option& option : options) {
    std::string range;
    if (std::isfinite(option.min) || std::isfinite(option.max)) {
      range = cat(", ", brief(option.min), " to ", brief(option.max));
    }
    std::printf("  %-12s %s = %s: %s (%s%s)\n", std::string(title).c_str(), option.name.c_str(),
                option.fallback.c_str(), option.doc.c_str(),
                std::string(type_name(option.type)).c_str(), range.c_str());
  }
}

std::string array(const std::vector<std::string>& members) {
  std::string out;
  for (const std::string& member : members) out += cat(out.empty() ? "" : ", ", member);
  return cat("[", out, "]");
}

std::string channels_json(const std::vector<Channel>& channels) {
  std::vector<std::string> out;
  for (const Channel& channel : channels) {
    JsonObject json;
    json.add("name", channel.name).add("space", kind_name(channel.kind));
    json.add("dtype", dtype_name(channel.dtype)).add("ragged", channel.ragged);
    json.add("shape", std::span<const int64_t>(channel.shape));
    if (!channel.n.empty()) json.add("n", std::span<const int64_t>(channel.n));
    if (channel.start != 0) json.add("start", channel.start);
    if (!channel.low.empty()) json.add("low", std::span<const double>(channel.low));
    if (!channel.high.empty()) json.add("high", std::span<const double>(channel.high));
    out.push_back(json.text());
  }
  return array(out);
}

std::string options_json(const std::vector<Option>& options) {
  std::vector<std::string> out;
  for (const Option& option : options) {
    JsonObject json;
    json.add("name", option.name).add("type", type_name(option.type));
    json.add("default", option.fallback).add("min", option.min).add("max", option.max);
    out.push_back(json.add("doc", option.doc).text());
  }
  return array(out);
}

std::string spec_json(const Spec& spec) {
  JsonObject json;
  json.add("id", spec.id).add("doc", spec.doc).add("rows", spec.rows);
  json.add_raw("observation", channels_json(spec.observation));
  json.add_raw("action", channels_json(spec.action));
  json.add_raw("rewards", channels_json(spec.rewards));
  json.add_raw("infos", channels_json(spec.infos));
  json.add("action_mask", spec.action_mask).add("max_episode_steps", spec.max_episode_steps);
  json.add("reward_threshold", spec.reward_threshold).add("render_fps", spec.render_fps);
  json.add_raw("options", options_json(spec.options));
  json.add_raw("reset_options", options_json(spec.reset_options));
  return json.text();
}

void print_spec(const Spec& spec) {
  std::printf("%s: %s\n", spec.id.c_str(), spec.doc.c_str());
  print_channels("observation", spec.observation);
  print_channels("action", spec.action);
  if (spec.action_mask) std::printf("  %-12s one byte an action, 1 = allowed\n", "action mask");
  print_channels("reward", spec.rewards);
  print_channels("info", spec.infos);
  if (spec.rows != 1) std::printf("  %-12s %d\n", "agents", spec.rows);
  if (spec.max_episode_steps > 0) {
    std::printf("  %-12s %lld steps\n", "time limit",
                static_cast<long long>(spec.max_episode_steps));
  }
  if (std::isfinite(spec.reward_threshold)) {
    std::printf("  %-12s mean return %s\n", "solved at", brief(spec.reward_threshold).c_str());
  }
  print_options("option", spec.options);
  print_options("reset option", spec.reset_options);
}

}  // namespace

int command_env(const Arguments& arguments) {
  const auto& words = arguments.positional;
  const bool json = arguments.has("--json");
  if (words.size() == 1 && words[0] == "list") {
    std::vector<std::string> rows;
    for (const std::string& id : env_ids()) {
      const Spec& spec = env_spec(id);
      if (json) {
        rows.push_back(spec_json(spec));
      } else {
        std::printf("%-28s %s\n", id.c_str(), spec.doc.c_str());
      }
    }
    if (json) std::printf("%s\n", array(rows).c_str());
    return kExitOk;
  }
  const bool remote = words.size() == 2 && words[1].find("://") != std::string::npos;
#ifdef BESSEMER_HAS_WIRE
  if (!words.empty() && words[0] == "serve")
    return serve_command(arguments, std::span(words).subspan(1));
  if (words.size() == 1 && words[0] == "keys") return keys_command(arguments);
  if (words.size() >= 3 && words[0] == "control") {
    return control_command(arguments, std::span(words).subspan(1));
  }
  if (remote && words[0] == "info") return remote_info_command(arguments, words[1]);
  if (remote && words[0] == "conform") return conform_command(arguments, words[1]);
#else
  BESSEMER_CHECK(!remote && (words.empty() || words[0] != "serve"), Error,
                 "this build has no wire: it was made without libzmq, cppzmq and msgpack");
#endif
  if (words.size() == 2 && words[0] == "info") {
    const std::vector<std::string> ids = env_ids();
    BESSEMER_CHECK(in_processes(words[1]) || std::ranges::count(ids, words[1]) > 0, UsageError,
                   "there is no environment '", words[1], "'", did_you_mean(words[1], ids));
    const Spec& spec = env_spec(words[1]);
    if (json) {
      std::printf("%s\n", spec_json(spec).c_str());
    } else {
      print_spec(spec);
    }
    return kExitOk;
  }
  const std::vector<std::string> verbs{"list", "info", "serve", "conform", "keys", "control"};
  fail<UsageError>(words.empty() ? "list, info, serve, conform, keys or control?"
                                 : cat("'", words[0], "'", did_you_mean(words[0], verbs)));
}

}  // namespace bessemer
