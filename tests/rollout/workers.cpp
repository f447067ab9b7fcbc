// Workers as threads of this process: the same bits as one sampler, whatever happens to them.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "core/wire/client.h"
#include "rollout/sample_message.h"
#include "rollout/worker.h"
#include "rollout/worker_source.h"
#include "tests/rollout/toy.h"

using namespace bessemer;

namespace {

/// What a run consists of; trainer and workers build the same from it.
struct Recipe {
  std::function<std::unique_ptr<EnvBatch>(const BatchOptions&)> envs;
  PolicyOptions model;
  NormalizerOptions normalizer;
  SamplerOptions sampler;
  int64_t rows = 5;

  std::unique_ptr<EnvBatch> batch(int64_t n) const {
    BatchOptions options;
    options.num_envs = n;
    options.autoreset = Autoreset::same_step;
    return envs(options);
  }
  WorkerParts parts(int64_t first_row, int64_t n) const {
    WorkerParts out;
    std::unique_ptr<EnvBatch> made = batch(n);
    const Channel& obs = made->spec().observation[0];
    out.policy = std::make_unique<Policy>(obs, made->spec().action[0], model, sampler.seed);
    out.normalizer = std::make_unique<Normalizer>(normalizer, obs.dtype, obs.numel(), n);
    SamplerOptions options = sampler;
    options.first_row = first_row;
    out.sampler = std::make_unique<Sampler>(std::move(made), *out.policy, *out.normalizer, options);
    return out;
  }
  RolloutShape shape(const WorkerParts& parts) const {
    const Spec spec = batch(1)->spec();
    return {sampler.steps,
            rows,
            parts.policy->distribution().components(),
            static_cast<int64_t>(parts.normalizer->observation_bytes()),
            spec.action_mask ? parts.policy->distribution().outputs() : 0,
            parts.policy->state_size()};
  }
};

Recipe cart_pole() {
  Recipe recipe;
  recipe.envs = [](const BatchOptions& options) { return make_batch("CartPole-v1", options); };
  recipe.model.hidden = {8};
  recipe.normalizer.normalize_obs = recipe.normalizer.normalize_reward = true;
  recipe.sampler.steps = 24;
  recipe.sampler.seed = 3;
  return recipe;
}

/// The workers of a hub: threads that can be replaced.
class Crew {
 public:
  Crew(WorkerHub& hub, const Recipe& recipe) : hub_(hub), recipe_(recipe) {
    for (const std::string& name : hub.names()) start(name);
  }
  ~Crew() {
    hub_.stop();
    for (std::thread& thread : threads_) thread.join();
  }
  void start(const std::string& name) {
    threads_.emplace_back([this, name] {
      const WorkerFactory factory = [this](const std::string& setup, int64_t first, int64_t rows) {
        if (setup != "the setup") fail<ValueError>("another setup");
        return recipe_.parts(first, rows);
      };
      try {
        if (run_worker(hub_.address(), name, hub_.secret(), factory) == WorkerEnd::orphaned)
          ++orphans;
      } catch (const wire::WireError&) {
        ++orphans;
      }
    });
  }
  /// As when its process died: whatever it is doing is lost, another takes its place.
  void replace(const std::string& name) {
    hub_.lost(name);
    start(name);
  }
  std::atomic<int> orphans{0};

 private:
  WorkerHub& hub_;
  const Recipe& recipe_;
  std::vector<std::thread> threads_;
};

WorkerHubOptions hub_options(const Recipe& recipe, const WorkerParts& parts, int64_t workers) {
  WorkerHubOptions options;
  options.workers = workers;
  options.shape = recipe.shape(parts);
  return options;
}

/// Moves the weights as a trainer would, the same for the same round.
void learn(Policy& policy, Normalizer& normalizer, const Rollout& data) {
  normalizer.update(data.steps, data.obs.data(), data.raw_reward.data(), data.ended.data());
  for (auto& [name, tensor] : policy.named_parameters()) {
    for (float& x : tensor.values<float>()) x += 0.01f * data.raw_reward[0] - 0.001f;
    tensor.bump();
  }
}

void check_same(const Rollout& a, const Rollout& b) {
  CHECK(a.obs == b.obs);
  CHECK(a.action_mask == b.action_mask);
  CHECK(a.actions == b.actions);
  CHECK(a.log_prob == b.log_prob);
  CHECK(a.value == b.value);
  CHECK(a.raw_reward == b.raw_reward);
  CHECK(a.reward == b.reward);
  CHECK(a.ended == b.ended);
  CHECK(a.fault == b.fault);
  CHECK(a.starts == b.starts);
  CHECK(a.version == b.version);
  CHECK(a.state == b.state);
  CHECK(a.last_value == b.last_value);
  CHECK(a.faults == b.faults);
  CHECK(a.fault_reason == b.fault_reason);
}

void check_same(const SourceState& a, const SourceState& b) {
  CHECK(a.counter == b.counter);
  CHECK(a.starts == b.starts);
  CHECK(a.states == b.states);
  CHECK(a.envs == b.envs);
}

/// Runs both for `rounds`; `disturb(round, crew)` may do to the workers what it likes.
void compare(const Recipe& recipe, int64_t workers, int64_t rounds,
             const std::function<void(int64_t, Crew&)>& disturb = {}) {
  WorkerParts alone = recipe.parts(0, recipe.rows), trainer = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, alone, workers), "the setup");
  Crew crew(hub, recipe);
  WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
  check_same(source.state(), alone.sampler->state());
  for (int64_t round = 0; round < rounds; ++round) {
    std::vector<EpisodeEnd> expected, episodes;
    alone.sampler->collect(round, expected);
    if (disturb) disturb(round, crew);
    source.collect(round, episodes);
    check_same(source.rollout(), alone.sampler->rollout());
    REQUIRE(episodes.size() == expected.size());
    for (size_t i = 0; i < episodes.size(); ++i) {
      CHECK(episodes[i].total == expected[i].total);
      CHECK(episodes[i].length == expected[i].length);
    }
    check_same(source.state(), alone.sampler->state());
    learn(*alone.policy, *alone.normalizer, alone.sampler->rollout());
    learn(*trainer.policy, *trainer.normalizer, source.rollout());
  }
}

}  // namespace

TEST_CASE("any number of workers collects the bits of one sampler") {
  for (const int64_t workers : {1, 2, 3, 5}) {
    CAPTURE(workers);
    compare(cart_pole(), workers, 6);
  }
}

TEST_CASE("recurrent policies, exploration matrices, masks, time limits and faults do too") {
  Recipe recipe = cart_pole();
  SUBCASE("recurrent") {
    recipe.model.kind = PolicyOptions::Kind::gru;
    recipe.model.recurrent_size = 6;
  }
  SUBCASE("state-dependent exploration, truncated episodes") {
    recipe.envs = [](const BatchOptions& wanted) {
      BatchOptions options = wanted;
      options.max_episode_steps = 17;
      return make_batch("Pendulum-v1", options);
    };
    recipe.model.sde = true;
    recipe.sampler.sde_sample_freq = 5;
  }
  SUBCASE("masks and faults") {
    test::Toy toy = test::clock_toy(7, true);
    toy.fault = [](uint32_t cue, int64_t t) { return cue % 4 == 0 && t == 3; };
    toy.spec.action_mask = true;
    toy.mask = [](uint32_t cue, int64_t t, uint8_t* mask) {
      mask[0] = (cue + static_cast<uint32_t>(t)) % 3 != 0;
      mask[1] = 1;
    };
    recipe.envs = test::factory(toy);
  }
  compare(recipe, 2, 5);
}

TEST_CASE("a worker that is replaced at any moment changes no bit") {
  int64_t replaced = 0;
  compare(cart_pole(), 3, 12, [&](int64_t round, Crew& crew) {
    if (round % 3 == 2) return;
    crew.replace(cat("worker-", round % 2));
    if (round % 4 == 0) crew.replace(cat("worker-", round % 2));  // twice
    ++replaced;
  });
  CHECK(replaced == 8);
}

TEST_CASE("a saved state goes on with another number of workers, or with none") {
  const Recipe recipe = cart_pole();
  WorkerParts alone = recipe.parts(0, recipe.rows);
  std::vector<EpisodeEnd> episodes;
  alone.sampler->collect(0, episodes);
  const SourceState state = alone.sampler->state();
  alone.sampler->collect(0, episodes);

  const WorkerParts trainer = recipe.parts(0, recipe.rows);
  for (const int64_t workers : {2, 4}) {
    WorkerHub hub(hub_options(recipe, trainer, workers), "the setup");
    Crew crew(hub, recipe);
    WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
    source.restore(state);
    source.collect(0, episodes);
    check_same(source.rollout(), alone.sampler->rollout());
    const WorkerParts back = recipe.parts(0, recipe.rows);
    back.sampler->restore(source.state());
    check_same(back.sampler->state(), alone.sampler->state());
    CHECK_THROWS_WITH_AS(source.restore(state.slice(0, 3)),
                         "[workers] the saved state is of 3 rows, here are 5", ValueError);
  }
}

TEST_CASE("what stops a sampler reaches the trainer as itself, and the rows stay where they were") {
  Recipe recipe;
  test::Toy toy = test::clock_toy(50, false);
  toy.observe = [](uint32_t, int64_t t, void* obs) {
    auto* x = static_cast<float*>(obs);
    x[0] = t == 7 ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    x[1] = 0;
  };
  recipe.envs = test::factory(toy);
  recipe.sampler.steps = 5;
  recipe.rows = 2;
  const WorkerParts trainer = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, trainer, 2), "the setup");
  Crew crew(hub, recipe);
  WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
  std::vector<EpisodeEnd> episodes;
  source.collect(0, episodes);
  const SourceState before = source.state();
  for (int again = 0; again < 3; ++again) {
    CHECK_THROWS_AS(source.collect(0, episodes), NotFiniteError);
    check_same(source.state(), before);
  }
}

TEST_CASE("an abandoned hub and one that nobody can join say so") {
  const Recipe recipe = cart_pole();
  const WorkerParts trainer = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, trainer, 2), "the setup");
  const WorkerFactory factory = [&](const std::string&, int64_t first, int64_t rows) {
    return recipe.parts(first, rows);
  };
  CHECK_THROWS_WITH_AS(run_worker(hub.address(), "worker-2", hub.secret(), factory),
                       doctest::Contains("did you mean 'worker-"), wire::WireError);
  CHECK_THROWS_WITH_AS(run_worker(hub.address(), "worker-0", "guess", factory),
                       doctest::Contains("secret"), wire::WireError);
  WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
  hub.abandon("worker-1 died 4 times");
  std::vector<EpisodeEnd> episodes;
  CHECK_THROWS_WITH_AS(source.collect(0, episodes), "worker-1 died 4 times", IoError);
  CHECK_THROWS_AS(source.state(), IoError);
  CHECK_THROWS_WITH_AS(WorkerHub(hub_options(recipe, trainer, 6), ""),
                       doctest::Contains("placement.workers is 6"), ValueError);
}

TEST_CASE("a setup that cannot be built is the trainer's error") {
  const Recipe recipe = cart_pole();
  const WorkerParts trainer = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, trainer, 1), "not the setup");
  Crew crew(hub, recipe);
  WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
  std::vector<EpisodeEnd> episodes;
  CHECK_THROWS_WITH_AS(source.collect(0, episodes), "another setup", ValueError);
}

TEST_CASE("fragments: the queue is bounded, the newest weights are used, the books balance") {
  const Recipe recipe = cart_pole();
  WorkerParts trainer = recipe.parts(0, recipe.rows);
  WorkerHubOptions options = hub_options(recipe, trainer, 2);
  options.fragments = 3;
  WorkerHub hub(options, "the setup");
  Crew crew(hub, recipe);
  WorkerFragments source(hub);
  CHECK(!source.take(0.05));  // nothing to act with yet
  source.publish(acting_weights(1, *trainer.policy, *trainer.normalizer));

  const auto queued = [&] {
    uint64_t fragments = 0;
    for (const WorkerStatus& worker : hub.status()) fragments += worker.queued;
    return fragments;
  };
  const auto wait_until = [](const auto& condition) {
    for (int i = 0; i < 2000 && !condition(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    CHECK(condition());
  };
  const auto joined = [&] {
    return std::ranges::all_of(hub.status(), [](const WorkerStatus& worker) {
      return worker.state == WorkerStatus::State::waiting;
    });
  };
  wait_until([&] { return queued() == 3 && joined(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(queued() == 3);  // and no more
  CHECK(joined());

  // A worker dies while it waits and one while it may be collecting; nothing is lost or doubled.
  learn(*trainer.policy, *trainer.normalizer, trainer.sampler->rollout());
  source.publish(acting_weights(2, *trainer.policy, *trainer.normalizer));
  std::vector<uint64_t> next(2);
  uint64_t samples = 0;
  int64_t newest = 0;
  for (int i = 0; i < 20; ++i) {
    const std::optional<Fragment> fragment = source.take(20);
    REQUIRE(fragment.has_value());
    const size_t worker = fragment->worker == "worker-0" ? 0 : 1;
    CHECK(fragment->number == next[worker]++);
    CHECK(fragment->rollout.version[0] == fragment->version);
    CHECK(fragment->version >= newest);
    if (i >= 3) CHECK(fragment->version == 2);
    newest = fragment->version;
    samples += static_cast<uint64_t>(fragment->rollout.rows * fragment->rollout.steps);
    if (i % 5 == 4) crew.replace(fragment->worker);
  }
  const SampleCounts counts = source.counts();
  CHECK(counts.taken == samples);
  CHECK(counts.produced == counts.taken + counts.queued);
  CHECK(counts.lost.empty());
}

TEST_CASE("an asynchronous state is where the taken fragments end") {
  const Recipe recipe = cart_pole();
  const WorkerParts trainer = recipe.parts(0, recipe.rows), alone = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, trainer, 2), "the setup");
  Crew crew(hub, recipe);
  WorkerFragments source(hub);
  source.publish(acting_weights(0, *trainer.policy, *trainer.normalizer));
  std::vector<EpisodeEnd> episodes;
  alone.sampler->collect(0, episodes);
  std::vector<int> taken(2);
  while (taken[0] == 0 || taken[1] == 0) {
    const std::optional<Fragment> fragment = source.take(20);
    REQUIRE(fragment.has_value());
    ++taken[fragment->first_row == 0 ? 0 : 1];
    if (fragment->first_row == 0 && taken[0] == 1)
      CHECK(source.state().slice(0, 2).envs == alone.sampler->state().slice(0, 2).envs);
  }
  source.restore(source.state());
  const SampleCounts counts = source.counts();
  uint64_t lost = 0;
  for (const auto& [reason, n] : counts.lost) lost += n;
  CHECK(counts.produced == counts.taken + counts.queued + lost);
  CHECK(source.take(20).has_value());
}

TEST_CASE("samples that were not asked for, of other weights or shapes, are refused") {
  const Recipe recipe = cart_pole();
  const WorkerParts trainer = recipe.parts(0, recipe.rows);
  WorkerHub hub(hub_options(recipe, trainer, 1), "the setup");
  WorkerSource source(hub, *trainer.policy, *trainer.normalizer);
  const auto refused = [](const auto& ask) {
    try {
      ask();
    } catch (const wire::WireError& error) {
      return error.code();
    }
    return wire::Code::internal;
  };
  std::thread stranger([&] {
    wire::Message hello;
    hello.fields = {{"worker", "worker-0"}, {"secret", hub.secret()}};
    wire::Client client(hub.address(), hello);
    const auto answer = [&](wire::Message message) {
      return refused([&] { client.call(std::move(message)); });
    };
    CHECK(answer(wire::Message("dance")) == wire::Code::unknown_type);
    CHECK(answer(wire::Message("failed")) == wire::Code::malformed);
    const wire::Message task = client.call(wire::Message("pull"));
    CHECK(task.find("weights") != nullptr);
    const auto samples = [&](uint64_t number, uint64_t hash) {
      wire::Message message("samples");
      message.fields = {{"task", number}, {"weights_hash", hash}};
      return message;
    };
    const uint64_t number = task.fields.count("task"), hash = task.fields.count("weights_hash");
    CHECK(answer(samples(number + 1, hash)) == wire::Code::mismatch);
    CHECK(answer(samples(number, hash ^ 1)) == wire::Code::mismatch);
    CHECK(answer(samples(number, hash)) == wire::Code::malformed);  // and nothing in it
    RolloutShape wide = recipe.shape(trainer);
    wide.rows += 1;
    const Rollout rollout = make_rollout(wide);
    wire::Message message = samples(number, hash);
    const RolloutMessage writer(rollout, {});
    writer.write(message);
    CHECK(answer(std::move(message)) == wire::Code::bad_type);
  });
  std::vector<EpisodeEnd> expected, episodes;
  std::thread trains([&] { source.collect(0, episodes); });
  stranger.join();
  Crew crew(hub, recipe);  // an honest one takes the place
  trains.join();
  const WorkerParts alone = recipe.parts(0, recipe.rows);
  alone.sampler->collect(0, expected);
  check_same(source.rollout(), alone.sampler->rollout());
}
