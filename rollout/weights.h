// The one weight channel: what a policy acts with, named, numbered and checked. Trainers make a set
// after their updates, samplers and generators take it in; statistics of normalisers travel in it
// like any other tensor.
#pragma once

#include <cstdint>

#include <string>
#include <vector>

#include "autograd/nn/module.h"

namespace bessemer {

class Normalizer;
class Policy;
namespace wire {
struct Message;
}

/// One state of a policy. The tensors lie in one buffer of the set's own, so that it travels as one
/// array: what the trainer does next changes nothing.
struct WeightSet {
  int64_t version = 0;       // optimiser steps
  uint64_t hash = 0;         // weights_hash of the tensors
  nn::NamedTensors tensors;  // views of `buffer`, in its order, each at a multiple of 64 bytes
  Tensor buffer;             // uint8
};

/// XXH64 over names, dtypes, shapes and elements, in order; each part is hashed with the hash of
/// what came before as its seed.
uint64_t weights_hash(const nn::NamedTensors& tensors);

/// What a tensor of a set is called and looks like.
struct WeightShape {
  std::string name;
  Dtype dtype = Dtype::f32;
  Shape shape;
};
/// Tensors of these shapes, one after the other in `buffer`; ValueError where it has another size.
nn::NamedTensors lay_out_weights(const Tensor& buffer, const std::vector<WeightShape>& shapes);
int64_t weights_bytes(const std::vector<WeightShape>& shapes);

/// A set with copies of the tensors.
WeightSet make_weights(int64_t version, const nn::NamedTensors& tensors);

/// What acting needs: the policy's parameters, then the normaliser's statistics.
WeightSet acting_weights(int64_t version, const Policy& policy, const Normalizer& normalizer);

/// Copies a set into tensors of the same names, dtypes and shapes, in the same order; ValueError
/// names the first that differs, and nothing has changed then.
void assign_weights(const nn::NamedTensors& into, const WeightSet& set);

/// Statistics that acting depends on, as float64 tensors `normalizer.*` (copies).
nn::NamedTensors normalizer_tensors(const Normalizer& normalizer);
/// The other direction; ValueError as for assign_weights.
void assign_normalizer(Normalizer& into, const WeightSet& set);

/// Adds a set to a message: the field `weights` and the array of that name (docs/protocol.md). It
/// must outlive the sending.
void write_weights(wire::Message& message, const WeightSet& set);
/// Reads it back without a copy: the set keeps the message's storage. Throws WireError (malformed),
/// or (mismatch) where the content does not have the hash that the message states.
WeightSet read_weights(const wire::Message& message);

}  // namespace bessemer
