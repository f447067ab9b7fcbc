// What small PyTorch operations cost from C++, one thread. Built and run by bench/peers/eager-cpp.
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

template <class Body>
static void figure(const char* work, int loops, Body body) {
  std::vector<double> times;
  for (int repeat = 0; repeat < 9; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < loops; ++i) body();
    times.push_back(
        std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() /
        loops);
  }
  std::sort(times.begin(), times.end());
  std::printf("{\"peer\": \"libtorch\", \"work\": \"%s\", \"value\": %.1f, \"unit\": \"ns\"}\n",
              work, times[times.size() / 2]);
}

int main() {
  torch::set_num_threads(1);
  const auto a = torch::ones({4}), b = torch::ones({4}), m = torch::ones({8, 8}), n = m.clone();
  const auto ga = torch::ones({4}, torch::requires_grad()),
             gb = torch::ones({4}, torch::requires_grad());
  torch::nn::Sequential mlp(torch::nn::Linear(4, 64), torch::nn::Tanh(), torch::nn::Linear(64, 64),
                            torch::nn::Tanh(), torch::nn::Linear(64, 2));
  torch::optim::Adam adam(mlp->parameters(), 1e-3);
  const auto x = torch::randn({64, 4}), one = torch::randn({1, 4});
  {
    torch::NoGradGuard guard;
    figure("add (4,) no grad", 200000, [&] { auto c = a + b; });
    figure("matmul (8, 8)", 200000, [&] { auto c = torch::matmul(m, n); });
    figure("view (2, 2)", 200000, [&] { auto c = a.view({2, 2}); });
    figure("MLP 4-64-64-2 batch 1 forward", 10000, [&] { auto y = mlp->forward(one); });
  }
  figure("add (4,) grad", 200000, [&] { auto c = ga + gb; });
  figure("mul, add, sum, backward (4,)", 20000, [&] { (ga * gb + ga).sum().backward(); });
  figure("MLP 4-64-64-2 batch 64 forward, backward, Adam", 1000, [&] {
    adam.zero_grad();
    mlp->forward(x).pow(2).mean().backward();
    adam.step();
  });
}
