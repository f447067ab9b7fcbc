// The lane build is held to the plain one: every step is taken from the plain build's own state.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "core/base/error.h"
#include "envs/lanes.h"
#include "tests/envs/fixture.h"

using namespace bessemer;

namespace {
const char* const kClassic[] = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0",
                                "MountainCarContinuous-v0", "Pendulum-v1"};

/// Random actions of a channel for `rows` rows, as bytes.
std::vector<char> random_actions(const Channel& channel, int64_t rows, std::mt19937_64& rng) {
  std::vector<char> bytes(rows * channel.numel() * dtype_size(channel.dtype));
  for (int64_t i = 0; i < rows * channel.numel(); ++i) {
    if (channel.dtype == Dtype::i64) {
      reinterpret_cast<int64_t*>(bytes.data())[i] = static_cast<int64_t>(rng() % channel.n[0]);
    } else {
      const double unit = static_cast<double>(rng() >> 11) * 0x1p-53;
      reinterpret_cast<float*>(bytes.data())[i] =
          static_cast<float>(channel.low[0] + (channel.high[0] - channel.low[0]) * unit);
    }
  }
  return bytes;
}

/// Whether b is a, or one of its two float32 neighbours.
bool within_one_ulp(float a, float b) {
  const float inf = std::numeric_limits<float>::infinity();
  return a == b || std::nextafter(a, inf) == b || std::nextafter(a, -inf) == b;
}

struct ForceIsa {
  explicit ForceIsa(const char* name) { setenv("BESSEMER_ISA", name, 1); }
  ~ForceIsa() { unsetenv("BESSEMER_ISA"); }
};

std::vector<const char*> isas() {
  std::vector<const char*> names = {"baseline"};
  if (lane_isa() >= LaneIsa::avx2) names.push_back("avx2");
  if (lane_isa() >= LaneIsa::avx512) names.push_back("avx512");
  return names;
}
}  // namespace

TEST_CASE("lanes agree with the plain build to 1 ulp of float32, flags exactly, on every set") {
  for (const char* isa : isas()) {
    const ForceIsa force(isa);
    for (const char* id : kClassic) {
      CAPTURE(isa);
      CAPTURE(id);
      constexpr int64_t kEnvs = 37;  // full vectors and a tail
      Stepped plain(id, {.num_envs = kEnvs, .arithmetic = Arithmetic::plain});
      Stepped lanes(id, {.num_envs = kEnvs, .arithmetic = Arithmetic::lanes});
      plain.reset_all(5);
      lanes.reset_all(5);
      CHECK(plain.obs == lanes.obs);
      std::mt19937_64 rng(3);
      int64_t wrong = 0, flags = 0, ended = 0;
      for (int t = 0; t < 1010; ++t) {
        for (int64_t env = 0; env < kEnvs; ++env) {
          lanes.batch->load(env, plain.batch->save(env));
        }
        const std::vector<char> actions = random_actions(plain.batch->spec().action[0], kEnvs, rng);
        plain.step(actions);
        lanes.step(actions);
        for (size_t i = 0; i < plain.obs.size(); ++i) {
          wrong += !within_one_ulp(plain.obs[i], lanes.obs[i]);
        }
        for (int64_t env = 0; env < kEnvs; ++env) {
          wrong += !within_one_ulp(plain.reward[env], lanes.reward[env]);
          flags += plain.terminated[env] != lanes.terminated[env];
          flags += plain.truncated[env] != lanes.truncated[env];
          ended += plain.terminated[env] | plain.truncated[env];
        }
      }
      CHECK(wrong == 0);
      CHECK(flags == 0);
      CHECK(ended > kEnvs / 2);
      CHECK(plain.episode_length == lanes.episode_length);
    }
  }
}

TEST_CASE("lanes have the same bits on every instruction set, batch size and position") {
  for (const char* id : kClassic) {
    CAPTURE(id);
    constexpr int64_t kEnvs = 21, kSteps = 300;
    std::vector<std::vector<float>> traces;
    for (const char* isa : isas()) {
      const ForceIsa force(isa);
      for (const int64_t size : {kEnvs, int64_t{1}, int64_t{7}}) {
        std::vector<float> trace(kEnvs * kSteps, 0);
        for (int64_t first = 0; first < kEnvs; first += size) {
          Stepped env(id, {.num_envs = size});
          env.reset_all(100 + first);
          std::mt19937_64 rng(9);
          for (int64_t t = 0; t < kSteps; ++t) {
            const auto& channel = env.batch->spec().action[0];
            std::vector<char> all = random_actions(channel, kEnvs, rng);
            const size_t bytes = all.size() / kEnvs;
            env.step(std::vector<char>(all.begin() + first * bytes,
                                       all.begin() + (first + size) * bytes));
            for (int64_t i = 0; i < size; ++i) {
              float sum = env.reward[i];
              for (const float x : env.row(i)) sum += x * 3.25f;
              trace[t * kEnvs + first + i] = sum;
            }
          }
        }
        traces.push_back(std::move(trace));
      }
    }
    for (const auto& trace : traces) CHECK(trace == traces[0]);
  }
}

TEST_CASE("an instruction set that the machine lacks is named") {
  const ForceIsa force("avx51");
  CHECK_THROWS_AS(make_batch("CartPole-v1", {}), ValueError);
}
