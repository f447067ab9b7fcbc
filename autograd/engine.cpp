#include "autograd/engine.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "autograd/node.h"
#include "core/ops/ops.h"

namespace bessemer {

namespace {

std::atomic<int64_t> hooked_leaves{0};

Leaf& leaf_of(const Tensor& x) {
  TensorImpl* impl = x.impl();
  if (!impl->leaf) impl->leaf = new Leaf;
  return *impl->leaf;
}

bool sole_owner(const Tensor& x) {
  const TensorImpl* impl = x.impl();
  return impl->refs.load(std::memory_order_relaxed) == 1 && !impl->node && impl->contiguous &&
         impl->storage->refs.load(std::memory_order_relaxed) == 1 && !impl->storage->read_only;
}

/// sum <- sum + more, in place where nobody else sees `sum`.
void accumulate(Tensor& sum, Tensor&& more, bool create_graph) {
  if (!sum.defined()) {
    sum = std::move(more);
  } else if (!create_graph && sole_owner(sum) && sum.dtype() == more.dtype()) {
    add_in_place(sum, more);
  } else {
    sum = add(sum, more);
  }
}

/// What a node's gradient goes to: its edges, or for a checkpoint the tensors that its body reads.
/// Owns nothing.
int edge_count(Node* node) { return node->is_checkpoint() ? node->saved_count : node->inputs; }
Edge edge_at(Node* node, int i) {
  if (!node->is_checkpoint()) return node->edge(i);
  Edge edge;
  const Tensor& tensor = node->saved_at(i).tensor;
  if (!tensor || !tensor.requires_grad()) return edge;
  TensorImpl* impl = tensor.impl();
  edge.node = impl->node;
  edge.leaf = impl->node ? nullptr : impl;
  edge.output = impl->output_index;
  return edge;
}

bool has_hooks(const Edge& edge) {
  return edge.leaf && edge.leaf->leaf && !edge.leaf->leaf->hooks.empty();
}

void check_saved(Node* node) {
  for (int i = 0; i < node->saved_count; ++i) {
    const SavedTensor& saved = node->saved_at(i);
    BESSEMER_CHECK(saved.tensor.version() == saved.version, ValueError, "[", node->name(),
                   "] a tensor saved for the gradient was changed in place (version ",
                   saved.tensor.version(), ", saved at ", saved.version, ")");
  }
}

struct Later {
  bool operator()(const Node* a, const Node* b) const { return a->sequence < b->sequence; }
};

/// One backward pass: nodes by descending sequence, so that a node's gradient is whole when it
/// runs.
class Pass {
 public:
  Pass(bool retain_graph, bool create_graph) : retain_(retain_graph), create_(create_graph) {}
  ~Pass() {
    // Whatever an error left behind must not leak into the next pass.
    for (Node* node : heap_) {
      for (int j = 0; j < node->outputs; ++j) node->gradient(j) = Tensor();
      node_drop(node);
    }
  }

  /// Gradients of these end here, in `captured`, instead of in their leaves.
  void capture(std::span<const Tensor> inputs) {
    capturing_ = true;
    inputs_ = inputs;
    captured.resize(inputs.size());
  }

  void start(const Tensor& output, Tensor gradient) {
    TensorImpl* impl = output.impl();
    Edge edge;
    edge.node = impl->node;
    edge.leaf = impl->node ? nullptr : impl;
    edge.output = impl->output_index;
    deliver(edge, std::move(gradient));
  }

  void run() {
    if (!capturing_ && hooked_leaves.load(std::memory_order_relaxed) > 0) count_uses(heap_, 0);
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), Later());
      Node* node = heap_.back();
      heap_.pop_back();
      try {
        visit(node);
      } catch (...) {
        for (int j = 0; j < node->outputs; ++j) node->gradient(j) = Tensor();
        node_drop(node);
        throw;
      }
      node_drop(node);
    }
  }

  std::vector<Tensor> captured;

 private:
  void visit(Node* node) {
    BESSEMER_CHECK(!node->freed, ValueError, "[", node->name(),
                   "] backward through a graph that was already freed; keep it with "
                   "retain_graph=True");
    Tensor grads_out[kMaxOutputs], in[kMaxInputs], out[kMaxOutputs], grads_in[kMaxInputs];
    for (int j = 0; j < node->outputs; ++j) grads_out[j] = std::move(node->gradient(j));
    if (capturing_) {
      for (size_t i = 0; i < inputs_.size(); ++i) {
        const TensorImpl* impl = inputs_[i].impl();
        if (impl->node == node && grads_out[impl->output_index].defined())
          captured[i] = grads_out[impl->output_index];
      }
    }
    if (node->is_checkpoint()) return visit_checkpoint(node, std::move(grads_out[0]));
    const OpInfo& info = op_info(node->op);
    uint8_t wants = 0;
    for (int i = 0; i < node->inputs; ++i) {
      const Edge& edge = node->edge(i);
      if ((edge.node && (!capturing_ || needed(edge.node))) ||
          (edge.leaf && (!capturing_ || is_input(edge.leaf))))
        wants |= static_cast<uint8_t>(1 << i);
    }
    if (!wants) return;
    check_saved(node);
    for (int s = 0; s < node->saved_count; ++s) {
      SavedTensor& saved = node->saved_at(s);
      if (saved.slot < 16) {
        in[saved.slot] = retain_ || create_ ? saved.tensor : std::move(saved.tensor);
      } else {
        Tensor& slot = out[saved.slot - 16];
        slot = retain_ || create_ ? saved.tensor.detach() : std::move(saved.tensor);
        if (create_) {
          // The saved output takes its place in the graph again, for second derivatives.
          slot.impl()->node = node;
          slot.impl()->output_index = static_cast<uint16_t>(saved.slot - 16);
          slot.impl()->requires_grad = true;
          node->refs.fetch_add(1, std::memory_order_relaxed);
        }
      }
    }
    const VjpContext context{node->attrs, in, out, grads_out, node->in_shapes, wants};
    info.vjp(context, grads_in);
    for (Tensor& saved : out) saved = Tensor();  // one handed on as a gradient has one owner
    const bool broadcasts =
        node->in_shapes && (info.kind == Kind::binary || node->op == OpId::where);
    for (int i = 0; i < node->inputs; ++i) {
      if (!(wants >> i & 1) || !grads_in[i].defined()) continue;
      if (broadcasts && !(grads_in[i].sizes() == node->in_shapes[i]))
        grads_in[i] = sum_to(grads_in[i], node->in_shapes[i]);
      deliver(node->edge(i), std::move(grads_in[i]));
    }
    if (!retain_ && !create_) {
      for (int s = 0; s < node->saved_count; ++s) node->saved_at(s).tensor = Tensor();
      node->freed = true;
    }
  }

  /// Computes the checkpointed part again, recorded this time, and goes on through its nodes: they
  /// are the latest, so they run next, in the order that they would have had.
  void visit_checkpoint(Node* node, Tensor&& gradient) {
    check_saved(node);
    Tensor y;
    {
      EnableGrad record;
      y = node->overflow->body(node->saved_at(0).tensor);
    }
    Edge edge;
    if (y.requires_grad()) {
      edge.node = y.impl()->node;
      edge.leaf = edge.node ? nullptr : y.impl();
      edge.output = y.impl()->output_index;
    }
    if (!capturing_ && edge.node && hooked_leaves.load(std::memory_order_relaxed) > 0) {
      // Until now each tensor it reads stood for one use; the recorded nodes say how many.
      Node* const roots[] = {edge.node};
      count_uses(roots, node->sequence);
      for (int i = 0; i < edge_count(node); ++i)
        if (const Edge read = edge_at(node, i); has_hooks(read)) --read.leaf->leaf->uses_left;
    }
    if (!retain_ && !create_) {
      for (int s = 0; s < node->saved_count; ++s) node->saved_at(s).tensor = Tensor();
      node->freed = true;
    }
    if (edge.node || edge.leaf) deliver(edge, std::move(gradient));
  }

  void deliver(const Edge& edge, Tensor&& gradient) {
    if (edge.leaf) {
      to_leaf(edge.leaf, std::move(gradient));
      return;
    }
    Node* node = edge.node;
    Tensor& pending = node->gradient(edge.output);
    bool waiting = false;  // already in the heap?
    for (int j = 0; j < node->outputs && !waiting; ++j) waiting = node->gradient(j).defined();
    accumulate(pending, std::move(gradient), create_);
    if (waiting) return;
    node->refs.fetch_add(1, std::memory_order_relaxed);
    heap_.push_back(node);
    std::push_heap(heap_.begin(), heap_.end(), Later());
  }

  void to_leaf(TensorImpl* impl, Tensor&& gradient) {
    if (capturing_) {
      for (size_t i = 0; i < inputs_.size(); ++i) {
        if (inputs_[i].impl() == impl) {
          Tensor copy = gradient;
          accumulate(captured[i], std::move(copy), true);
        }
      }
      return;
    }
    if (!impl->leaf) impl->leaf = new Leaf;
    Leaf& leaf = *impl->leaf;
    if (gradient.dtype() != impl->dtype) gradient = cast(gradient, impl->dtype);
    if (!leaf.grad.defined()) {
      if (create_ || sole_owner(gradient)) {
        leaf.grad = std::move(gradient);
      } else {  // somebody else may write to it
        leaf.grad = Tensor::empty(gradient.sizes(), gradient.dtype());
        assign(leaf.grad, gradient.detach());
      }
    } else if (create_) {
      leaf.grad = add(leaf.grad, gradient);
    } else {
      add_in_place(leaf.grad, gradient);
    }
    if (leaf.uses_left > 0 && --leaf.uses_left == 0) {
      Tensor handle(impl);
      impl->refs.fetch_add(1, std::memory_order_relaxed);
      for (auto& hook : leaf.hooks) hook(handle);
    }
  }

  bool is_input(const TensorImpl* leaf) const {
    return std::any_of(inputs_.begin(), inputs_.end(),
                       [&](const Tensor& x) { return x.impl() == leaf; });
  }

  /// Whether an input of gradients() lies at or behind this node.
  bool needed(Node* root) {
    std::vector<std::pair<Node*, int>> stack;
    if (auto known = needed_.find(root); known != needed_.end()) return known->second;
    stack.emplace_back(root, 0);
    for (const Tensor& x : inputs_)
      if (x.impl()->node) needed_[x.impl()->node] = true;
    while (!stack.empty()) {
      Node* node = stack.back().first;
      int& next = stack.back().second;
      if (next == 0 && !needed_.contains(node)) needed_[node] = false;
      Node* unknown = nullptr;
      for (; next < edge_count(node); ++next) {
        const Edge edge = edge_at(node, next);
        if (edge.leaf && is_input(edge.leaf)) needed_[node] = true;
        if (!edge.node) continue;
        const auto known = needed_.find(edge.node);
        if (known == needed_.end()) {
          unknown = edge.node;  // this edge is looked at again once its node is known
          break;
        }
        if (known->second) needed_[node] = true;
      }
      if (unknown) {
        stack.emplace_back(unknown, 0);
      } else {
        stack.pop_back();
      }
    }
    return needed_[root];
  }

  /// For leaves with hooks: how many gradients will still arrive through `roots` and the nodes
  /// behind them that are later than `after`.
  void count_uses(std::span<Node* const> roots, uint64_t after) {
    std::unordered_set<Node*> seen(roots.begin(), roots.end());
    std::vector<Node*> stack(roots.begin(), roots.end());
    while (!stack.empty()) {
      Node* node = stack.back();
      stack.pop_back();
      for (int i = 0; i < edge_count(node); ++i) {
        const Edge edge = edge_at(node, i);
        if (has_hooks(edge)) ++edge.leaf->leaf->uses_left;
        if (edge.node && edge.node->sequence > after && seen.insert(edge.node).second)
          stack.push_back(edge.node);
      }
    }
  }

  bool retain_, create_, capturing_ = false;
  std::span<const Tensor> inputs_;
  std::vector<Node*> heap_;
  std::unordered_map<Node*, bool> needed_;
};

Tensor starting_gradient(const Tensor& output, const Tensor& gradient) {
  if (!gradient.defined()) {
    BESSEMER_CHECK(output.numel() == 1, ValueError, "[backward] a tensor of shape ", output.shape(),
                   " needs an explicit gradient; only a loss of one element has the gradient 1");
    return Tensor::ones(output.sizes(), output.dtype());
  }
  BESSEMER_CHECK(gradient.sizes() == output.sizes(), ValueError, "[backward] the gradient's shape ",
                 gradient.shape(), " is not the tensor's ", output.shape());
  return gradient;
}

void check_differentiable(const char* op, const Tensor& x) {
  BESSEMER_CHECK(
      x.defined() && x.requires_grad(), ValueError, "[", op,
      "] the tensor does not require a gradient and was not computed from one that does");
}

/// Gradient rules run without recording unless second derivatives are wanted.
class RuleMode {
 public:
  explicit RuleMode(bool create) : before_(current_mode) {
    current_mode =
        static_cast<uint8_t>(create ? current_mode | kModeGrad : current_mode & ~kModeGrad);
  }
  ~RuleMode() { current_mode = before_; }
  RuleMode(const RuleMode&) = delete;
  RuleMode& operator=(const RuleMode&) = delete;

 private:
  uint8_t before_;
};

}  // namespace

const Tensor& set_requires_grad(const Tensor& x, bool required) {
  TensorImpl* impl = x.impl();
  BESSEMER_CHECK(dtype_is_float(impl->dtype), TypeError,
                 "only floating tensors have gradients, not ", dtype_name(impl->dtype));
  BESSEMER_CHECK(!impl->node, ValueError,
                 "requires_grad can be changed on leaves only; use detach() for a computed tensor");
  impl->requires_grad = required;
  return x;
}

Tensor grad(const Tensor& leaf) { return leaf.impl()->leaf ? leaf.impl()->leaf->grad : Tensor(); }

void set_grad(const Tensor& leaf, const Tensor& gradient) {
  if (gradient.defined()) {
    BESSEMER_CHECK(gradient.sizes() == leaf.sizes() && gradient.dtype() == leaf.dtype(), ValueError,
                   "a gradient has its tensor's shape ", leaf.shape(), " and dtype ",
                   dtype_name(leaf.dtype()), ", got ", gradient.shape(), " ",
                   dtype_name(gradient.dtype()));
  }
  leaf_of(leaf).grad = gradient;
}

void clear_grad(const Tensor& leaf) {
  if (leaf.impl()->leaf) leaf.impl()->leaf->grad = Tensor();
}

void backward(const Tensor& loss, const Tensor& gradient, bool retain_graph, bool create_graph) {
  check_differentiable("backward", loss);
  RuleMode mode(create_graph);
  Pass pass(retain_graph, create_graph);
  pass.start(loss, starting_gradient(loss, gradient));
  pass.run();
}

void backward(std::span<const Tensor> outputs, std::span<const Tensor> gradients) {
  BESSEMER_CHECK(gradients.size() == outputs.size(), ValueError, "[backward] ", outputs.size(),
                 " outputs but ", gradients.size(), " gradients");
  RuleMode mode(false);
  Pass pass(false, false);
  for (size_t i = 0; i < outputs.size(); ++i) {
    check_differentiable("backward", outputs[i]);
    pass.start(outputs[i], starting_gradient(outputs[i], gradients[i]));
  }
  pass.run();
}

std::vector<Tensor> gradients(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                              std::span<const Tensor> grad_outputs, bool retain_graph,
                              bool create_graph) {
  BESSEMER_CHECK(grad_outputs.empty() || grad_outputs.size() == outputs.size(), ValueError,
                 "[gradients] ", outputs.size(), " outputs but ", grad_outputs.size(),
                 " gradients");
  for (const Tensor& x : inputs) check_differentiable("gradients", x);
  RuleMode mode(create_graph);
  Pass pass(retain_graph, create_graph);
  pass.capture(inputs);
  for (size_t i = 0; i < outputs.size(); ++i) {
    check_differentiable("gradients", outputs[i]);
    pass.start(outputs[i],
               starting_gradient(outputs[i], grad_outputs.empty() ? Tensor() : grad_outputs[i]));
  }
  pass.run();
  return std::move(pass.captured);
}

void on_gradient_ready(const Tensor& leaf, std::function<void(const Tensor&)> hook) {
  check_differentiable("on_gradient_ready", leaf);
  BESSEMER_CHECK(!leaf.impl()->node, ValueError, "[on_gradient_ready] takes leaves only");
  leaf_of(leaf).hooks.push_back(std::move(hook));
  hooked_leaves.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace bessemer
