#include "autograd/node.h"

#include <new>

namespace bessemer {

namespace {

std::atomic<uint64_t> next_sequence{1};
constexpr uint8_t kOutputSlot = 16;

Node::Overflow& overflow_of(Node* node) {
  if (!node->overflow) node->overflow = new Node::Overflow;
  return *node->overflow;
}

bool same_shape(const TensorImpl& a, const TensorImpl& b) {
  if (a.ndim != b.ndim) return false;
  for (int i = 0; i < a.ndim; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

void record(OpId id, const Attrs& attrs, const Tensor* const* in, int inputs, Tensor* out,
            int outputs) {
  const OpInfo& info = op_info(id);
  if (!info.vjp) return;
  bool any = false;
  for (int j = 0; j < outputs; ++j) any |= dtype_is_float(out[j].dtype());
  if (!any) return;

  Node* node = node_new();
  node->op = id;
  node->attrs = attrs;
  node->inputs = static_cast<uint8_t>(inputs);
  node->outputs = static_cast<uint8_t>(outputs);
  if (inputs > kInlineEdges || outputs > 1) overflow_of(node);

  const bool broadcasts = info.kind == Kind::binary || id == OpId::where;
  bool shapes = (info.saves & kSaveShapes) != 0;
  for (int i = 0; i < inputs; ++i) {
    if (!in[i]->defined()) continue;
    TensorImpl* impl = in[i]->impl();
    if (broadcasts && !shapes) shapes = !same_shape(*impl, *out[0].impl());
    if (info.saves >> i & 1 && i < 4) node_save(node, *in[i], static_cast<uint8_t>(i));
    if (!impl->requires_grad) continue;
    Edge& edge = node->edge(i);
    if (impl->node) {
      edge.node = impl->node;
      edge.output = impl->output_index;
      impl->node->refs.fetch_add(1, std::memory_order_relaxed);
    } else {
      edge.leaf = impl;
      impl->refs.fetch_add(1, std::memory_order_relaxed);
    }
  }
  if (shapes) {
    node->in_shapes = new Shape[static_cast<size_t>(inputs)];
    for (int i = 0; i < inputs; ++i)
      if (in[i]->defined()) node->in_shapes[i] = in[i]->sizes();
  }
  // A saved output shares the elements but not the graph: the node must not own itself.
  if (info.saves & kSaveOut0) node_save(node, out[0].detach(), kOutputSlot);
  if (info.saves & kSaveOut1) node_save(node, out[1].detach(), kOutputSlot + 1);
  uint32_t refs = 0;
  for (int j = 0; j < outputs; ++j) {
    TensorImpl* impl = out[j].impl();
    if (!dtype_is_float(impl->dtype)) continue;
    impl->node = node;
    impl->output_index = static_cast<uint16_t>(j);
    impl->requires_grad = true;
    ++refs;
  }
  node->refs.store(refs, std::memory_order_relaxed);
}

void drop_leaf(Leaf* leaf) { delete leaf; }

// Long chains (a recurrent net's thousands of steps) are freed by a list, not by recursion.
thread_local std::vector<Node*>* dying = nullptr;

void destroy(Node* node) {
  for (int i = 0; i < node->inputs; ++i) {
    Edge& edge = node->edge(i);
    if (edge.node) node_drop(edge.node);
    if (edge.leaf) Tensor owner(edge.leaf);
  }
  delete[] node->in_shapes;
  delete node->overflow;
  const uint8_t size_class = node->size_class;
  node->~Node();
  block_free(node, size_class);
}

struct Install {
  Install() {
    record_op = record;
    grad_hooks = {node_drop, drop_leaf};
  }
} install;

}  // namespace

Node* node_new() {
  uint8_t size_class;
  void* block = block_allocate(sizeof(Node), size_class);
  Node* node = new (block) Node;
  node->size_class = size_class;
  node->sequence = next_sequence.fetch_add(1, std::memory_order_relaxed);
  return node;
}

void node_save(Node* node, Tensor tensor, uint8_t slot) {
  const uint32_t version = tensor.version();
  SavedTensor saved{std::move(tensor), version, slot};
  if (node->saved_count < kInlineSaved) {
    node->saved[node->saved_count] = std::move(saved);
  } else {
    overflow_of(node).saved.push_back(std::move(saved));
  }
  ++node->saved_count;
}

void node_drop(Node* node) {
  if (node->refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (dying) {
    dying->push_back(node);
    return;
  }
  std::vector<Node*> list{};
  dying = &list;
  destroy(node);
  while (!list.empty()) {
    Node* next = list.back();
    list.pop_back();
    destroy(next);
  }
  dying = nullptr;
}

}  // namespace bessemer
