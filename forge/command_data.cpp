// What is trained: the texts of a file or a recipe as the trainer sees them, token by token.
#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "core/text/utf8.h"
#include "forge/commands.h"
#include "forge/prerequisites.h"
#include "trainer/algorithm.h"
#include "trainer/language/dataset.h"
#include "trainer/language/trainer.h"

namespace bessemer {

namespace {

/// Texts with the words for their continuations ("chosen", "rejected").
struct View {
  std::string title;
  std::vector<Text> texts;
  std::vector<std::string> names;
  const Tokenizer* tokenizer = nullptr;
};

/// Tokens in colour: green what is trained, dim what is only read. Without colour the trained ones
/// stand between brackets.
class Painter {
 public:
  Painter(const Tokenizer& tokenizer, bool colour) : tokenizer_(tokenizer), colour_(colour) {}

  std::string paint(std::span<const int32_t> tokens, std::span<const uint8_t> trained) const {
    std::string out;
    for (size_t first = 0; first < tokens.size();) {
      const bool on = !trained.empty() && trained[first];
      size_t last = first;
      while (last < tokens.size() && (!trained.empty() && trained[last]) == on) ++last;
      const std::string text =
          utf8_printable(tokenizer_.decode(tokens.subspan(first, last - first)));
      if (colour_) {
        out += cat(on ? "\x1b[32m" : "\x1b[2m", text, "\x1b[0m");
      } else {
        out += on ? cat("\u27e6", text, "\u27e7") : text;
      }
      first = last;
    }
    return out;
  }

 private:
  const Tokenizer& tokenizer_;
  bool colour_;
};

void print(const View& view, bool colour) {
  int64_t tokens = 0, trained = 0, longest = 0;
  for (const Text& text : view.texts) {
    for (const Continuation& c : text.continuations) {
      const auto length = static_cast<int64_t>(text.prompt.size() + c.tokens.size());
      tokens += length;
      longest = std::max(longest, length);
      trained += std::count(c.trained.begin(), c.trained.end(), 1);
    }
    if (text.continuations.empty()) tokens += static_cast<int64_t>(text.prompt.size());
  }
  std::printf("%s: %zu shown, %lld tokens, %lld of them trained (%s), longest %lld\n",
              view.title.c_str(), view.texts.size(), static_cast<long long>(tokens),
              static_cast<long long>(trained), colour ? "green" : "between \u27e6 and \u27e7",
              static_cast<long long>(longest));
  const Painter painter(*view.tokenizer, colour);
  int64_t number = 0;
  for (const Text& text : view.texts) {
    std::printf("\n--- %lld\n%s", static_cast<long long>(++number),
                painter.paint(text.prompt, {}).c_str());
    for (size_t i = 0; i < text.continuations.size(); ++i) {
      const Continuation& c = text.continuations[i];
      if (i < view.names.size()) std::printf("\n%s: ", view.names[i].c_str());
      std::fputs(painter.paint(c.tokens, c.trained).c_str(), stdout);
    }
    std::fputs("\n", stdout);
  }
}

/// A file is shown as whatever its columns say it is for.
Dataset read_file(const std::string& path, const Tokenizer& tokenizer, bool& pairs) {
  std::string reason;
  for (const DataUse use : {DataUse::supervised, DataUse::pairs, DataUse::prompts}) {
    DatasetOptions options;
    options.use = use;
    try {
      Dataset data = load_dataset(path, tokenizer, options);
      pairs = use == DataUse::pairs;
      return data;
    } catch (const ColumnsError& error) {
      if (reason.empty()) reason = error.what();
    }
  }
  throw ColumnsError(reason);
}

int show_file(const std::string& path, int64_t count) {
  const std::vector<std::string> special = chat_special_tokens();
  const Tokenizer tokenizer = Tokenizer::bytes(special);
  bool pairs = false;
  Dataset data = read_file(path, tokenizer, pairs);
  View view;
  view.title = cat(path, ": ", data.train.size(), " examples of ", data.shape);
  view.tokenizer = &tokenizer;
  view.texts = std::move(data.train);
  if (view.texts.size() > static_cast<size_t>(count)) view.texts.resize(static_cast<size_t>(count));
  if (pairs) view.names = {"chosen", "rejected"};
  print(view, colour_wanted());
  return kExitOk;
}

int show_recipe(const std::string& path, std::span<const std::string> overrides, int64_t count) {
  Recipe recipe = load_recipe(path, overrides);
  BESSEMER_CHECK(recipe.run.uses() & kUsesLanguage, ValueError, path,
                 ": no texts are trained here: model.kind is ", recipe.run.model.kind);
  use_paths(recipe);
  for (const Prerequisite& one : prerequisites_of(recipe)) {
    BESSEMER_CHECK(one.finished, ValueError, path, ": '", one.key, "' stands on the run of ",
                   one.recipe.name, ", which is not finished; ./bessemer run ", path, " makes it");
    use_prerequisite(recipe, one);
  }
  ThreadPool pool(static_cast<int>(recipe.run.placement.threads));
  const std::unique_ptr<Algorithm> algorithm = make_algorithm(recipe.run, pool);
  auto& trainer = dynamic_cast<LanguageTrainer&>(*algorithm);
  View view;
  view.title = cat(path, " (", recipe.run.trainer.algo, ")");
  view.texts = trainer.preview(count);
  view.tokenizer = trainer.model().tokenizer.get();
  if (recipe.run.uses() & kUsesPairs) view.names = {"chosen", "rejected"};
  print(view, colour_wanted());
  return kExitOk;
}

}  // namespace

int command_data(const Arguments& arguments) {
  const auto& words = arguments.positional;
  BESSEMER_CHECK(words.size() >= 2 && words[0] == "show", UsageError, "which file or recipe?");
  const int64_t count = arguments.integer("--count", 5, 1);
  const std::filesystem::path path = words[1];
  if (path.extension() == ".yaml" || path.extension() == ".yml")
    return show_recipe(words[1], std::span(words).subspan(2), count);
  BESSEMER_CHECK(words.size() == 2, UsageError, "overrides belong to recipes, not to ", words[1]);
  return show_file(words[1], count);
}

}  // namespace bessemer
