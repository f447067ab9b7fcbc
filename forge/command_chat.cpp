// Talking to a trained model: turns from the terminal or a pipe, answers as they are sampled.
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>

#include "autograd/nn/decoder_io.h"
#include "core/text/chat.h"
#include "core/text/utf8.h"
#include "forge/commands.h"
#include "forge/interrupt.h"
#include "rollout/generate.h"
#include "trainer/checkpoint.h"
#include "trainer/language/model.h"

namespace bessemer {

namespace {

namespace fs = std::filesystem;

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

/// Lines of standard input; a signal ends the wait for one.
class Lines {
 public:
  bool next(std::string& line) {
    size_t end;
    while ((end = held_.find('\n')) == std::string::npos) {
      if (!wait_readable(STDIN_FILENO)) return false;
      char block[4096];
      const ssize_t count = ::read(STDIN_FILENO, block, sizeof block);
      if (count < 0 && errno == EINTR) continue;
      if (count > 0) {
        held_.append(block, static_cast<size_t>(count));
        continue;
      }
      if (count < 0 || held_.empty()) return false;
      end = held_.size();  // the last line has no end
      held_ += '\n';
    }
    line = held_.substr(0, end);
    held_.erase(0, end + 1);
    return true;
  }

 private:
  std::string held_;
};

/// Writes an answer token by token. What a model says must not steer somebody's terminal: there,
/// control characters become dots.
class Speech {
 public:
  void say(std::string_view bytes) { write(characters_.push(bytes)); }
  void end() {
    write(characters_.finish());
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }

 private:
  void write(std::string text) {
    if (text.empty()) return;
    if (terminal_) {
      std::string shown;
      for (size_t i = 0; i < text.size(); ++i) {
        const auto c = static_cast<unsigned char>(text[i]);
        // U+0080 to U+009F are controls as well.
        const bool wide =
            c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
        i += wide;
        if (wide || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
          shown += "\u00b7";
        else
          shown += static_cast<char>(c);
      }
      text = std::move(shown);
    }
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  Utf8Decoder characters_;
  bool terminal_ = ::isatty(STDOUT_FILENO) == 1;
};

/// A conversation in the model's context; one that outgrows it begins anew.
class Conversation {
 public:
  enum class End { whole, cut, full, too_long, interrupted };

  Conversation(Generator& generator, const Tokenizer& tokenizer, const SamplingOptions& sampling,
               const std::string* system)
      : generator_(generator), tokenizer_(tokenizer), sampling_(sampling), system_(system) {
    limit_ = sampling.max_tokens;
    sampling_.max_tokens = 1;  // each token is shown before the next is drawn
    begin();
    sampling_.stop_ids = {chat_->end_token()};
  }

  bool begun() const { return handle_ >= 0; }

  void begin() {
    if (begun()) {
      generator_.release(handle_);
      ++number_;
    }
    handle_ = -1;
    given_ = 0;
    chat_.emplace(tokenizer_);
    if (system_) chat_->add(Role::system, *system_);
  }

  /// The model's answer to `line`, said as it is sampled. After `too_long` (nothing was said) and
  /// `full` the conversation has to begin anew.
  End answer(const std::string& line, Speech& speech) {
    chat_->add(Role::user, line);
    chat_->open_assistant();
    ask();
    for (int64_t count = 1;; ++count) {
      std::vector<Generator::Finished> done = generator_.take();
      while (done.empty() && generator_.step()) done = generator_.take();
      const Completion& one = done.at(0).completion;
      if (one.tokens.empty()) return count == 1 ? End::too_long : End::full;
      const int32_t token = one.tokens[0];
      if (one.finish != Completion::Finish::stop) speech.say(tokenizer_.token(token));
      chat_->sampled(token, one.log_prob[0], 0);
      ++given_;
      const bool over = one.finish == Completion::Finish::stop;
      if (over || count == limit_ || interrupt_requested()) {
        chat_->close_assistant();
        return over ? End::whole : count == limit_ ? End::cut : End::interrupted;
      }
      generator_.extend(handle_, {}, sampling_);
    }
  }

 private:
  void ask() {
    const auto& tokens = chat_->ledger().tokens;
    const std::span<const int32_t> fresh = std::span(tokens).subspan(given_);
    given_ = tokens.size();
    if (begun()) return generator_.extend(handle_, fresh, sampling_);
    Prompt prompt;
    prompt.tokens.assign(fresh.begin(), fresh.end());
    prompt.sequence = number_;
    handle_ = generator_.add(prompt, sampling_, true);
  }

  Generator& generator_;
  const Tokenizer& tokenizer_;
  SamplingOptions sampling_;
  const std::string* system_;
  std::optional<Chat> chat_;
  int64_t handle_ = -1, limit_ = 0;
  uint64_t number_ = 0;
  size_t given_ = 0;  // tokens of the ledger that the generator has
};

/// Turn after turn; what people are told beside the answers goes to stderr.
int talk(Conversation& conversation, int64_t context, bool people) {
  using End = Conversation::End;
  const InterruptGuard guard(InterruptGuard::Notice::silent);
  Lines lines;
  std::string line;
  for (;;) {
    if (people) std::fputs("> ", stderr);
    if (!lines.next(line)) break;
    if (line.empty()) continue;
    Speech speech;
    const bool fresh = !conversation.begun();
    End end = conversation.answer(line, speech);
    if (end == End::too_long) {
      conversation.begin();
      if (!fresh) {
        std::fprintf(stderr,
                     "the conversation fills the model's context of %lld tokens: it begins anew\n",
                     static_cast<long long>(context));
        end = conversation.answer(line, speech);
        if (end == End::too_long) conversation.begin();
      }
      if (end == End::too_long)
        std::fprintf(stderr, "this line does not fit into the model's context of %lld tokens\n",
                     static_cast<long long>(context));
    }
    speech.end();
    if (end == End::full) {
      std::fprintf(stderr,
                   "the answer ends with the model's context of %lld tokens: the conversation "
                   "begins anew\n",
                   static_cast<long long>(context));
      conversation.begin();
    }
    if (end == End::cut && people) std::fputs("(cut: --max-tokens)\n", stderr);
    if (!interrupt_requested()) continue;
    if (!people || interrupt_signal() != SIGINT) break;
    clear_interrupt();  // it stopped the answer; the next one leaves
  }
  if (people) std::fputs("\n", stderr);
  return interrupt_requested() ? kExitInterrupted : kExitOk;
}

}  // namespace

int command_chat(const Arguments& arguments) {
  BESSEMER_CHECK(arguments.positional.size() == 1, UsageError, "which run folder?");
  SamplingOptions sampling;
  sampling.temperature = number_flag(arguments, "--temperature", 0, 0, 100);
  sampling.top_p = number_flag(arguments, "--top-p", 1, 1e-6, 1);
  sampling.top_k = arguments.integer("--top-k", 0, 0);
  sampling.max_tokens = arguments.integer("--max-tokens", 256, 1);
  GeneratorOptions options;
  options.max_batch = 1;
  options.seed = static_cast<uint64_t>(arguments.integer("--seed", 0, 0));

  const fs::path folder = weights_folder(arguments.positional[0]);
  if (fs::exists(folder / "manifest")) verify_checkpoint(folder);
  const nn::LoadedDecoder model = nn::load_decoder(folder);
  const nn::DecoderConfig& shape = model.decoder->config();
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder, shape.vocab_size);
  if (model.head)
    std::fprintf(stderr, "%s is a reward model: it was made to judge answers, not to give them\n",
                 folder.c_str());
  const bool people = ::isatty(STDIN_FILENO) == 1;
  if (people)
    std::fprintf(stderr,
                 "%s: %lld parameters, context %lld; Ctrl-C stops an answer, Ctrl-D leaves\n",
                 folder.c_str(), static_cast<long long>(shape.parameters()),
                 static_cast<long long>(shape.max_position_embeddings));
  Generator generator(*model.decoder, options);
  Conversation conversation(generator, *tokenizer, sampling, arguments.find("--system"));
  return talk(conversation, shape.max_position_embeddings, people);
}

}  // namespace bessemer
