// Asynchronous PPO: what it learns, what it makes of old experience, and where every sample went.
#include "trainer/appo.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <deque>
#include <limits>

#include "rollout/inline_fragments.h"
#include "rollout/sampler.h"
#include "tests/rollout/toy.h"
#include "trainer/control.h"
#include "trainer/ppo.h"

using namespace bessemer;
namespace fs = std::filesystem;

namespace {

RunConfig cartpole(const std::string& algo = "appo") {
  RunConfig config;
  config.env.id = "CartPole-v1";
  config.trainer.algo = algo;
  config.rollout.steps = 32;
  config.trainer.epochs = 20;
  config.trainer.gamma = 0.98;
  config.trainer.gae_lambda = 0.8;
  config.trainer.lr = 1e-3;
  config.trainer.total_steps = 30'000;
  return config;
}

/// The same few samples for every policy: how a fragment is made does not matter here.
RunConfig toy_config() {
  RunConfig config;
  config.trainer.algo = "appo";
  config.env.num = 8;
  config.rollout.steps = 16;
  config.trainer.batch_size = 64;
  config.trainer.total_steps = 1 << 20;
  config.model.hidden = {16};
  return config;
}

/// Two workers without processes: policies of their own that take in the newest weights every
/// `every` fragments, `queue` finished fragments that wait, and every third one is lost.
class Lagging final : public FragmentSource {
 public:
  Lagging(const RunConfig& config, const EnvFactory& make_envs, int64_t every, size_t queue)
      : every_(every), queue_size_(queue) {
    for (int64_t half = 0; half < 2; ++half) {
      Half& worker = halves_[half];
      BatchOptions options;
      options.num_envs = config.env.num / 2;
      options.autoreset = Autoreset::same_step;
      auto envs = make_envs(options);
      worker.policy = make_policy(envs->spec(), config);
      worker.normalizer = make_normalizer(envs->spec(), config, options.num_envs);
      worker.first_row = half * options.num_envs;
      worker.sampler = make_sampler(std::move(envs), *worker.policy, *worker.normalizer, config,
                                    worker.first_row);
    }
  }
  void publish(const WeightSet& weights) override { newest_ = weights; }
  std::optional<Fragment> take(double) override {
    while (queue_.size() <= queue_size_) queue_.push_back(make());
    Fragment out = std::move(queue_.front());
    queue_.pop_front();
    taken_ += out.rollout.steps * out.rollout.rows;
    if (++calls_ % 3 == 0) lost_ += lose();
    return out;
  }
  SampleCounts counts() const override {
    SampleCounts out;
    for (const Fragment& f : queue_) out.queued += f.rollout.steps * f.rollout.rows;
    out.taken = taken_;
    out.lost = {{"worker", lost_}};
    out.produced = out.taken + out.queued + lost_;
    return out;
  }
  SourceState state() const override {
    SourceState out = halves_[0].sampler->state();
    out.append(halves_[1].sampler->state());
    return out;
  }
  void restore(const SourceState& state) override {
    const int64_t rows = state.rows() / 2;
    for (int64_t half = 0; half < 2; ++half)
      halves_[half].sampler->restore(state.slice(half * rows, rows));
  }
  int64_t memory_bytes() const override { return 0; }

 private:
  struct Half {
    std::unique_ptr<Policy> policy;
    std::unique_ptr<Normalizer> normalizer;
    std::unique_ptr<Sampler> sampler;
    int64_t first_row = 0;
  };
  void adopt() {
    version_ = newest_.version;
    for (Half& worker : halves_) {
      const nn::NamedTensors into = worker.policy->named_parameters();
      WeightSet own = newest_;
      own.tensors.resize(into.size());
      assign_weights(into, own);
      assign_normalizer(*worker.normalizer, newest_);
    }
  }
  Fragment make() {
    if (made_ % every_ == 0) adopt();
    Half& worker = halves_[made_++ % 2];
    Fragment out;
    out.version = version_;
    out.first_row = worker.first_row;
    worker.sampler->collect(version_, out.episodes);
    out.rollout = worker.sampler->rollout();
    return out;
  }
  uint64_t lose() {
    const Fragment gone = make();
    return static_cast<uint64_t>(gone.rollout.steps * gone.rollout.rows);
  }

  int64_t every_;
  size_t queue_size_;
  Half halves_[2];
  std::deque<Fragment> queue_;
  WeightSet newest_;
  int64_t version_ = 0, calls_ = 0, made_ = 0;
  uint64_t taken_ = 0, lost_ = 0;
};

SourceFactory lagging(const RunConfig& config, int64_t every, size_t queue,
                      EnvFactory make_envs = {}) {
  if (!make_envs) make_envs = registry_factory(config.env);
  SourceFactory out;
  out.fragments = [=](const SourceRequest&) {
    return std::make_unique<Lagging>(config, make_envs, every, queue);
  };
  return out;
}

std::vector<float> weights(const ActorCritic& trained) {
  std::vector<float> out;
  for (auto& [name, tensor] : trained.policy().named_parameters())
    out.insert(out.end(), tensor.values<float>().begin(), tensor.values<float>().end());
  return out;
}

double mean_return(ActorCritic& trained, int64_t episodes = 20) {
  double mean = 0;
  for (double r : trained.evaluate(episodes, 500, true).returns)
    mean += r / static_cast<double>(episodes);
  return mean;
}

struct Scratch {
  fs::path path;
  Scratch() {
    char name[] = "/tmp/bessemer-appo-XXXXXX";
    path = mkdtemp(name);
  }
  ~Scratch() { fs::remove_all(path); }
};

}  // namespace

TEST_CASE("in one process, with bounds of 1, it is PPO to the bit") {
  ThreadPool pool(1);
  for (const char* kind : {"mlp", "gru"}) {
    RunConfig config = cartpole();
    config.model.kind = kind;
    config.model.recurrent_size = 8;
    config.env.normalize_obs = config.env.normalize_reward = true;
    config.trainer.epochs = 3;
    Appo appo(config, pool);
    config.trainer.algo = "ppo";
    Ppo ppo(config, pool);
    Metrics a, b;
    for (int i = 0; i < 5; ++i) {
      appo.iterate(a);
      ppo.iterate(b);
    }
    CHECK(weights(appo) == weights(ppo));
    CHECK(appo.steps() == ppo.steps());
    CHECK(a.get("train/loss") == b.get("train/loss"));
    CHECK(a.get("rollout/staleness_max") == 0);
  }
}

TEST_CASE("values and ratios computed again from the same weights are the bits of the rollout") {
  // A source that calls its experience one version older than it is: nothing may change.
  class Modest final : public FragmentSource {
   public:
    explicit Modest(const RunConfig& config, const SourceRequest& request) {
      BatchOptions options;
      options.num_envs = config.env.num;
      options.autoreset = Autoreset::same_step;
      inner_ = std::make_unique<InlineFragments>(make_sampler(
          make_batch(config.env.id, options), request.policy, request.normalizer, config));
    }
    void publish(const WeightSet& set) override { inner_->publish(set); }
    std::optional<Fragment> take(double seconds) override {
      auto out = inner_->take(seconds);
      --out->version;
      return out;
    }
    SampleCounts counts() const override { return inner_->counts(); }
    SourceState state() const override { return inner_->state(); }
    void restore(const SourceState& state) override { inner_->restore(state); }
    int64_t memory_bytes() const override { return inner_->memory_bytes(); }

   private:
    std::unique_ptr<InlineFragments> inner_;
  };
  ThreadPool pool(1);
  for (const char* kind : {"mlp", "gru"}) {
    for (const char* env : {"CartPole-v1", "Pendulum-v1"}) {
      RunConfig config = cartpole();
      config.env.id = env;
      config.model.kind = kind;
      config.model.recurrent_size = 8;
      config.env.normalize_obs = true;
      config.trainer.epochs = 2;
      config.placement.max_staleness = 1;
      SourceFactory modest;
      modest.fragments = [&](const SourceRequest& request) {
        return std::make_unique<Modest>(config, request);
      };
      Appo honest(config, pool), doubted(config, pool, {}, modest);
      Metrics a, b;
      for (int i = 0; i < 4; ++i) {
        honest.iterate(a);
        doubted.iterate(b);
      }
      CHECK(b.get("rollout/staleness_mean") == 1);
      CHECK(weights(honest) == weights(doubted));
    }
  }
}

TEST_CASE("CartPole is learned from experience that is up to four versions old") {
  ThreadPool pool(1);
  for (const char* surrogate : {"clip", "decoupled", "none"}) {
    RunConfig config = cartpole();
    config.trainer.surrogate = surrogate;
    config.trainer.epochs = std::string(surrogate) == "none" ? 1 : 10;
    config.trainer.batch_size = 64;
    config.trainer.total_steps = std::string(surrogate) == "none" ? 80'000 : 40'000;
    config.placement.max_staleness = 4;
    Appo appo(config, pool, {}, lagging(config, 2, 3));
    CHECK(mean_return(appo) < 200);
    Metrics metrics;
    double oldest = 0;
    while (appo.steps() < config.trainer.total_steps) {
      appo.iterate(metrics);
      oldest = std::max(oldest, metrics.get("rollout/staleness_max"));
    }
    INFO(surrogate);
    CHECK(oldest == 4);
    CHECK(mean_return(appo) > 400);
    const SampleBooks books = appo.books();
    CHECK(books.dropped.size() == 1);  // what the source lost
    CHECK(books.trained == appo.steps());
  }
}

TEST_CASE("what is too old is dropped and counted; the books balance") {
  ThreadPool pool(1);
  RunConfig config = toy_config();
  config.placement.max_staleness = 2;
  const EnvFactory clock = test::factory(test::clock_toy(5, true));
  Appo appo(config, pool, clock, lagging(config, 4, 2, clock));
  Metrics metrics;
  for (int i = 0; i < 20; ++i) {
    appo.iterate(metrics);
    const SampleBooks books = appo.books();
    int64_t dropped = 0;
    for (auto& [reason, count] : books.dropped) dropped += count;
    CHECK(books.produced == books.trained + dropped + books.queued);
  }
  const SampleBooks books = appo.books();
  CHECK(books.dropped.at("stale") > 0);
  CHECK(books.dropped.at("worker") > 0);
  CHECK(books.queued == 2 * 64);
  CHECK(appo.steps() == books.trained + books.dropped.at("stale"));
  CHECK(appo.updates() == 4 * books.trained / 64);  // epochs; what was dropped taught nothing
  CHECK(metrics.get("rollout/produced") == static_cast<double>(books.produced));
  CHECK(metrics.get("rollout/trained") == static_cast<double>(books.trained));
  CHECK(metrics.get("rollout/dropped/stale") == static_cast<double>(books.dropped.at("stale")));
  CHECK(metrics.get("rollout/queued") == 128);
}

TEST_CASE("going on from a checkpoint: the same bits in one process, books that go on elsewhere") {
  ThreadPool pool(1);
  RunConfig config = toy_config();
  config.env.normalize_reward = true;
  const EnvFactory clock = test::factory(test::clock_toy(5, true));
  Metrics metrics;
  Appo whole(config, pool, clock), first(config, pool, clock), second(config, pool, clock);
  for (int i = 0; i < 6; ++i) whole.iterate(metrics);
  for (int i = 0; i < 2; ++i) first.iterate(metrics);
  const Scratch scratch;
  first.save(scratch.path);
  second.load(scratch.path);
  for (int i = 0; i < 4; ++i) second.iterate(metrics);
  CHECK(weights(second) == weights(whole));
  CHECK(second.books().trained == whole.books().trained);

  config.placement.max_staleness = 2;
  Appo before(config, pool, clock, lagging(config, 4, 2, clock));
  for (int i = 0; i < 6; ++i) before.iterate(metrics);
  const Scratch other;
  before.save(other.path);
  Appo after(config, pool, clock, lagging(config, 4, 2, clock));
  after.load(other.path);
  // what was queued is collected anew, so it was not produced yet
  CHECK(after.books().produced == before.books().produced - before.books().queued);
  CHECK(after.books().dropped == before.books().dropped);
  for (int i = 0; i < 6; ++i) after.iterate(metrics);
  CHECK(after.books().trained > before.books().trained);
  CHECK(after.steps() == after.books().trained + after.books().dropped.at("stale"));
}

TEST_CASE("a failed environment's sample is dropped, a number that is not finite stops the run") {
  ThreadPool pool(1);
  test::Toy toy = test::clock_toy(5, false);
  toy.fault_at = 3;
  Appo appo(toy_config(), pool, test::factory(toy));
  Metrics metrics;
  appo.iterate(metrics);
  CHECK(appo.books().dropped.at("fault") == 1);
  CHECK(appo.books().trained == 127);

  int64_t calls = 0;
  toy.fault_at = -1;
  toy.reward = [&calls](uint32_t, int64_t, const void*) {
    return ++calls > 300 ? std::numeric_limits<float>::quiet_NaN() : 1.0f;
  };
  Appo broken(toy_config(), pool, test::factory(toy));
  broken.iterate(metrics);
  broken.iterate(metrics);
  CHECK_THROWS_WITH_AS(broken.iterate(metrics),
                       doctest::Contains("[appo] the environment's reward"), NotFiniteError);
  for (float x : weights(broken)) REQUIRE(std::isfinite(x));
  CHECK(broken.books().dropped.at("not_finite") == 128);
  CHECK(broken.steps() == 3 * 128);
}

TEST_CASE("a source that ends in the middle of an iteration leaves books that balance") {
  class Ending final : public FragmentSource {
   public:
    explicit Ending(std::unique_ptr<FragmentSource> inner) : inner_(std::move(inner)) {}
    void publish(const WeightSet& set) override { inner_->publish(set); }
    std::optional<Fragment> take(double seconds) override {
      if (taken_++ == 3) throw IoError("the workers are gone");
      return inner_->take(seconds);
    }
    SampleCounts counts() const override { return inner_->counts(); }
    SourceState state() const override { return inner_->state(); }
    void restore(const SourceState& state) override { inner_->restore(state); }
    int64_t memory_bytes() const override { return 0; }

   private:
    std::unique_ptr<FragmentSource> inner_;
    int64_t taken_ = 0;
  };
  ThreadPool pool(1);
  RunConfig config = toy_config();
  config.placement.max_staleness = 4;
  const EnvFactory clock = test::factory(test::clock_toy(5, true));
  SourceFactory sources;
  sources.fragments = [&](const SourceRequest&) {
    return std::make_unique<Ending>(std::make_unique<Lagging>(config, clock, 2, 1));
  };
  Appo appo(config, pool, clock, sources);
  Metrics metrics;
  appo.iterate(metrics);
  CHECK_THROWS_WITH_AS(appo.iterate(metrics), "the workers are gone", IoError);
  CHECK(appo.steps() == 3 * 64);
  CHECK(appo.books().trained == 3 * 64);
}

TEST_CASE("keys that contradict each other are refused") {
  ThreadPool pool(1);
  RunConfig config = cartpole();
  config.placement.mode = "processes";
  CHECK_THROWS_WITH_AS(config.check(), doctest::Contains("placement.max_staleness is 0"),
                       ValueError);
  config = cartpole();
  config.model.kind = "decoder";
  CHECK_THROWS_WITH_AS(config.check(), doctest::Contains("does not train language models"),
                       ValueError);
}
