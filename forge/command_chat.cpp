// Talking to a trained model: turns from the terminal or a pipe, answers as they are sampled.
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>

#include "autograd/nn/decoder_io.h"
#include "core/text/chat.h"
#include "core/text/utf8.h"
#include "forge/commands.h"
#include "forge/interrupt.h"
#include "rollout/generate.h"
#include "trainer/language/model.h"

namespace bessemer {

namespace {

double number_flag(const Arguments& arguments, std::string_view flag, double fallback, double least,
                   double most) {
  const std::string* text = arguments.find(flag);
  if (!text) return fallback;
  double value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  BESSEMER_CHECK(
      error == std::errc() && end == text->data() + text->size() && value >= least && value <= most,
      UsageError, flag, " takes a number from ", least, " to ", most, ", got '", *text, "'");
  return value;
}

}  // namespace

int command_chat(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 1, UsageError, "which run folder?");
  const std::filesystem::path folder = weights_folder(arguments.positional[0]);
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.json");
  const nn::LoadedDecoder model = nn::load_decoder(folder);
  SamplingOptions sampling;
  sampling.temperature = number_flag(arguments, "--temperature", 0, 0, 100);
  sampling.top_p = number_flag(arguments, "--top-p", 1, 1e-6, 1);
  sampling.top_k = arguments.integer("--top-k", 0, 0);
  sampling.max_tokens = arguments.integer("--max-tokens", 256, 1);
  const bool people = ::isatty(STDIN_FILENO) == 1;

  GeneratorOptions options;
  options.max_batch = 1;
  options.seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));
  Generator generator(*model.decoder, options);
  Chat chat(tokenizer);
  sampling.stop_ids = {chat.end_token()};
  if (const std::string* system = arguments.find("--system")) chat.add(Role::system, *system);
  if (people) {
    std::fprintf(stderr, "%s: %lld parameters, context %lld; an empty line or Ctrl-D ends\n",
                 folder.string().c_str(),
                 static_cast<long long>(model.decoder->config().parameters()),
                 static_cast<long long>(model.decoder->config().max_position_embeddings));
  }
  const InterruptGuard guard;
  int64_t handle = -1;
  size_t given = 0;  // tokens of the ledger that the generator has
  std::string line;
  while (true) {
    if (people) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line) || (people && line.empty())) break;
    chat.add(Role::user, line);
    chat.open_assistant();
    const auto& tokens = chat.ledger().tokens;
    const std::span<const int32_t> fresh = std::span(tokens).subspan(given);
    given = tokens.size();
    if (handle < 0) {
      Prompt prompt;
      prompt.tokens.assign(fresh.begin(), fresh.end());
      handle = generator.add(prompt, sampling, true);
    } else {
      generator.extend(handle, fresh, sampling);
    }
    std::vector<Generator::Finished> done = generator.take();
    while (done.empty() && !interrupt_requested() && generator.step()) done = generator.take();
    if (done.empty()) break;  // interrupted
    const Completion& completion = done.front().completion;
    if (completion.finish == Completion::Finish::prompt_too_long ||
        completion.finish == Completion::Finish::context) {
      std::fprintf(stderr, "the conversation fills the model's context of %lld tokens\n",
                   static_cast<long long>(model.decoder->config().max_position_embeddings));
      if (completion.tokens.empty()) return kExitFailure;
    }
    for (size_t i = 0; i < completion.tokens.size(); ++i)
      chat.sampled(completion.tokens[i], completion.log_prob[i], 0);
    given += completion.tokens.size();
    chat.close_assistant();
    Utf8Decoder characters;
    const std::string answer = characters.push(chat.last_answer());
    std::printf("%s%s\n", answer.c_str(), characters.finish().c_str());
    std::fflush(stdout);
  }
  if (people) std::fputs("\n", stderr);
  return interrupt_requested() ? kExitInterrupted : kExitOk;
}

}  // namespace bessemer
