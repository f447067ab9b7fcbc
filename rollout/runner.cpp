#include "rollout/runner.h"

#include <algorithm>
#include <cstring>

namespace bessemer {

PolicyRunner::PolicyRunner(const Policy& policy, const Normalizer& normalizer, int64_t slots,
                           const Rng& rng, int64_t first)
    : policy_(policy), normalizer_(normalizer), rng_(rng), slots_(slots), first_(first) {
  states_.assign(static_cast<size_t>(slots * policy.state_size()), 0);  // detail 33
  if (policy.distribution().kind() == nn::ActionKind::state_dependent) explore(0);
}

Tensor PolicyRunner::inputs(int64_t rows, const void* obs) const {
  Tensor x = Tensor::empty({rows, policy_.observation_size()});
  normalizer_.inputs(rows, obs, x.data<float>());
  return x;
}

void PolicyRunner::explore(uint64_t counter) {
  const nn::ActionDistribution& distribution = policy_.distribution();
  if (distribution.kind() != nn::ActionKind::state_dependent) return;
  const int64_t cells = distribution.log_stds();
  exploration_.resize(static_cast<size_t>(slots_ * cells));
  Rng rng = rng_;
  rng.stream = Stream::exploration;
  for (int64_t slot = 0; slot < slots_; ++slot)
    distribution.explore(rng, first_ + slot, counter, policy_.log_std().data<float>(),
                         exploration_.data() + slot * cells);
}

void PolicyRunner::act(const ActRequest& request, const ActResult& result) {
  NoGrad no_grad;
  const int64_t rows = request.rows, width = policy_.state_size();
  Tensor state;
  if (width > 0) {
    state = Tensor::empty({rows, width});
    float* to = state.data<float>();
    for (int64_t r = 0; r < rows; ++r, to += width) {
      const float* from = states_.data() + request.slots[r] * width;
      if (request.starts && request.starts[r])
        std::fill(to, to + width, 0.0f);
      else
        std::copy(from, from + width, to);
    }
  }
  const Policy::Outputs out = policy_.forward(inputs(rows, request.obs), state);
  if (width > 0) {
    const float* from = out.state.data<float>();
    for (int64_t r = 0; r < rows; ++r, from += width)
      std::copy(from, from + width, states_.data() + request.slots[r] * width);
  }

  const nn::ActionDistribution& distribution = policy_.distribution();
  nn::ActionInputs in;
  in.rows = rows;
  in.outputs = out.action.data<float>();
  in.mask = request.action_mask;
  if (policy_.log_std()) in.log_std = policy_.log_std().data<float>();
  if (out.features) in.features = out.features.data<float>();
  distribution.prepare(in, scratch_);
  if (request.deterministic) {
    distribution.mode(in, scratch_, result.actions);
  } else {
    const float* exploration = nullptr;
    if (distribution.kind() == nn::ActionKind::state_dependent) {
      const int64_t cells = distribution.log_stds();
      row_exploration_.resize(static_cast<size_t>(rows * cells));
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(exploration_.data() + request.slots[r] * cells, cells,
                    row_exploration_.data() + r * cells);
      exploration = row_exploration_.data();
    }
    keys_.assign(request.slots.begin(), request.slots.end());
    for (int64_t& key : keys_) key += first_;
    distribution.sample(in, scratch_, rng_, keys_, request.counter, exploration, result.actions);
  }
  if (result.log_prob)
    distribution.evaluate(in, scratch_, result.actions, result.log_prob, nullptr);
  if (result.value) std::copy_n(out.value.data<float>(), rows, result.value);
}

void PolicyRunner::values(int64_t rows, const void* obs, const float* states, float* out) {
  if (rows == 0) return;
  NoGrad no_grad;
  Tensor state;
  if (policy_.state_size() > 0)
    state = Tensor::from(std::span<const float>(states, rows * policy_.state_size()),
                         {rows, policy_.state_size()});
  std::copy_n(policy_.value(inputs(rows, obs), state).data<float>(), rows, out);
}

ActionWriter::ActionWriter(const Channel& action, bool clip)
    : dtype_(action.dtype),
      components_(action.numel()),
      bytes_(static_cast<size_t>(components_) * dtype_size(dtype_)),
      offset_(action.kind == SpaceKind::discrete ? static_cast<float>(action.start) : 0),
      clip_(clip && action.kind == SpaceKind::box) {
  BESSEMER_CHECK(dtype_ != Dtype::f16 && dtype_ != Dtype::bf16, TypeError, "actions of dtype ",
                 dtype_name(dtype_), " are not supported");
  if (!clip_) return;
  for (int64_t i = 0; i < components_; ++i) {
    const auto at = [&](const std::vector<double>& bounds, double none) {
      return bounds.empty() ? none : bounds[bounds.size() == 1 ? 0 : static_cast<size_t>(i)];
    };
    low_.push_back(static_cast<float>(at(action.low, -std::numeric_limits<double>::infinity())));
    high_.push_back(static_cast<float>(at(action.high, std::numeric_limits<double>::infinity())));
  }
}

void ActionWriter::write(int64_t rows, const float* actions, void* out) const {
  const auto convert = [&]<class T>(T* to) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < components_; ++i) {
        float x = *actions++;
        if (clip_) x = std::clamp(x, low_[i], high_[i]);
        *to++ = static_cast<T>(x + offset_);
      }
    }
  };
  switch (dtype_) {
    case Dtype::boolean:
    case Dtype::u8:
      return convert(static_cast<uint8_t*>(out));
    case Dtype::i8:
      return convert(static_cast<int8_t*>(out));
    case Dtype::i32:
      return convert(static_cast<int32_t*>(out));
    case Dtype::i64:
      return convert(static_cast<int64_t*>(out));
    case Dtype::f64:
      return convert(static_cast<double*>(out));
    default:
      return convert(static_cast<float*>(out));
  }
}

}  // namespace bessemer
