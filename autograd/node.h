// What made a tensor: the recorded operation, what its gradient rule needs, and where gradients go
// next.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "autograd/checkpoint.h"
#include "core/ops/op.h"

namespace bessemer {

/// Gradient and hooks of a leaf.
struct Leaf {
  Tensor grad;
  std::vector<std::function<void(const Tensor&)>> hooks;
  int64_t uses_left = 0;  // during a backward pass, when there are hooks
};

/// Where the gradient of an input goes: the node that made it, or a leaf, or nowhere.
struct Edge {
  Node* node = nullptr;        // owned
  TensorImpl* leaf = nullptr;  // owned
  uint16_t output = 0;         // which output of `node`
};

inline constexpr int kInlineEdges = 4;
inline constexpr int kInlineSaved = 3;

struct SavedTensor {
  Tensor tensor;
  uint32_t version = 0;
  uint8_t slot = 0;  // 0.. inputs, 16.. outputs
};

/// One recorded operation, from a 64-byte-aligned slab. Not virtual: the rule is the row's vjp.
struct Node {
  std::atomic<uint32_t> refs{0};
  OpId op{};
  uint8_t inputs = 0, outputs = 0;
  uint8_t saved_count = 0;
  bool freed = false;  // a backward pass has used it up
  uint8_t size_class = 0;
  uint64_t sequence = 0;  // later operations have larger ones
  Attrs attrs;
  Edge edges[kInlineEdges];
  SavedTensor saved[kInlineSaved];
  Tensor pending;              // gradient of output 0 gathered so far
  Shape* in_shapes = nullptr;  // kSaveShapes, or a broadcast to undo
  struct Overflow {            // beyond the inline counts; null for nearly every operation
    Edge edges[kMaxInputs - kInlineEdges];
    std::vector<SavedTensor> saved;
    Tensor pending[kMaxOutputs - 1];
    CheckpointBody body;  // a checkpoint: no row; saved are its input and what else it reads
  }* overflow = nullptr;

  Edge& edge(int i) { return i < kInlineEdges ? edges[i] : overflow->edges[i - kInlineEdges]; }
  Tensor& gradient(int output) { return output == 0 ? pending : overflow->pending[output - 1]; }
  bool is_checkpoint() const { return overflow && overflow->body; }
  const char* name() const { return is_checkpoint() ? "checkpoint" : op_info(op).name; }
  SavedTensor& saved_at(int i) {
    return i < kInlineSaved ? saved[i] : overflow->saved[i - kInlineSaved];
  }
};

/// A node of one reference, with the next sequence number.
Node* node_new();
/// Keeps a tensor and its version for the gradient rule.
void node_save(Node* node, Tensor tensor, uint8_t slot);
void node_drop(Node* node);

}  // namespace bessemer
