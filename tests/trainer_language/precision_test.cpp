// model.dtype: bf16 and model.checkpoint: true through every trainer.
#include <doctest/doctest.h>

#include "tests/forge/scratch.h"
#include "tests/trainer_language/make.h"

using namespace bessemer;

namespace {

constexpr const char* kAlgos[] = {"sft", "reward", "dpo", "grpo", "ppo"};

RunConfig toy_in(const char* algo, const char* dtype, bool again = false) {
  RunConfig config = toy_config(algo);
  config.model.decoder.dtype = dtype;
  config.model.decoder.checkpoint = again;
  return config;
}

/// The decoder's weights as bytes: a critic belongs to its own run.
std::string decoder_of(const LanguageTrainer& trainer) {
  std::string out;
  for (auto& [name, tensor] : trainer.model().decoder->named_parameters())
    out.append(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.numel()) * 4);
  return out;
}

/// What an algorithm gets better at: the mean of `name` over the last iterations.
double learned(const RunConfig& config, const char* name, int64_t iterations, int64_t last) {
  const auto trainer = make_toy(config);
  double sum = 0;
  for (int64_t i = 0; i < iterations; ++i) {
    Metrics metrics;
    trainer->iterate(metrics);
    if (i >= iterations - last) sum += metrics.get(name);
  }
  return sum / static_cast<double>(last);
}

}  // namespace

TEST_CASE("layers that are computed again on the way back give the same bits") {
  for (const char* algo : kAlgos) {
    for (const char* dtype : {"f32", "bf16"}) {
      CAPTURE(algo);
      CAPTURE(dtype);
      const auto kept = make_toy(toy_in(algo, dtype, false));
      const auto again = make_toy(toy_in(algo, dtype, true));
      const Metrics a = run_toy(*kept, 2), b = run_toy(*again, 2);
      const bool same = weights_of(*kept) == weights_of(*again);
      CHECK(same);
      CHECK(a.get("loss") == b.get("loss"));
      CHECK(a.get("grad_norm") == b.get("grad_norm"));
    }
  }
}

TEST_CASE("bfloat16 learns as well as float32") {
  struct Bar {
    const char *algo, *metric;
    int64_t iterations, last;
    double gain, slack;  // at least learned; how far bfloat16 may stay behind
  };
  constexpr Bar bars[] = {{"sft", "mean_token_accuracy", 40, 4, 0.5, 0.05},
                          {"reward", "margin", 25, 4, 0.5, 0.2},
                          {"dpo", "rewards/accuracies", 25, 4, 0.5, 0.08},
                          {"grpo", "reward", 30, 6, 0.15, 0.1},
                          {"ppo", "reward", 22, 6, 0.2, 0.1}};
  for (const Bar& bar : bars) {
    CAPTURE(bar.algo);
    RunConfig wide = toy_in(bar.algo, "f32"), narrow = toy_in(bar.algo, "bf16");
    wide.trainer.language.kl_coef = narrow.trainer.language.kl_coef =
        wide.uses() == kUsesPpo ? 0.001 : 0;
    const double start = learned(narrow, bar.metric, 1, 1);
    const double a = learned(wide, bar.metric, bar.iterations, bar.last);
    const double b = learned(narrow, bar.metric, bar.iterations, bar.last);
    CAPTURE(start);
    CHECK(a > start + bar.gain);
    CHECK(b > start + bar.gain);
    CHECK(b >= a - bar.slack);
  }
}

TEST_CASE("bfloat16: sampling and training agree in bits") {
  for (const char* algo : {"grpo", "ppo"}) {
    for (const bool again : {false, true}) {
      CAPTURE(algo);
      RunConfig config = toy_in(algo, "bf16", again);
      config.rollout.language.temperature = 0.7;
      const auto trainer = make_toy(config, 2);
      for (int i = 0; i < 3; ++i) {
        const Metrics metrics = run_toy(*trainer, 1);
        REQUIRE(metrics.get("mismatch_kl") == 0);
        REQUIRE(metrics.get("sampling/sampling_logp_difference/max") == 0);
        REQUIRE(metrics.get("sampling/importance_sampling_ratio/min") == 1);
        REQUIRE(metrics.get("sampling/importance_sampling_ratio/max") == 1);
      }
    }
  }
}

TEST_CASE("bfloat16 runs go on with the same bits, and their folders load back") {
  for (const char* algo : kAlgos) {
    CAPTURE(algo);
    const Scratch scratch;
    RunConfig config = toy_in(algo, "bf16", true);
    const auto whole = make_toy(config);
    run_toy(*whole, 3);
    std::string halfway;
    {
      const auto half = make_toy(config);
      run_toy(*half, 2);
      half->save(scratch.path);
      halfway = decoder_of(*half);
    }
    const auto rest = make_toy(config);
    rest->load(scratch.path);
    run_toy(*rest, 1);
    CHECK(rest->steps() == whole->steps());
    bool same = weights_of(*rest) == weights_of(*whole);
    CHECK(same);

    // Weights are float32 in the folder: another run may start from it in either dtype.
    for (const char* dtype : {"f32", "bf16"}) {
      RunConfig next = toy_in(algo, dtype);
      next.init.folder = scratch.path.string();
      const auto started = make_toy(next);
      same = decoder_of(*started) == halfway;
      CHECK(same);
      CHECK(started->model().decoder->config().compute ==
            (dtype == std::string("f32") ? Dtype::f32 : Dtype::bf16));
    }
  }
}
