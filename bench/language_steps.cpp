// Seconds of one whole step of SFT, DPO and GRPO by the real trainers: data from a file or from an
// environment, generation, reference model, loss, backward, optimiser. A decoder of 14 M parameters
// on random texts: prompts of 64 tokens, answers of 64; 8 texts, 8 pairs, or 2 prompts with 8
// answers each at temperature 1, beta 0.04. Beside each: the share of the limit of multiply-adds
// that the necessary products are. Peer: bench/peers/trl_steps.py.
//   bench_language_steps [--json] [--threads N] [--repeats N] [sft|dpo|grpo ...]
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "autograd/nn/decoder_io.h"
#include "bench/bench.h"
#include "bench/peak.h"
#include "bench/shapes.h"
#include "core/base/metrics.h"
#include "core/text/chat.h"
#include "envs/batch.h"
#include "trainer/language/online.h"
#include "trainer/language/pairs.h"
#include "trainer/language/sft.h"

namespace bessemer::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kTokens = 64;  // of a prompt, and of an answer
constexpr int64_t kTexts = 8, kGroups = 2, kSize = 8, kLines = 64;

/// A vocabulary in which a space and three letters are one token, as many of them as fit.
struct Vocabulary {
  std::vector<std::string> words;
  std::string json;

  Vocabulary() {
    const std::string letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    Json root = Json::parse(Tokenizer::bytes(chat_special_tokens()).json());
    Json &vocab = root["model"]["vocab"], &merges = root["model"]["merges"];
    int64_t next = static_cast<int64_t>(vocab.size() + root["added_tokens"].size());
    std::vector<std::string> last = {""};
    for (int length = 1; length <= 3; ++length) {
      std::vector<std::string> longer;
      for (const std::string& begin : last) {
        for (const char letter : letters) {
          if (next == decoder_14m().vocab_size) break;
          const std::string left = "Ġ" + begin, right(1, letter);  // Ġ writes a space
          vocab[left + right] = next++;
          merges.push_back({left, right});
          longer.push_back(begin + letter);
        }
      }
      last = std::move(longer);
    }
    words = std::move(last);
    json = root.dump();
  }
};

std::string random_text(Pcg64& rng, int64_t count) {
  static const Vocabulary vocabulary;
  std::string out;
  for (int64_t i = 0; i < count; ++i)
    out += cat(' ', vocabulary.words[static_cast<size_t>(
                        rng.integers(0, static_cast<int64_t>(vocabulary.words.size())))]);
  return out;
}

/// Asks with random words; a reply is worth its number of different ones.
struct WordsEnv {
  using Action = std::string_view;
  static Spec spec() {
    Spec s;
    s.id = "BenchWords-v0";
    const Channel text{
        .kind = SpaceKind::text, .dtype = Dtype::u8, .ragged = true, .max_length = 1024};
    s.observation = {text};
    s.observation[0].name = "prompt";
    s.action = {text};
    s.action[0].name = "reply";
    s.options = {{.name = "words",
                  .type = Option::Type::integer,
                  .fallback = "64",
                  .min = 1,
                  .doc = "of a question"}};
    return s;
  }
  explicit WordsEnv(const Settings& o) : words_(o.integer("words")) {}
  void reset(Pcg64& rng, const Settings&) { question_ = random_text(rng, words_); }
  StepResult step(std::string_view reply, Pcg64&) {
    std::set<std::string_view> seen;
    for (size_t i = 0; i < reply.size(); i += 4) seen.insert(reply.substr(i, 4));
    return {.reward = static_cast<float>(seen.size()), .terminated = true};
  }
  void observe(RowOut& out) const { out.text(0, question_); }
  void state(StateIo& io) { io(question_); }

 private:
  int64_t words_;
  std::string question_;
};

/// A folder with the weights to start from and the files to learn from; gone at the end.
class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / cat("bessemer-steps-", ::getpid())) {
    fs::create_directories(path_);
    nn::save_decoder(path_, nn::Decoder(decoder_14m(), 1));
    std::ofstream(path_ / "tokenizer.json") << Vocabulary().json;
    Pcg64 rng(7);
    std::ofstream texts(path_ / "texts.jsonl"), pairs(path_ / "pairs.jsonl");
    for (int64_t i = 0; i < kLines; ++i) {  // the end token is the last one of an answer
      texts << Json{{"prompt", random_text(rng, kTokens)},
                    {"completion", random_text(rng, kTokens - 1)}}
            << '\n';
      pairs << Json{{"prompt", random_text(rng, kTokens)},
                    {"chosen", random_text(rng, kTokens - 1)},
                    {"rejected", random_text(rng, kTokens - 1)}}
            << '\n';
    }
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

RunConfig settings(const std::string& algo, const Folder& folder, const std::string& dtype) {
  RunConfig config;
  config.start_from("decoder", algo);
  config.init.folder = folder.path().string();
  config.model.decoder.dtype = dtype;
  config.trainer.lr = 1e-5;
  config.trainer.batch_size = algo == "grpo" ? kGroups * kSize : kTexts;
  if (algo == "grpo") {
    config.env.id = "BenchWords-v0";
    config.rollout.language.groups = kGroups;
    config.rollout.language.size = kSize;
    config.rollout.language.max_tokens = kTokens;
    config.trainer.language.kl_coef = 0.04;
    config.trainer.language.aggregation = "sequence_mean";
  } else {
    config.data.file = (folder.path() / (algo == "sft" ? "texts.jsonl" : "pairs.jsonl")).string();
  }
  config.check();
  return config;
}

EnvFactory words_env(const Folder& folder) {
  // As many words as fill a prompt of the size wanted, once the chat template is around them.
  const Tokenizer tokenizer = Tokenizer::load(folder.path() / "tokenizer.json");
  Chat empty(tokenizer);
  empty.add(Role::user, "");
  empty.open_assistant();
  const int64_t words = kTokens - empty.ledger().size();
  return [words](const BatchOptions& wanted) -> std::unique_ptr<EnvBatch> {
    BatchOptions options = wanted;
    options.options = {{"words", std::to_string(words)}};
    static const Spec spec = WordsEnv::spec();
    return std::make_unique<Batch<WordsEnv>>(spec, options);
  };
}

/// Floating-point operations of the products that a step cannot do without, where a prompt that
/// answers share is computed once: a forward pass is 2 a weight and token and attention's causal
/// half, a backward pass twice that; the head has rows for the answers' tokens only.
double necessary(const std::string& algo) {
  const nn::DecoderConfig c = decoder_14m().checked();
  const auto texts = static_cast<double>(algo == "grpo" ? kGroups : kTexts);
  const double answers = algo == "grpo" ? kSize : algo == "dpo" ? 2 : 1;
  const double prompt = kTokens, rest = kTokens - 1;  // nothing follows the last token
  const auto width = static_cast<double>(c.hidden_size),
             layers = static_cast<double>(c.num_hidden_layers);
  const double head = width * static_cast<double>(c.vocab_size);
  const double body = static_cast<double>(c.parameters()) - head;
  const double pairs =
      prompt * (prompt + 1) / 2 + answers * (rest * prompt + rest * (rest + 1) / 2);
  const double forward = texts * (2 * body * (prompt + answers * rest) +
                                  2 * head * answers * kTokens + 4 * layers * width * pairs);
  // The policy's forward and backward pass; the reference's forward pass; generation.
  return forward * (algo == "sft" ? 3 : algo == "dpo" ? 4 : 5);
}

std::unique_ptr<LanguageTrainer> make(const RunConfig& config, ThreadPool& pool,
                                      const Folder& folder) {
  if (config.trainer.algo == "sft") return std::make_unique<Sft>(config, pool);
  if (config.trainer.algo == "dpo") return std::make_unique<Dpo>(config, pool);
  return std::make_unique<Grpo>(config, pool, words_env(folder));
}

/// Median seconds of a step, the first left out. Of GRPO's, only steps in which no answer ended
/// before its last token: the peer is told to never end.
double step_seconds(LanguageTrainer& trainer, int repeats) {
  std::vector<double> seconds;
  Metrics metrics;
  trainer.iterate(metrics);
  while (seconds.size() < static_cast<size_t>(repeats)) {
    metrics.clear();
    const double start = seconds_now();
    trainer.iterate(metrics);
    const double spent = seconds_now() - start;
    trainer.take_completions();
    if (metrics.has("completions/min_length") && metrics.get("completions/min_length") < kTokens)
      continue;
    seconds.push_back(spent);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

void steps(Report& report, const std::vector<std::string>& algorithms, int threads, int repeats) {
  std::vector<Subject> limits = peak_subjects(cpu::kernels(), threads);
  measure(limits, repeats, 0.05);
  for (const Subject& limit : limits) report.figure(limit.name, limit.rate() / 1e9, "GFLOP/s");
  const Folder folder;
  ThreadPool pool(threads);
  for (const std::string& algo : algorithms) {
    std::string upper = algo;
    for (char& c : upper) c = static_cast<char>(std::toupper(c));
    for (const std::string dtype : {"f32", "bf16"}) {
      const auto trainer = make(settings(algo, folder, dtype), pool, folder);
      const double seconds = step_seconds(*trainer, repeats);
      report.figure(cat(upper, " step, 14 M, ", dtype == "f32" ? "fp32" : "bf16"), seconds, "s",
                    "fp32 limit", necessary(algo) / seconds / limits.back().rate());
    }
  }
}

}  // namespace
}  // namespace bessemer::bench

int main(int argc, char** argv) {
  using namespace bessemer;
  bench::Report report(argc, argv);
  int threads = 1, repeats = 5;
  std::vector<std::string> algorithms;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--threads" && i + 1 < argc)
      threads = std::stoi(argv[++i]);
    else if (argument == "--repeats" && i + 1 < argc)
      repeats = std::stoi(argv[++i]);
    else if (argument == "sft" || argument == "dpo" || argument == "grpo")
      algorithms.push_back(argument);
  }
  if (algorithms.empty()) algorithms = {"sft", "dpo", "grpo"};
  cpu::set_threads(threads);
  bench::steps(report, algorithms, threads, repeats);
}
