// What a checkpoint holds: model.safetensors, train.safetensors, state.json.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"
#include "trainer/actor_critic.h"
#include "trainer/state_json.h"

namespace bessemer {

namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

/// Of the three files; a newer one is refused.
constexpr int64_t kStateFormat = 1;
constexpr const char* kModel = "model.safetensors";
constexpr const char* kTrain = "train.safetensors";
constexpr const char* kState = "state.json";

/// A file of tensors that names itself in errors.
struct Stored {
  std::string path;
  TensorFile file;
  explicit Stored(const fs::path& from) : path(from.string()), file(load_safetensors(path)) {}
  const Tensor& at(const std::string& name) const {
    BESSEMER_CHECK(file.tensors.contains(name), ValueError, path, ": there is no tensor '", name,
                   "'; is it a checkpoint of another model?");
    return file.tensors.at(name);
  }
  /// Copies into a tensor of the same dtype and shape.
  void read_into(const std::string& name, const Tensor& target) const {
    const Tensor& from = at(name);
    BESSEMER_CHECK(from.dtype() == target.dtype() && from.sizes() == target.sizes(), ValueError,
                   path, ": tensor '", name, "' is ", dtype_name(from.dtype()), " ", from.shape(),
                   ", expected ", dtype_name(target.dtype()), " ", target.shape());
    std::memcpy(target.raw(), from.raw(),
                static_cast<size_t>(from.numel()) * dtype_size(from.dtype()));
    target.bump();
  }
};

template <class T>
Tensor column(const std::vector<T>& values) {
  return Tensor::from(std::span<const T>(values), {static_cast<int64_t>(values.size())});
}

template <class T>
std::vector<T> read_column(const Stored& file, const std::string& name) {
  const Tensor& tensor = file.at(name);
  BESSEMER_CHECK(tensor.dtype() == dtype_of<T>(), ValueError, file.path, ": tensor '", name,
                 "' is ", dtype_name(tensor.dtype()), ", expected ", dtype_name(dtype_of<T>()));
  const auto values = tensor.values<T>();
  return {values.begin(), values.end()};
}

void put_moments(const std::string& prefix, const RunningMoments& moments, nn::NamedTensors& out) {
  out.emplace_back(prefix + "mean", column(moments.mean));
  out.emplace_back(prefix + "variance", column(moments.variance));
  out.emplace_back(prefix + "count", Tensor::scalar(moments.count, Dtype::f64));
}

void read_moments(const Stored& file, const std::string& prefix, RunningMoments& moments) {
  auto mean = read_column<double>(file, prefix + "mean");
  auto variance = read_column<double>(file, prefix + "variance");
  BESSEMER_CHECK(mean.size() == moments.mean.size() && variance.size() == mean.size(), ValueError,
                 file.path, ": '", prefix, "' has ", mean.size(), " columns, expected ",
                 moments.mean.size(), " (is env.normalize_obs the same?)");
  moments.mean = std::move(mean);
  moments.variance = std::move(variance);
  moments.count = file.at(prefix + "count").item();
}

/// state.json, checked to be of this program's format, algorithm and environment.
Json read_state(const fs::path& folder, const RunConfig& config) {
  const fs::path path = folder / kState;
  Json state = read_state_json(path);
  const auto format = state_member<int64_t>(state, path, "format");
  BESSEMER_CHECK(format <= kStateFormat, ValueError, path.string(),
                 ": written by a newer Bessemer (format ", format, ", this one reads up to ",
                 kStateFormat, ")");
  const auto algo = state_member<std::string>(state, path, "algo");
  BESSEMER_CHECK(algo == config.trainer.algo, ValueError, path.string(), ": a checkpoint of ", algo,
                 ", not of ", config.trainer.algo);
  const auto env = state_member<std::string>(state, path, "env");
  BESSEMER_CHECK(env == config.env.id, ValueError, path.string(), ": trained in ", env, ", not in ",
                 config.env.id);
  return state;
}

}  // namespace

void ActorCritic::save(const fs::path& folder) const {
  nn::NamedTensors model, train;
  Json trainable = Json::object();
  for (auto& [name, tensor] : named_) {
    model.emplace_back(name, tensor.detach());
    trainable[name] = tensor.requires_grad();
  }
  save_safetensors((folder / kModel).string(), model, {{"format", "pt"}});

  adam_->collect("adam.", train);
  put_moments("normalizer.obs.", normalizer_->obs_moments(), train);
  put_moments("normalizer.return.", normalizer_->return_moments(), train);
  train.emplace_back("normalizer.returns", column(normalizer_->discounted_returns()));
  const SourceState source = source_state();
  // Rows of asynchronous workers are not equally far; of all others the first one's counter is
  // everyone's.
  if (std::any_of(source.counter.begin(), source.counter.end(),
                  [&](int64_t c) { return c != source.counter.front(); }))
    train.emplace_back("sampler.counter", column(source.counter));
  train.emplace_back("sampler.starts", column(source.starts));
  train.emplace_back("sampler.states", column(source.states));
  std::vector<uint8_t> bytes;
  std::vector<int64_t> offsets = {0};
  for (const std::string& env : source.envs) {
    bytes.insert(bytes.end(), env.begin(), env.end());
    offsets.push_back(static_cast<int64_t>(bytes.size()));
  }
  train.emplace_back("envs.state", column(bytes));
  train.emplace_back("envs.offsets", column(offsets));
  std::vector<double> totals;
  std::vector<int64_t> lengths;
  for (const EpisodeEnd& episode : recent_) {
    totals.push_back(episode.total);
    lengths.push_back(episode.length);
  }
  train.emplace_back("episodes.total", column(totals));
  train.emplace_back("episodes.length", column(lengths));
  save_safetensors((folder / kTrain).string(), train);

  Json state;
  state["format"] = kStateFormat;
  state["bessemer"] = BESSEMER_VERSION;
  state["algo"] = config_.trainer.algo;
  state["env"] = config_.env.id;
  state["seed"] = config_.seed;
  state["recipe"] = config_.hash();
  state["steps"] = steps_;
  state["iterations"] = iterations_;
  state["updates"] = updates();
  state["counters"] = {{"action", source.counter.front()}, {"shuffle", epochs_done_}};
  for (auto& [name, count] : counters()) state["counters"][name] = count;
  state["trainable"] = std::move(trainable);
  write_text_file((folder / kState).string(), state.dump(2) + "\n");
}

void ActorCritic::load(const fs::path& folder) {
  const Json state = read_state(folder, config_);
  const fs::path path = folder / kState;
  load_policy(folder);
  const Stored train(folder / kTrain);
  nn::NamedTensors moments;
  adam_->collect("adam.", moments);
  for (auto& [name, tensor] : moments) train.read_into(name, tensor);
  adam_->set_steps(state_member<int64_t>(state, path, "updates"));
  auto returns = read_column<double>(train, "normalizer.returns");
  BESSEMER_CHECK(returns.size() == normalizer_->discounted_returns().size(), ValueError, train.path,
                 ": returns of ", returns.size(), " environments, here are ",
                 normalizer_->discounted_returns().size());
  normalizer_->discounted_returns() = std::move(returns);

  const auto offsets = read_column<int64_t>(train, "envs.offsets");
  const auto bytes = read_column<uint8_t>(train, "envs.state");
  const int64_t rows = config_.env.num;
  BESSEMER_CHECK(static_cast<int64_t>(offsets.size()) == rows + 1, ValueError, train.path,
                 ": the state of ", offsets.size() - 1, " environments, the recipe has ", rows);
  const auto counters = state_member<Json>(state, path, "counters");
  SourceState source;
  if (train.file.tensors.contains("sampler.counter"))
    source.counter = read_column<int64_t>(train, "sampler.counter");
  else
    source.counter.assign(static_cast<size_t>(rows),
                          state_member<int64_t>(counters, path, "action"));
  source.starts = read_column<uint8_t>(train, "sampler.starts");
  source.states = read_column<float>(train, "sampler.states");
  for (int64_t env = 0; env < rows; ++env) {
    BESSEMER_CHECK(0 <= offsets[env] && offsets[env] <= offsets[env + 1] &&
                       offsets[env + 1] <= static_cast<int64_t>(bytes.size()),
                   ValueError, train.path, ": 'envs.offsets' is damaged");
    source.envs.emplace_back(reinterpret_cast<const char*>(bytes.data()) + offsets[env],
                             static_cast<size_t>(offsets[env + 1] - offsets[env]));
  }
  restore_source(source);
  epochs_done_ = state_member<int64_t>(counters, path, "shuffle");
  try {
    restore_counters(counters.get<std::map<std::string, int64_t>>());
  } catch (const nlohmann::json::exception&) {
    fail<ValueError>(path.string(), ": member 'counters' is damaged");
  }
  steps_ = state_member<int64_t>(state, path, "steps");
  iterations_ = state_member<int64_t>(state, path, "iterations");
  const auto totals = read_column<double>(train, "episodes.total");
  const auto lengths = read_column<int64_t>(train, "episodes.length");
  BESSEMER_CHECK(totals.size() == lengths.size(), ValueError, train.path,
                 ": 'episodes.total' and 'episodes.length' differ in length");
  recent_.clear();
  for (size_t i = 0; i < totals.size(); ++i) recent_.push_back({totals[i], lengths[i]});
  keep_good();
}

void ActorCritic::load_policy(const fs::path& folder) {
  read_state(folder, config_);
  const Stored model(folder / kModel);
  for (auto& [name, tensor] : named_) model.read_into(name, tensor);
  BESSEMER_CHECK(model.file.tensors.size() == named_.size(), ValueError, model.path, " holds ",
                 model.file.tensors.size(), " tensors, the recipe's policy has ", named_.size());
  const Stored train(folder / kTrain);
  read_moments(train, "normalizer.obs.", normalizer_->obs_moments());
  read_moments(train, "normalizer.return.", normalizer_->return_moments());
}

}  // namespace bessemer
