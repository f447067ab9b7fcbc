#include "rollout/weights.h"

#include <cstring>

#include "core/base/hash.h"
#include "rollout/normalizer.h"
#include "rollout/policy.h"

namespace bessemer {

namespace {

constexpr int64_t kAlign = 64;
int64_t aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
int64_t shape_bytes(const WeightShape& shape) {
  return shape.shape.numel() * static_cast<int64_t>(dtype_size(shape.dtype));
}

size_t tensor_bytes(const Tensor& tensor) {
  return static_cast<size_t>(tensor.numel()) * dtype_size(tensor.dtype());
}

Tensor column(const std::vector<double>& values) {
  return Tensor::from(std::span<const double>(values), {static_cast<int64_t>(values.size())});
}

void add_moments(const std::string& prefix, const RunningMoments& moments, nn::NamedTensors& out) {
  out.emplace_back(prefix + "mean", column(moments.mean));
  out.emplace_back(prefix + "variance", column(moments.variance));
  out.emplace_back(prefix + "count", Tensor::scalar(moments.count, Dtype::f64));
}

void read_moments(const Tensor* from, RunningMoments& moments) {
  const auto values = [&](const Tensor& tensor, std::vector<double>& to) {
    to.assign(tensor.values<double>().begin(), tensor.values<double>().end());
  };
  values(from[0], moments.mean);
  values(from[1], moments.variance);
  moments.count = from[2].item();
}

/// Throws ValueError unless `set` holds, from entry `first` on, tensors like these.
void check_like(const nn::NamedTensors& like, const WeightSet& set, size_t first) {
  BESSEMER_CHECK(set.tensors.size() >= first + like.size(), ValueError, "[weights] the set holds ",
                 set.tensors.size(), " tensors, expected ", first + like.size());
  for (size_t i = 0; i < like.size(); ++i) {
    const auto& [name, tensor] = like[i];
    const auto& [other, from] = set.tensors[first + i];
    BESSEMER_CHECK(name == other, ValueError, "[weights] the set has '", other, "' where '", name,
                   "' is expected");
    BESSEMER_CHECK(tensor.dtype() == from.dtype() && tensor.sizes() == from.sizes(), ValueError,
                   "[weights] '", name, "' is ", dtype_name(from.dtype()), " ", from.shape(),
                   ", expected ", dtype_name(tensor.dtype()), " ", tensor.shape());
  }
}

}  // namespace

int64_t weights_bytes(const std::vector<WeightShape>& shapes) {
  int64_t bytes = 0;
  for (const WeightShape& shape : shapes) bytes += aligned(shape_bytes(shape));
  return bytes;
}

nn::NamedTensors lay_out_weights(const Tensor& buffer, const std::vector<WeightShape>& shapes) {
  BESSEMER_CHECK(buffer.numel() == weights_bytes(shapes), ValueError, "[weights] a buffer of ",
                 buffer.numel(), " bytes for tensors of ", weights_bytes(shapes));
  nn::NamedTensors out;
  int64_t at = 0;
  for (const WeightShape& shape : shapes) {
    int64_t strides[kMaxDims];
    contiguous_strides(shape.shape, strides);
    const auto release = [](void* held) { delete static_cast<Tensor*>(held); };
    out.emplace_back(shape.name, Tensor::wrap(static_cast<char*>(buffer.raw()) + at, shape.dtype,
                                              shape.shape, strides, release, new Tensor(buffer)));
    at += aligned(shape_bytes(shape));
  }
  return out;
}

uint64_t weights_hash(const nn::NamedTensors& tensors) {
  uint64_t hash = 0;
  for (const auto& [name, tensor] : tensors) {
    const Tensor dense = contiguous(tensor);
    hash = xxh64(cat(name, ' ', dtype_name(tensor.dtype()), ' ', tensor.shape()), hash);
    hash = xxh64({static_cast<const char*>(dense.raw()), tensor_bytes(dense)}, hash);
  }
  return hash;
}

WeightSet make_weights(int64_t version, const nn::NamedTensors& tensors) {
  std::vector<WeightShape> shapes;
  for (const auto& [name, tensor] : tensors)
    shapes.push_back({name, tensor.dtype(), tensor.sizes()});
  WeightSet set;
  set.version = version;
  set.buffer = Tensor::zeros({weights_bytes(shapes)}, Dtype::u8);
  set.tensors = lay_out_weights(set.buffer, shapes);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor from = contiguous(tensors[i].second.detach());
    std::memcpy(set.tensors[i].second.raw(), from.raw(), tensor_bytes(from));
  }
  set.hash = weights_hash(set.tensors);
  return set;
}

WeightSet acting_weights(int64_t version, const Policy& policy, const Normalizer& normalizer) {
  nn::NamedTensors tensors = policy.named_parameters();
  for (auto& named : normalizer_tensors(normalizer)) tensors.push_back(std::move(named));
  return make_weights(version, tensors);
}

void assign_weights(const nn::NamedTensors& into, const WeightSet& set) {
  check_like(into, set, 0);
  for (size_t i = 0; i < into.size(); ++i) {
    const Tensor& to = into[i].second;
    std::memcpy(to.raw(), set.tensors[i].second.raw(), tensor_bytes(to));
    to.bump();
  }
}

nn::NamedTensors normalizer_tensors(const Normalizer& normalizer) {
  nn::NamedTensors out;
  add_moments("normalizer.obs.", normalizer.obs_moments(), out);
  add_moments("normalizer.return.", normalizer.return_moments(), out);
  return out;
}

void assign_normalizer(Normalizer& into, const WeightSet& set) {
  const nn::NamedTensors like = normalizer_tensors(into);
  BESSEMER_CHECK(set.tensors.size() >= like.size(), ValueError, "[weights] the set holds ",
                 set.tensors.size(), " tensors and no statistics of a normaliser");
  const size_t first = set.tensors.size() - like.size();
  check_like(like, set, first);
  Tensor moments[6];
  for (size_t i = 0; i < 6; ++i) moments[i] = set.tensors[first + i].second;
  read_moments(moments, into.obs_moments());
  read_moments(moments + 3, into.return_moments());
}

}  // namespace bessemer
