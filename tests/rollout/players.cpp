// Workers that play conversations, as threads of this process: the same bits as one generator,
// whatever happens to them.
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <future>
#include <thread>
#include <utility>

#include "core/wire/client.h"
#include "envs/batch.h"
#include "rollout/episode_hub.h"
#include "rollout/episode_message.h"
#include "rollout/episode_worker.h"

using namespace bessemer;
using wire::Code;
using wire::Message;

namespace {

/// Asks three times.
struct Echo {
  using Action = std::string_view;

  static Spec spec() {
    Spec s;
    s.id = "TestEcho-v0";
    const Channel text{
        .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true, .max_length = 64};
    s.observation = {text};
    s.observation[0].name = "question";
    s.action = {text};
    s.action[0].name = "reply";
    return s;
  }
  explicit Echo(const Settings&) {}
  void reset(Pcg64& rng, const Settings&) {
    item_ = rng.integers(0, 100);
    turn_ = 0;
  }
  StepResult step(std::string_view reply, Pcg64&) {
    return {.reward = static_cast<double>(reply.size() % 7), .terminated = ++turn_ == 3};
  }
  void observe(RowOut& out) const { out.text(0, cat("q", item_, '.', turn_)); }
  void state(StateIo& io) { io(item_, turn_); }

 private:
  int64_t item_ = 0, turn_ = 0;
};

EnvFactory echo() {
  return [](const BatchOptions& options) -> std::unique_ptr<EnvBatch> {
    static const Spec spec = Echo::spec();
    return std::make_unique<Batch<Echo>>(spec, options);
  };
}

Tokenizer bytes() { return Tokenizer::bytes(chat_special_tokens()); }

std::unique_ptr<nn::Decoder> decoder(uint64_t seed) {
  nn::DecoderConfig c;
  c.vocab_size = bytes().size();
  c.hidden_size = 16;
  c.intermediate_size = 24;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 2;
  c.num_key_value_heads = 1;
  c.max_position_embeddings = 256;
  return std::make_unique<nn::Decoder>(c, seed);
}

PlayOptions some_play(uint64_t first = 0) {
  PlayOptions play;
  play.seeds = {5, 6, 7, 8, 9};
  play.size = 2;
  play.first_sequence = first;
  play.sampling.max_tokens = 5;
  return play;
}

/// What a generator of this process plays.
std::vector<Episode> alone(const nn::Decoder& decoder, uint64_t version, const PlayOptions& play) {
  EpisodeEnvs envs(echo(), nullptr);
  Generator generator(decoder, {});
  generator.set_version(version);
  return play_episodes(envs, generator, bytes(), play);
}

/// All that an episode holds, as it travels.
std::string words(const std::vector<Episode>& episodes) {
  const TokenSamples samples = token_samples(episodes);
  std::string out;
  TokenSamples::each_column(samples, [&](const char* name, const auto& column) {
    out += cat(name, column.size(), ':');
    out.append(reinterpret_cast<const char*>(column.data()), column.size() * sizeof(column[0]));
  });
  return out;
}

std::unique_ptr<TaskWorker> player() {
  EpisodeWorkerParts parts;
  parts.tokenizer = std::make_unique<Tokenizer>(bytes());
  parts.decoder = decoder(99);  // other weights than the hub sends
  parts.make_envs = echo();
  return episode_worker(std::move(parts));
}

/// The workers of a hub: threads that can be replaced.
class Crew {
 public:
  explicit Crew(
      EpisodeHub& hub, TaskWorkerFactory factory = [](const wire::Map&) { return player(); })
      : hub_(hub), factory_(std::move(factory)) {
    for (const std::string& name : hub.names()) start(name);
  }
  ~Crew() {
    hub_.stop();
    for (std::thread& thread : threads_) thread.join();
  }
  void start(const std::string& name) {
    threads_.emplace_back([this, name] {
      try {
        run_tasks(hub_.address(), name, hub_.secret(), factory_);
      } catch (const wire::WireError&) {
      }
    });
  }
  void replace(const std::string& name) {
    hub_.lost(name);
    start(name);
  }

 private:
  EpisodeHub& hub_;
  TaskWorkerFactory factory_;
  std::vector<std::thread> threads_;
};

TaskHubOptions workers(int64_t count) {
  TaskHubOptions options;
  options.workers = count;
  return options;
}

}  // namespace

TEST_CASE("conversations: any number of workers, replaced or not, has the bits of one generator") {
  const auto own = decoder(1);
  for (const int64_t count : {1, 2, 3}) {
    CAPTURE(count);
    EpisodeHub hub(workers(count), {}, *own);
    Crew crew(hub);
    for (uint64_t round = 0; round < 4; ++round) {
      hub.publish(static_cast<int64_t>(round));
      hub.submit(some_play(100 * round));
      hub.submit(some_play(100 * round + 50));  // one ahead
      if (round % 2) crew.replace(cat("worker-", count - 1));
      bool same = words(hub.take()) == words(alone(*own, round, some_play(100 * round)));
      CHECK(same);
      same = words(hub.take()) == words(alone(*own, round, some_play(100 * round + 50)));
      CHECK(same);
      for (const Tensor& w : own->parameters()) {
        for (float& x : w.values<float>()) x *= 1.05f;
        w.bump();
      }
    }
  }
}

TEST_CASE("conversations: rounds ahead are kept, restored and forgotten") {
  const auto own = decoder(1);
  std::vector<std::vector<Episode>> kept;
  {
    EpisodeHub hub(workers(2), {}, *own);
    Crew crew(hub);
    hub.publish(3);
    hub.submit(some_play(0));
    hub.submit(some_play(50));
    kept = hub.ahead();
    REQUIRE(kept.size() == 2);
  }
  EpisodeHub hub(workers(1), {}, *own);
  hub.restore(kept);
  bool same = words(hub.take()) == words(alone(*own, 3, some_play(0)));
  CHECK(same);
  hub.publish(4);
  hub.restore({});
  hub.submit(some_play(7));
  Crew crew(hub);
  same = words(hub.take()) == words(alone(*own, 4, some_play(7)));
  CHECK(same);
}

TEST_CASE("conversations: a worker that fails what nobody wants any more acts with the weights") {
  std::promise<void> begun, forgotten;
  std::atomic<int> tasks{0};
  /// Fails its first task, once the hub has forgotten it.
  struct Failing final : TaskWorker {
    std::unique_ptr<TaskWorker> inner = player();
    std::promise<void>& begun;
    std::shared_future<void> forgotten;
    std::atomic<int>& tasks;
    Failing(std::promise<void>& b, std::shared_future<void> f, std::atomic<int>& t)
        : begun(b), forgotten(std::move(f)), tasks(t) {}
    void assign(const WeightSet& set) override { inner->assign(set); }
    void perform(const Message& task, Message& report) override {
      if (tasks++ == 0) {
        begun.set_value();
        forgotten.wait();
        fail<ValueError>("the first one fails");
      }
      inner->perform(task, report);
    }
  };
  const std::shared_future<void> waits = forgotten.get_future().share();
  const auto own = decoder(1);
  EpisodeHub hub(workers(1), {}, *own);
  Crew crew(hub, [&](const wire::Map&) { return std::make_unique<Failing>(begun, waits, tasks); });
  hub.publish(1);
  hub.submit(some_play(0));
  begun.get_future().wait();
  hub.restore({});
  hub.submit(some_play(50));
  forgotten.set_value();
  const bool same = words(hub.take()) == words(alone(*own, 1, some_play(50)));
  CHECK(same);
}

TEST_CASE("conversations: what workers cannot play is the submitter's error") {
  const auto own = decoder(1);
  EpisodeHub hub(workers(1), {}, *own);
  Crew crew(hub);
  hub.publish(0);
  PlayOptions play = some_play();
  play.sampling.stop = {"stop"};
  CHECK_THROWS_WITH_AS(hub.submit(play), doctest::Contains("stop strings"), ValueError);
  play = some_play();
  play.seeds.clear();
  CHECK_THROWS_AS(hub.submit(play), ValueError);
  hub.submit(some_play());
  CHECK(hub.take().size() == 10);
}

TEST_CASE("conversations: other sequences or versions than asked for are refused") {
  const auto own = decoder(1);
  EpisodeHub hub(workers(1), {}, *own);
  hub.publish(4);
  PlayOptions play = some_play();
  play.seeds.resize(1);
  hub.submit(play);
  {
    Message hello;
    hello.fields = {{"worker", "worker-0"}, {"secret", hub.secret()}};
    wire::Client client(hub.address(), hello);
    const Message task = client.call(Message("pull"));
    const auto answer = [&](const std::vector<Episode>& episodes) {
      Message message("samples");
      message.fields = {{"task", task.fields.count("task")},
                        {"weights_hash", task.fields.count("weights_hash")}};
      const TokenSamples samples = token_samples(episodes);
      write_tokens(message, samples);
      try {
        client.call(std::move(message));
      } catch (const wire::WireError& error) {
        return error.code();
      }
      return Code::internal;
    };
    std::vector<Episode> episodes = alone(*own, 4, play);
    CHECK(answer(alone(*own, 3, play)) == Code::malformed);
    CHECK(answer({episodes[0]}) == Code::malformed);
    CHECK(answer({episodes[1], episodes[0]}) == Code::malformed);
    CHECK(answer({}) == Code::malformed);
    Message huge = task;
    huge.fields.set("size", int64_t{1} << 62);
    CHECK_THROWS_WITH_AS((void)read_play(huge), doctest::Contains("groups of"), wire::WireError);
  }
  Crew crew(hub);  // an honest one takes the place
  const bool same = words(hub.take()) == words(alone(*own, 4, play));
  CHECK(same);
}

TEST_CASE("conversations: after an error nothing of a play goes on in the generator") {
  const auto own = decoder(1);
  EpisodeEnvs envs(echo(), nullptr);
  Generator generator(*own, {});
  const Tokenizer tokenizer = bytes();
  const Tensor weight = own->parameters()[0];
  const float good = std::exchange(weight.data<float>()[0], NAN);
  weight.bump();
  CHECK_THROWS_AS((void)play_episodes(envs, generator, tokenizer, some_play()), NotFiniteError);
  weight.data<float>()[0] = good;
  weight.bump();
  const std::vector<Episode> episodes = play_episodes(envs, generator, tokenizer, some_play(3));
  const bool same = words(episodes) == words(alone(*own, 0, some_play(3)));
  CHECK(same);
  CHECK(generator.cache().free_pages() == generator.cache().pages());
}
