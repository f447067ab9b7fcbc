// Environments over the wire from the command line: serve, ask, hold a server against the protocol.
#include <cstdio>

#include "envs/client/conform.h"
#include "envs/client/remote_batch.h"
#include "envs/server/env_service.h"
#include "forge/commands.h"
#include "forge/json.h"

namespace bessemer {

namespace {

std::string json_value(const wire::Value& value) {
  struct Writer {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(bool x) const { return x ? "true" : "false"; }
    std::string operator()(int64_t x) const { return std::to_string(x); }
    std::string operator()(uint64_t x) const { return std::to_string(x); }
    std::string operator()(double x) const { return json_number(x); }
    std::string operator()(const std::string& x) const { return json_text(x); }
    std::string operator()(const wire::List& list) const {
      std::string out;
      for (const wire::Value& item : list) out += (out.empty() ? "" : ", ") + json_value(item);
      return "[" + out + "]";
    }
    std::string operator()(const wire::Map& map) const {
      JsonObject json;
      for (const auto& [key, item] : map.items) json.add_raw(key, json_value(item));
      return json.text();
    }
  };
  return std::visit(Writer(), value.data());
}

/// The parts of "a,b,c".
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> out;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t end = std::min(list.find(',', begin), list.size());
    if (end > begin) out.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

wire::Keys client_keys(const Arguments& arguments) {
  const std::string* keys = arguments.find("--keys");
  return keys ? wire::read_client_keys(*keys) : nullptr;
}

void print_session(const wire::Map& session) {
  std::printf("%-44s %s x %lld, %llu steps, %.3g s%s\n", session.text("client").c_str(),
              session.text("env").c_str(), static_cast<long long>(session.integer("num_envs")),
              static_cast<unsigned long long>(session.count("steps")), session.number("seconds"),
              session.flag("busy", false) ? ", busy" : "");
}

}  // namespace

int serve_command(const Arguments& arguments, std::span<const std::string> ids) {
  ServeOptions options;
  options.ids.assign(ids.begin(), ids.end());
  options.instances = arguments.integer("--instances", options.instances, 1);
  options.instances_per_session = options.instances;
  options.threads = static_cast<int>(arguments.integer("--threads", options.threads, 1));
  Options host;
  for (const char* name : {"processes", "deadline", "memory"}) {
    if (const std::string* value = arguments.find(cat("--host-", name))) {
      host.emplace_back(cat("host_", name), *value);
    }
  }
  options.host = take_host_options(host);
  if (const std::string* keys = arguments.find("--keys")) {
    options.wire.socket.keys = wire::read_server_keys(*keys);
    options.tokens = wire::read_tokens(*keys);
  }
  const std::string* bind = arguments.find("--bind");
  const std::vector<std::string> addresses = split(bind ? *bind : "tcp://127.0.0.1:*");
  serve_environments(options, addresses, [&](std::span<const std::string> bound) {
    for (const std::string& address : bound) std::printf("serving on %s\n", address.c_str());
    std::fflush(stdout);  // whoever started this waits for the address
  });
  return kExitOk;
}

int remote_info_command(const Arguments& arguments, const std::string& address) {
  const wire::Map info = server_info(address, 5, client_keys(arguments));
  if (arguments.has("--json")) {
    std::printf("%s\n", json_value(info).c_str());
    return kExitOk;
  }
  const double seconds = info.number("stepping_seconds", 0);
  const auto steps = static_cast<double>(info.count("steps", 0));
  std::string protocols;
  for (const wire::Value& version : info.list("protocol"))
    protocols += cat(protocols.empty() ? "" : ", ", version.integer("protocol"));
  std::printf("%s: %s, protocol %s\n", address.c_str(), info.text("server", "?").c_str(),
              protocols.c_str());
  std::printf("  instances    %llu of %llu\n",
              static_cast<unsigned long long>(info.count("instances", 0)),
              static_cast<unsigned long long>(info.count("max_instances", 0)));
  std::printf("  sessions     %llu\n",
              static_cast<unsigned long long>(info.map("wire").count("sessions", 0)));
  std::printf("  steps        %.0f (%.4g a second of stepping)\n", steps,
              seconds > 0 ? steps / seconds : 0.0);
  for (const wire::Value& entry : info.list("envs")) {
    const wire::Map& env = entry.map("envs");
    std::printf("  %-28s %s\n", env.text("id").c_str(), env.text("spec_hash", "").c_str());
  }
  return kExitOk;
}

int keys_command(const Arguments& arguments) {
  const std::string* folder = arguments.find("--out");
  const std::string* client = arguments.find("--client");
  for (const std::string& file :
       wire::make_keys(folder ? *folder : "keys", client ? *client : "client")) {
    std::printf("%s\n", file.c_str());
  }
  return kExitOk;
}

int control_command(const Arguments& arguments, std::span<const std::string> words) {
  wire::Map fields;
  if (const std::string* token = arguments.find("--token")) {
    fields.set("token", wire::read_token(*token));
  }
  if (words.size() > 2) fields.set("client", words[2]);
  if (arguments.has("--instances")) {
    fields.set("instances", arguments.integer("--instances", 1, 1));
  }
  const wire::Map reply =
      server_control(words[0], words[1], std::move(fields), client_keys(arguments));
  if (arguments.has("--json")) {
    std::printf("%s\n", json_value(reply).c_str());
  } else if (words[1] == "sessions") {
    for (const wire::Value& session : reply.list("sessions")) {
      print_session(session.map("sessions"));
    }
  } else {
    for (const auto& [key, value] : reply.items) {
      std::printf("%s %s\n", key.c_str(), json_value(value).c_str());
    }
  }
  return kExitOk;
}

int conform_command(const Arguments& arguments, const std::string& address) {
  const std::string* id = arguments.find("--id");
  int failed = 0, passed = 0;
  for (const ConformCheck& check : conform(address, id ? *id : "")) {
    std::printf("%-8s %s%s%s\n", check.passed ? "passed" : "FAILED", check.name.c_str(),
                check.text.empty() ? "" : ": ", check.text.c_str());
    ++(check.passed ? passed : failed);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? kExitOk : kExitFailure;
}

}  // namespace bessemer
