// LunarLander-v3: our batch against a bare loop over Box2D of the very same worlds. The bare loop
// replays what a recording says (impulses at points, worlds built anew), so all it does is Box2D:
// no random draws while flying, no engines, no observations, rewards, checks or flags.
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bench/bench.h"
#include "core/base/rng.h"
#include "core/base/thread_pool.h"
#include "envs/env.h"
#include "envs/sim/lunar_world.h"

namespace bessemer {
namespace {

constexpr uint64_t kSeed = 1;

/// What a world does in one step: begin anew from a generator's state, or fly under impulses.
struct Move {
  struct Push {
    b2Vec2 impulse, point;
  };
  std::array<Push, 2> push;
  int pushes = 0;
  int start = -1;  // index into Recording::starts
};

struct Recording {
  int64_t instances, steps;
  std::vector<int64_t> actions;  // [steps, instances]
  std::vector<Move> moves;       // [steps + 1, instances]; the first row begins every world
  std::vector<Pcg64::State> starts;
  std::vector<b2Vec2> last;  // where every hull ends
};

void fly(LunarWorld& world, const Move& move) {
  for (int k = 0; k < move.pushes; ++k) {
    world.hull->ApplyLinearImpulse(move.push[k].impulse, move.push[k].point, true);
  }
  world.step();
}

Recording record(int64_t instances, int64_t steps) {
  Recording r{.instances = instances, .steps = steps};
  r.actions.resize(steps * instances);
  r.moves.resize((steps + 1) * instances);
  for (int64_t i = 0; i < instances; ++i) {
    Pcg64 rng(kSeed + static_cast<uint64_t>(i));
    LunarWorld world;
    bool ended = true;
    int64_t length = 0;
    for (int64_t t = 0; t <= steps; ++t) {
      Move& move = r.moves[t * instances + i];
      const auto note = [&](const b2Vec2& impulse, const b2Vec2& point) {
        move.push[move.pushes++] = {impulse, point};
      };
      const auto action = static_cast<int64_t>(
          philox(11, static_cast<uint64_t>(i), static_cast<uint64_t>(t)).word[0] % 4);
      if (t > 0) r.actions[(t - 1) * instances + i] = action;
      LunarThrust thrust;
      if (ended) {  // what next_step does in place of a step
        move.start = static_cast<int>(r.starts.size());
        r.starts.push_back(rng.state());
        world.build({}, rng);
        length = 0;
      } else {
        if (action == 2) thrust.main = 1;
        if (action == 1 || action == 3) thrust = {0, 1, static_cast<double>(action - 2)};
        ++length;
      }
      world.fire(thrust, rng, note);
      world.step();
      const double x =
          (world.hull->GetPosition().x - LunarWorld::kWidth / 2) / (LunarWorld::kWidth / 2);
      ended = length > 0 &&
              (world.crashed || std::fabs(x) >= 1 || !world.hull->IsAwake() || length >= 1000);
    }
    r.last.push_back(world.hull->GetPosition());
  }
  return r;
}

class Bare {
 public:
  Bare(const Recording& recording, ThreadPool& pool)
      : recording_(recording),
        pool_(pool),
        worlds_(std::make_unique<LunarWorld[]>(recording.instances)) {}

  /// Each thread takes its share of the worlds through all steps and meets the others at the end
  /// only.
  void run() {
    const int64_t shares = std::min<int64_t>(pool_.threads(), recording_.instances);
    pool_.run(shares, [&](int64_t share) {
      const int64_t n = recording_.instances, low = n * share / shares,
                    high = n * (share + 1) / shares;
      for (int64_t t = 0; t <= recording_.steps; ++t) {
        for (int64_t i = low; i < high; ++i) {
          const Move& move = recording_.moves[t * n + i];
          if (move.start >= 0) {
            Pcg64 rng;
            rng.set_state(recording_.starts[move.start]);
            worlds_[i].build({}, rng);
          }
          fly(worlds_[i], move);
        }
      }
    });
  }
  b2Vec2 position(int64_t i) const { return worlds_[i].hull->GetPosition(); }

 private:
  const Recording& recording_;
  ThreadPool& pool_;
  std::unique_ptr<LunarWorld[]> worlds_;
};

class Ours {
 public:
  Ours(const Recording& recording, ThreadPool& pool)
      : recording_(recording),
        batch_(make_batch("LunarLander-v3", {.num_envs = recording.instances, .pool = &pool})),
        obs(recording.instances * 8),
        reward_(recording.instances),
        flags_(recording.instances * 2) {
    out_.obs = {obs.data()};
    out_.reward = reward_.data();
    out_.terminated = flags_.data();
    out_.truncated = flags_.data() + recording.instances;
    for (int64_t i = 0; i < recording.instances; ++i)
      seeds_.push_back(kSeed + static_cast<uint64_t>(i));
  }
  void run() {
    batch_->reset(seeds_, {}, {}, out_);
    for (int64_t t = 0; t < recording_.steps; ++t) {
      batch_->step({.data = recording_.actions.data() + t * recording_.instances}, out_);
    }
  }

 private:
  const Recording& recording_;
  std::unique_ptr<EnvBatch> batch_;
  StepBuffers out_;
  std::vector<uint64_t> seeds_;

 public:
  std::vector<float> obs;

 private:
  std::vector<float> reward_;
  std::vector<uint8_t> flags_;
};

int run(int argc, char** argv) {
  bench::Report report(argc, argv);
  for (const int64_t instances : {int64_t{1}, int64_t{64}}) {
    const Recording recording = record(instances, instances == 1 ? 3000 : 120);
    for (const int threads : {1, 2}) {
      if (instances == 1 && threads == 2) continue;
      ThreadPool pool(threads);
      Bare bare(recording, pool);
      Ours ours(recording, pool);
      const auto work = static_cast<double>(instances * (recording.steps + 1));
      std::vector<bench::Subject> subjects;
      subjects.push_back({.name = "bare", .body = [&] { bare.run(); }, .work = work});
      subjects.push_back({.name = "ours", .body = [&] { ours.run(); }, .work = work});
      bench::measure(subjects, 15, 0.1);
      for (int64_t i = 0; i < instances;
           ++i) {  // the figures mean something only for the same worlds
        const auto x = static_cast<float>((recording.last[i].x - 10.0) / 10.0);
        if (bare.position(i).x != recording.last[i].x || ours.obs[i * 8] != x) {
          std::fprintf(stderr, "world %d of %d differs between the loops\n", static_cast<int>(i),
                       static_cast<int>(instances));
          return 1;
        }
      }
      const std::string name = "LunarLander-v3 × " + std::to_string(instances) + ", " +
                               std::to_string(threads) + (threads == 1 ? " thread" : " threads");
      report.figure(name + ", bare Box2D", subjects[0].rate(), "steps/s");
      report.figure(name + ", batch", subjects[1].rate(), "steps/s", "bare Box2D",
                    subjects[1].rate() / subjects[0].rate());
    }
  }
  return 0;
}

}  // namespace
}  // namespace bessemer

int main(int argc, char** argv) { return bessemer::run(argc, argv); }
