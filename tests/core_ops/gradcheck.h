// Gradients against central differences in float64.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "autograd/engine.h"
#include "core/base/rng.h"
#include "core/ops/ops.h"

namespace bessemer::testing {

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

/// float64 numbers in [low, high), the same ones for a stream every time.
inline Tensor draw(const Shape& shape, uint64_t stream, double low = -2, double high = 2) {
  Tensor out = Tensor::empty(shape, Dtype::f64);
  const Rng rng{stream};
  for (int64_t i = 0; i < out.numel(); ++i) {
    const PhiloxBlock block = rng.at(static_cast<uint64_t>(i));
    out.data<double>()[i] = low + (high - low) * uniform_double(block.word[0], block.word[1]);
  }
  return out;
}

/// f's result as one number: a fixed random combination of its elements.
inline Tensor combine(const Tensor& y, uint64_t stream = 999) {
  return sum(y * draw(y.sizes(), stream));
}

/// The largest difference between the gradients of combine(f(inputs)) and central differences,
/// relative to 1 + |gradient|.
inline double gradient_error(const Function& f, const std::vector<Tensor>& given) {
  std::vector<Tensor> inputs;
  for (const Tensor& x : given) {
    inputs.push_back(contiguous(x.detach()));
    set_requires_grad(inputs.back());
  }
  const Tensor loss = combine(f(inputs));
  std::vector<Tensor> found(inputs.size());
  if (loss.requires_grad()) found = gradients(std::array{loss}, inputs);
  double worst = 0;
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < inputs.size(); ++i) {
    double* x = inputs[i].data<double>();
    const Tensor gradient = found[i].defined() ? contiguous(found[i]) : zeros_like(inputs[i]);
    if (!(gradient.sizes() == inputs[i].sizes())) return HUGE_VAL;
    for (int64_t j = 0; j < inputs[i].numel(); ++j) {
      const double before = x[j];
      x[j] = before + kStep;
      inputs[i].bump();
      const double above = combine(f(inputs)).item();
      x[j] = before - kStep;
      inputs[i].bump();
      const double below = combine(f(inputs)).item();
      x[j] = before;
      inputs[i].bump();
      const double expected = (above - below) / (2 * kStep), got = gradient.data<double>()[j];
      const double error = std::abs(got - expected) / (1 + std::abs(expected));
      if (!(error <= worst)) worst = error;  // NaN too
    }
  }
  return worst;
}

/// The same for the gradients themselves: second derivatives.
inline double second_gradient_error(const Function& f, const std::vector<Tensor>& given) {
  return gradient_error(
      [&](const std::vector<Tensor>& inputs) {
        EnableGrad recording;
        const auto found = gradients(std::array{combine(f(inputs))}, inputs, {}, true, true);
        Tensor total = Tensor::scalar(0, Dtype::f64);
        for (size_t i = 0; i < found.size(); ++i)
          if (found[i].defined()) total = total + combine(found[i], 1000 + i);
        return total;
      },
      given);
}

}  // namespace bessemer::testing

/// First and second derivatives of an expression in x[0], x[1], ...
#define CHECK_GRADIENTS(expression, ...)                                                        \
  do {                                                                                          \
    const ::bessemer::testing::Function f_ = [&](const std::vector<::bessemer::Tensor>& x) {    \
      return expression;                                                                        \
    };                                                                                          \
    const std::vector<::bessemer::Tensor> inputs_{__VA_ARGS__};                                 \
    CHECK_MESSAGE(::bessemer::testing::gradient_error(f_, inputs_) < 1e-7, #expression);        \
    CHECK_MESSAGE(::bessemer::testing::second_gradient_error(f_, inputs_) < 1e-6, #expression); \
  } while (0)
