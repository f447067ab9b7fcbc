#include "trainer/config.h"

#include <doctest/doctest.h>
#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/base/error.h"

using namespace bessemer;

namespace {

/// Collects every key as "section.key" with its doc line.
struct Collect : FieldVisitor {
  std::vector<std::pair<std::string, std::string>> keys;
  std::string section;

  void add(std::string_view name, const FieldInfo& info) {
    keys.emplace_back(cat(section, name), std::string(info.doc));
  }
  void field(std::string_view n, bool&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, int64_t&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, double&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, std::string&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, std::vector<int64_t>&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, std::optional<double>&, const FieldInfo& i) override { add(n, i); }
  void field(std::string_view n, std::optional<int64_t>&, const FieldInfo& i) override {
    add(n, i);
  }
  void field(std::string_view n, std::optional<std::string>&, const FieldInfo& i) override {
    add(n, i);
  }
  void field(std::string_view n, std::vector<std::pair<std::string, std::string>>&,
             const FieldInfo& i) override {
    add(n, i);
  }
  void field(std::string_view n, Source&, const FieldInfo& i) override { add(n, i); }
  bool begin(std::string_view n, const FieldInfo&) override {
    section = cat(n, ".");
    return true;
  }
  void end() override { section.clear(); }
};

}  // namespace

TEST_CASE("every key has a doc line; docs/ppo.md names only keys that exist") {
  Collect collect;
  RunConfig().fields(collect);
  CHECK(collect.keys.size() > 50);
  for (auto& [key, doc] : collect.keys) CHECK_MESSAGE(!doc.empty(), key);
  std::ifstream file(SOURCE_ROOT "/docs/ppo.md");
  std::ostringstream stream;
  stream << file.rdbuf();
  const std::string text = stream.str();
  int named = 0;
  for (const char* section : {"env.", "model.", "rollout.", "trainer."}) {
    for (size_t at = text.find(cat("`", section)); at != std::string::npos;
         at = text.find(cat("`", section), at + 1)) {
      const std::string key = text.substr(at + 1, text.find_first_of("`:", at + 1) - at - 1);
      const bool known = std::any_of(collect.keys.begin(), collect.keys.end(),
                                     [&](const auto& entry) { return entry.first == key; });
      CHECK_MESSAGE(known, key);
      ++named;
    }
  }
  CHECK(named > 40);
}

TEST_CASE("keys that contradict are refused by name") {
  RunConfig config;
  config.check();
  config.trainer.batch_size = 1 << 20;
  CHECK_THROWS_WITH_AS(config.check(),
                       "trainer.batch_size is 1048576, but a rollout has only 1024 samples "
                       "(rollout.steps * env.num)",
                       ValueError);
  config.trainer.batch_size = 64;
  config.model.kind = "gru";
  CHECK_THROWS_AS(config.check(), ValueError);
}

TEST_CASE("the hash follows what a resumed run may not change, and nothing else") {
  RunConfig a, b;
  CHECK(a.hash().size() == 16);
  b.eval.every = 1000;
  b.placement.threads = 3;
  b.trainer.total_steps *= 2;
  CHECK(a.hash() == b.hash());
  b.trainer.lr = 1e-3;
  CHECK(a.hash() != b.hash());
  a.trainer.lr_schedule = b.trainer.lr_schedule = "linear";
  a.trainer.lr = b.trainer.lr;
  CHECK(a.hash() != b.hash());  // with a schedule, total_steps decides
}

TEST_CASE("keys belong to algorithms") {
  RunConfig config;
  CHECK(config.uses() == kUsesControl);
  config.start_from("decoder", "ppo");
  CHECK(config.uses() == kUsesPpo);
  CHECK(config.trainer.gamma == 1);
  CHECK(config.trainer.language.kl_in == "reward");
  RunConfig grpo;
  grpo.start_from("", "grpo");
  CHECK(grpo.model.kind == "decoder");
  grpo.check();
  grpo.trainer.batch_size = 8;
  grpo.rollout.language.size = 1;
  CHECK_THROWS_WITH_AS(grpo.check(), doctest::Contains("rollout.size is 1"), ValueError);
  grpo.rollout.language.size = 6;
  CHECK_THROWS_WITH_AS(grpo.check(), doctest::Contains("whole groups"), ValueError);
  RunConfig sft;
  sft.start_from("mlp", "sft");
  CHECK_THROWS_WITH_AS(sft.check(), doctest::Contains("model.kind must be decoder"), ValueError);
  CHECK(uses_text(kUsesPairs) == "reward, dpo");
  CHECK(uses_text(kUsedByAll).empty());
}
