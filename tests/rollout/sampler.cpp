#include "rollout/sampler.h"
#include "rollout/inline_fragments.h"

#include <doctest/doctest.h>
#include <cstring>
#include <limits>

#include "tests/rollout/toy.h"

using namespace bessemer;

namespace {

struct Rig {
  Policy policy;
  Normalizer normalizer;
  std::unique_ptr<Sampler> sampler;
  std::vector<EpisodeEnd> episodes;

  Rig(std::unique_ptr<EnvBatch> envs, const SamplerOptions& options,
      const PolicyOptions& model = {})
      : policy(envs->spec().observation[0], envs->spec().action[0], model, options.seed),
        normalizer({}, envs->spec().observation[0].dtype, envs->spec().observation[0].numel(),
                   envs->rows()) {
    sampler = std::make_unique<Sampler>(std::move(envs), policy, normalizer, options);
  }
  const Rollout& collect(int64_t version = 0) {
    sampler->collect(version, episodes);
    return sampler->rollout();
  }
};

BatchOptions batch_options(int64_t num, ThreadPool* pool = nullptr) {
  BatchOptions options;
  options.num_envs = num;
  options.autoreset = Autoreset::same_step;
  options.pool = pool;
  return options;
}

std::unique_ptr<EnvBatch> toys(const test::Toy& toy, int64_t num) {
  return test::factory(toy)(batch_options(num));
}

/// Environments of a server that goes away after so many steps, or takes no snapshots.
class FarToys final : public test::ToyBatch {
 public:
  FarToys(int64_t num, int64_t steps, bool snapshots)
      : ToyBatch(test::clock_toy(5, true), batch_options(num)),
        left_(steps),
        snapshots_(snapshots) {}

  bool remote() const override { return true; }
  bool can_save() const override { return snapshots_; }
  void step(const Actions& actions, const StepBuffers& out) override {
    answer();
    --left_;
    ToyBatch::step(actions, out);
  }
  std::string save(int64_t env) const override {
    answer();
    return ToyBatch::save(env);
  }

 private:
  void answer() const { BESSEMER_CHECK(left_ > 0, IoError, "[toy] gone"); }
  int64_t left_;
  bool snapshots_;
};

}  // namespace

TEST_CASE("the buffer holds what the environments did, over the borders of rollouts") {
  SamplerOptions options;
  options.steps = 5;
  options.truncation_bootstrap = false;
  Rig rig(toys(test::clock_toy(3, false), 2), options);
  int64_t life = 0;
  for (int64_t version = 7; version < 10; ++version) {
    const Rollout& data = rig.collect(version);
    const auto* obs = reinterpret_cast<const float*>(data.obs.data());
    for (int64_t t = 0; t < 5; ++t, ++life) {
      for (int64_t r = 0; r < 2; ++r) {
        const int64_t i = t * 2 + r;
        CHECK(obs[i * 2 + 1] == static_cast<float>(life % 3));
        CHECK(data.reward[i] == static_cast<float>(life % 3));
        CHECK(data.ended[i] == (life % 3 == 2));
        CHECK(data.starts[i] == (life % 3 == 0));
        CHECK(data.version[i] == version);
        CHECK(data.log_prob[i] < 0);
      }
    }
  }
  CHECK(rig.episodes.size() == 10);
  CHECK(rig.episodes[0].total == 3);
  CHECK(rig.episodes[0].length == 3);
}

TEST_CASE("a truncated episode's last reward gets gamma times the final observation's value") {
  for (bool truncates : {true, false}) {
    SamplerOptions options;
    options.steps = 4;
    options.gamma = 0.9;
    Rig rig(toys(test::clock_toy(3, truncates), 1), options);
    const Rollout& data = rig.collect();
    const auto* obs = reinterpret_cast<const float*>(data.obs.data());
    NoGrad no_grad;
    const float final_obs[] = {obs[0], 3};  // same cue, t = 3
    const double value =
        rig.policy.value(Tensor::from(std::span<const float>(final_obs), {1, 2}), {}).item();
    CHECK(data.reward[2] == doctest::Approx(2 + (truncates ? 0.9 * value : 0)));
    CHECK(data.raw_reward[2] == 2);
    CHECK(data.reward[1] == 1);
    CHECK(data.ended[2] == 1);
  }
}

TEST_CASE("a failed environment's sample is marked, valued as it was judged, and counted") {
  SamplerOptions options;
  options.steps = 4;
  test::Toy toy = test::clock_toy(10, false);
  toy.fault_at = 2;
  Rig rig(toys(toy, 2), options);
  const Rollout& data = rig.collect();
  CHECK(data.faults == 1);
  CHECK(data.fault_reason == "the toy broke");
  CHECK(data.fault[4] == 1);
  CHECK(data.ended[4] == 1);
  CHECK(data.reward[4] == data.value[4]);
  CHECK(data.fault[5] == 0);
  CHECK(rig.episodes.empty());
}

TEST_CASE("log-probabilities of a rollout are, bit for bit, those of one forward pass over it") {
  SamplerOptions options;
  options.steps = 32;
  Rig rig(make_batch("CartPole-v1", batch_options(4)), options);
  const Rollout& data = rig.collect();
  NoGrad no_grad;
  const int64_t n = 128;
  Tensor x = Tensor::empty({n, 4});
  rig.normalizer.inputs(n, data.obs.data(), x.data<float>());
  const Policy::Outputs out = rig.policy.forward(x, {});
  nn::ActionInputs in;
  in.rows = n;
  in.outputs = out.action.data<float>();
  nn::ActionScratch scratch;
  std::vector<float> log_prob(n);
  rig.policy.distribution().prepare(in, scratch);
  rig.policy.distribution().evaluate(in, scratch, data.actions.data(), log_prob.data(), nullptr);
  CHECK(std::memcmp(log_prob.data(), data.log_prob.data(), n * sizeof(float)) == 0);
  CHECK(std::memcmp(out.value.data<float>(), data.value.data(), n * sizeof(float)) == 0);
}

TEST_CASE("threads and neighbours do not change a row") {
  SamplerOptions options;
  options.steps = 64;
  ThreadPool three(3);
  Rig one(make_batch("CartPole-v1", batch_options(8)), options);
  Rig threaded(make_batch("CartPole-v1", batch_options(8, &three)), options);
  Rig fewer(make_batch("CartPole-v1", batch_options(3)), options);
  for (int round = 0; round < 3; ++round) {
    const Rollout& a = one.collect();
    const Rollout& b = threaded.collect();
    const Rollout& c = fewer.collect();
    CHECK(a.obs == b.obs);
    CHECK(a.actions == b.actions);
    CHECK(a.reward == b.reward);
    for (int64_t t = 0; t < 64; ++t)
      for (int64_t r = 0; r < 3; ++r) REQUIRE(a.value[t * 8 + r] == c.value[t * 3 + r]);
  }
}

TEST_CASE("recurrent states start at zero, run on between rollouts and restart with episodes") {
  PolicyOptions model;
  model.kind = PolicyOptions::Kind::gru;
  model.hidden = {8};
  model.recurrent_size = 4;
  SamplerOptions options;
  options.steps = 5;
  Rig rig(toys(test::clock_toy(4, false), 2), options, model);
  for (float x : rig.collect().state) CHECK(x == 0);
  const std::vector<float> after = rig.sampler->state().states;
  const Rollout& second = rig.collect();
  CHECK(second.state == after);
  CHECK(after[0] != 0);
  NoGrad no_grad;
  Tensor state = Tensor::from(std::span<const float>(second.state), {2, 8});
  for (int64_t t = 0; t < 5; ++t) {
    if (second.starts[t * 2]) state = Tensor::zeros({2, 8});
    const auto* obs = reinterpret_cast<const float*>(second.obs.data()) + t * 4;
    const Policy::Outputs out = rig.policy.forward(Tensor::from(std::span(obs, 4), {2, 2}), state);
    CHECK(out.value.data<float>()[0] == second.value[t * 2]);
    state = out.state;
  }
}

TEST_CASE("outputs that are not finite stop the sampler") {
  SamplerOptions options;
  options.steps = 4;
  test::Toy toy = test::clock_toy(3, false);
  toy.observe = [](uint32_t, int64_t t, void* obs) {
    auto* x = static_cast<float*>(obs);
    x[0] = t == 2 ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    x[1] = 0;
  };
  Rig rig(toys(toy, 1), options);
  CHECK_THROWS_AS(rig.collect(), NotFiniteError);
}

TEST_CASE("samplers of neighbouring ranges hold the rows of one sampler, noise included") {
  for (const bool sde : {false, true}) {
    SamplerOptions options;
    options.steps = 40;
    PolicyOptions model;
    model.sde = sde;
    options.sde_sample_freq = sde ? 7 : -1;
    const auto part = [&](int64_t first, int64_t rows) {
      SamplerOptions own = options;
      own.first_row = first;
      return std::make_unique<Rig>(make_batch("Pendulum-v1", batch_options(rows)), own, model);
    };
    const auto whole = part(0, 5), left = part(0, 2), right = part(2, 3);
    for (int64_t round = 0; round < 6; ++round) {
      const Rollout& all = whole->collect();
      for (int64_t row = 0; row < 5; ++row) {
        Rig& rig = row < 2 ? *left : *right;
        if (row == 0 || row == 2) rig.collect();
        const Rollout& some = rig.sampler->rollout();
        const int64_t own = row < 2 ? row : row - 2;
        for (int64_t t = 0; t < 40; ++t) {
          REQUIRE(all.actions[t * 5 + row] == some.actions[t * some.rows + own]);
          REQUIRE(all.reward[t * 5 + row] == some.reward[t * some.rows + own]);
        }
      }
    }
    CHECK(whole->episodes.size() == 5);
  }
}

TEST_CASE("a source goes on from a saved state; states of ranges are cut and joined") {
  PolicyOptions model;
  model.kind = PolicyOptions::Kind::gru;
  model.hidden = {8};
  model.recurrent_size = 4;
  SamplerOptions options;
  options.steps = 30;
  Rig rig(make_batch("CartPole-v1", batch_options(4)), options, model);
  rig.collect();
  const SourceState state = rig.sampler->state();
  CHECK(state.rows() == 4);
  CHECK(state.counter == std::vector<int64_t>(4, 30));
  rig.collect();
  const Rollout expected = rig.sampler->rollout();

  SourceState joined = state.slice(0, 1);
  joined.append(state.slice(1, 3));
  CHECK(joined.envs == state.envs);
  CHECK(joined.states == state.states);
  rig.sampler->restore(joined);
  rig.collect();
  CHECK(rig.sampler->rollout().obs == expected.obs);
  CHECK(rig.sampler->rollout().actions == expected.actions);

  options.first_row = 2;
  Rig half(make_batch("CartPole-v1", batch_options(2)), options, model);
  half.sampler->restore(state.slice(2, 2));
  const Rollout& own = half.collect();
  for (int64_t t = 0; t < 30; ++t) REQUIRE(own.actions[t * 2] == expected.actions[t * 4 + 2]);
  CHECK_THROWS_AS(half.sampler->restore(state), ValueError);
  CHECK_THROWS_AS((void)state.slice(3, 2), IndexError);
}

TEST_CASE("environments that may be lost: where they stood after the last rollout is kept") {
  SamplerOptions options;
  options.steps = 7;
  Rig whole(toys(test::clock_toy(5, true), 3), options);
  whole.collect();
  const auto second = whole.collect().raw_reward;
  Rig far(std::make_unique<FarToys>(3, 10, true), options);
  far.collect();
  CHECK_THROWS_AS(far.collect(), IoError);
  const SourceState state = far.sampler->state();
  CHECK(state.counter == std::vector<int64_t>(3, 7));
  Rig successor(std::make_unique<FarToys>(3, 1000, true), options);
  successor.sampler->restore(state);
  CHECK(successor.collect().raw_reward == second);
}

TEST_CASE("environments without snapshots begin anew, with other episodes") {
  SamplerOptions options;
  options.steps = 7;
  Rig rig(std::make_unique<FarToys>(3, 1000, false), options);
  const Rollout first = rig.collect();
  const SourceState state = rig.sampler->state();
  CHECK(state.envs == std::vector<std::string>(3));
  rig.sampler->restore(state);
  const Rollout& again = rig.collect();
  CHECK(std::vector<uint8_t>(again.starts.begin(), again.starts.begin() + 3) ==
        std::vector<uint8_t>(3, 1));
  CHECK(again.obs != first.obs);
}

TEST_CASE("one sampler by turns is an asynchronous source with balanced books") {
  SamplerOptions options;
  options.steps = 5;
  Rig rig(toys(test::clock_toy(3, false), 2), options);
  InlineFragments source(std::move(rig.sampler));
  source.publish(make_weights(4, {}));
  const std::optional<Fragment> first = source.take(0), second = source.take(0);
  CHECK(first->version == 4);
  CHECK(first->number == 0);
  CHECK(second->number == 1);
  CHECK(second->rollout.version[0] == 4);
  CHECK(first->episodes.size() == 2);
  CHECK(source.counts().produced == 20);
  CHECK(source.counts().taken == 20);
}
