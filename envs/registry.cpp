#include "envs/registry.h"

#include <map>

#include "envs/batch_base.h"

namespace bessemer {

namespace {
struct Entry {
  Spec spec;
  BatchFactory factory;
};

// A function's static: simulators register before main, in any order.
std::map<std::string, Entry>& table() {
  static std::map<std::string, Entry> entries;
  return entries;
}

PythonEnvironments& python() {
  static PythonEnvironments environments{};
  return environments;
}

const Entry& find(const std::string& id) {
  const auto found = table().find(id);
  if (found != table().end()) return found->second;
  BESSEMER_CHECK(!id.starts_with("py:"), ValueError, "[env] cannot run ", id,
                 ": this build has no Python environments (feature 'wire')");
  fail<ValueError>("[env] unknown environment '", id, "'", did_you_mean(id, env_ids()));
}

void check_channels(const Spec& spec, const std::vector<Channel>& channels, bool may_be_ragged) {
  BESSEMER_CHECK(channels.size() <= kMaxChannels, ValueError, "[env] ", spec.id, " has ",
                 channels.size(), " channels in one list, at most ", kMaxChannels);
  for (const Channel& channel : channels) {
    BESSEMER_CHECK(!channel.ragged || may_be_ragged, ValueError, "[env] ", spec.id, ": channel ",
                   channel.name, " may not be ragged");
    const auto bounds = [&](const std::vector<double>& values) {
      return values.size() <= 1 || static_cast<int64_t>(values.size()) == channel.numel();
    };
    BESSEMER_CHECK(bounds(channel.low) && bounds(channel.high), ValueError, "[env] ", spec.id,
                   ": bounds of channel ", channel.name, " fit neither one value nor its elements");
  }
}
}  // namespace

void check_spec(const Spec& spec) {
  BESSEMER_CHECK(!spec.id.empty(), ValueError, "[env] an environment needs an id");
  BESSEMER_CHECK(!spec.observation.empty(), ValueError, "[env] ", spec.id, " observes nothing");
  BESSEMER_CHECK(spec.action.size() == 1, ValueError, "[env] ", spec.id, " has ",
                 spec.action.size(), " action channels, expected 1");
  BESSEMER_CHECK(spec.rows >= 1, ValueError, "[env] ", spec.id, " has no agent row");
  check_channels(spec, spec.observation, true);
  check_channels(spec, spec.action, true);
  check_channels(spec, spec.rewards, false);
  check_channels(spec, spec.infos, false);
}

void set_python_environments(const PythonEnvironments& environments) { python() = environments; }

void register_environment(Spec spec, BatchFactory factory) {
  check_spec(spec);
  const std::string id = spec.id;
  const bool added = table().emplace(id, Entry{std::move(spec), factory}).second;
  BESSEMER_CHECK(added, ValueError, "[env] the id ", id, " is taken");
}

bool in_processes(const std::string& id) { return python().named && python().named(id); }

std::unique_ptr<EnvBatch> make_batch(const std::string& id, const BatchOptions& options) {
  if (in_processes(id)) return python().make(id, options);
  const Entry& entry = find(id);
  return entry.factory(entry.spec, options);
}

const Spec& env_spec(const std::string& id) {
  if (in_processes(id)) return python().spec(id);
  return find(id).spec;
}

std::vector<std::string> env_ids() {
  std::vector<std::string> ids;
  for (const auto& [id, entry] : table()) ids.push_back(id);
  return ids;
}

}  // namespace bessemer
