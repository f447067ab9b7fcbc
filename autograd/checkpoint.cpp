#include "autograd/checkpoint.h"

#include "autograd/node.h"

namespace bessemer {

Tensor checkpoint(CheckpointBody body, const Tensor& x, std::span<const Tensor> uses) {
  bool any = x.requires_grad();
  for (const Tensor& used : uses) any |= used.requires_grad();
  if (!any || !(current_mode & kModeGrad)) return body(x);
  BESSEMER_CHECK(uses.size() < 255, ValueError, "[checkpoint] reads ", uses.size(),
                 " tensors, at most 254");
  Tensor out;
  {
    NoGrad no_grad;
    out = body(x).detach();  // the body may hand out x itself or a kept tensor
  }
  BESSEMER_CHECK(dtype_is_float(out.dtype()), TypeError, "[checkpoint] the body gave ",
                 dtype_name(out.dtype()), ", expected a floating tensor");
  Node* node = node_new();
  node->outputs = 1;
  node->overflow = new Node::Overflow;
  node->overflow->body = std::move(body);
  node_save(node, x, 0);
  for (const Tensor& used : uses) node_save(node, used, node->saved_count);
  TensorImpl* impl = out.impl();
  impl->node = node;
  impl->output_index = 0;
  impl->requires_grad = true;
  node->refs.store(1, std::memory_order_relaxed);
  return out;
}

}  // namespace bessemer
