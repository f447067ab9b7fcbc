// What one small operation costs from C++: nanoseconds a call, one thread. Peers:
// bench/peers/eager.py and eager.cpp (PyTorch).
#include "autograd/engine.h"
#include "autograd/nn/optim.h"
#include "bench/bench.h"
#include "core/ops/ops.h"

using namespace bessemer;

int main(int argc, char** argv) {
  bench::Report report(argc, argv);
  const Tensor a = Tensor::ones({4}), b = Tensor::ones({4});
  const Tensor ga = set_requires_grad(Tensor::ones({4})), gb = set_requires_grad(Tensor::ones({4}));
  const Tensor m = Tensor::ones({8, 8}), n = Tensor::ones({8, 8});
  std::vector<bench::Subject> subjects;
  const auto quiet = [](auto body) {
    return [body] {
      NoGrad guard;
      for (int i = 0; i < 100; ++i) bench::keep(body());
    };
  };
  subjects.push_back({"add (4,) no grad", quiet([&] { return a + b; }), 100});
  subjects.push_back({"exp (4,) no grad", quiet([&] { return exp(a); }), 100});
  subjects.push_back({"sum (4,) no grad", quiet([&] { return sum(a); }), 100});
  subjects.push_back({"view (2, 2)", quiet([&] { return reshape(a, {2, 2}); }), 100});
  subjects.push_back({"matmul (8, 8)", quiet([&] { return matmul(m, n); }), 100});
  subjects.push_back({"add (4,) grad",
                      [&] {
                        for (int i = 0; i < 100; ++i) bench::keep(ga + gb);
                      },
                      100});
  subjects.push_back({"mul, add, sum, backward (4,)", [&] { backward(sum(ga * gb + ga)); }, 1});
  nn::Init init{.seed = 1};
  const int64_t hidden[] = {64, 64};
  const nn::Mlp mlp(4, hidden, 2, cpu::Activation::tanh, init, false, 1);
  nn::Adam adam(mlp.parameters());
  const Tensor batch = init.normal({64, 4}, 1), one = init.normal({1, 4}, 1);
  const std::vector<Tensor> parameters = mlp.parameters();
  for (const Tensor& p : parameters) set_requires_grad(p);
  subjects.push_back({"MLP 4-64-64-2 batch 64 forward, backward, Adam",
                      [&] {
                        nn::zero_grad(parameters);
                        backward(mean(square(mlp(batch))));
                        adam.step(1e-3);
                      },
                      1});
  subjects.push_back({"MLP 4-64-64-2 batch 1 forward", quiet([&] { return mlp(one); }), 100});
  bench::measure(subjects, 15, 0.02);
  for (const auto& s : subjects) report.figure(s.name, s.median() / s.work * 1e9, "ns");
  return 0;
}
