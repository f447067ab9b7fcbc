#include "forge/completion_log.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace bessemer {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kPause = 10;  // seconds between tables of training completions
constexpr size_t kTableRows = 3;

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

/// One line of the terminal: marks and breaks made visible, long texts cut in the middle.
std::string brief_text(const std::string& text, size_t columns) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\u21b5";
    } else {
      out += byte < 0x20 || byte >= 0x7f ? '?' : c;
    }
  }
  for (const auto& [mark, sign] :
       {std::pair<std::string_view, std::string_view>("<|im_end|>", "\u25a0"),
        {"<|im_start|>", "\u25b6"}})
    for (size_t at = out.find(mark); at != std::string::npos; at = out.find(mark))
      out.replace(at, mark.size(), sign);
  if (out.size() <= columns) return out;
  const size_t half = columns / 2 - 2;
  return out.substr(0, half) + " .. " + out.substr(out.size() - half);
}

}  // namespace

std::string completion_json(int64_t step, const CompletionRecord& c) {
  Json json;
  json["kind"] = c.kind;
  json["group"] = c.group;
  json["prompt"] = c.prompt;
  json["completion"] = c.completion;
  if (!c.oracle.empty()) json["oracle"] = c.oracle;
  json["tokens"] = c.texts;
  json["token_ids"] = c.tokens;
  Json& log_probs = json["log_probs"] = Json::array();
  for (size_t i = 0; i < c.log_prob.size(); ++i)
    log_probs.push_back(c.trained[i] ? number(c.log_prob[i]) : Json(nullptr));
  json["reward"] = number(c.reward);
  Json& rewards = json["rewards"] = Json::object();
  for (const auto& [name, value] : c.rewards) rewards[name] = number(value);
  if (c.kind == "train") json["advantage"] = number(c.advantage);
  json["turns"] = c.turns;
  json["finish"] = c.finish;
  // Written as metrics.jsonl writes it, whose reader cuts both files when a run goes on.
  return cat("{\"step\": ", step, ", ",
             json.dump(-1, ' ', false, Json::error_handler_t::replace).substr(1));
}

void CompletionLog::write(int64_t step, std::span<const CompletionRecord> completions) {
  if (completions.empty()) return;
  if (!file_) {
    file_.reset(std::fopen(path_.c_str(), "ab"));
    BESSEMER_CHECK(file_, IoError, "cannot write ", path_, ": ", std::strerror(errno));
  }
  for (const CompletionRecord& completion : completions) {
    const std::string line = completion_json(step, completion) + "\n";
    BESSEMER_CHECK(std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size(), IoError,
                   "cannot write ", path_, ": ", std::strerror(errno));
  }
  if (show_) show(step, completions);
}

void CompletionLog::flush() {
  BESSEMER_CHECK(!file_ || std::fflush(file_.get()) == 0, IoError, "cannot write ", path_, ": ",
                 std::strerror(errno));
}

void CompletionLog::show(int64_t step, std::span<const CompletionRecord> completions) {
  const double now =
      std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  const bool judged = completions.back().kind == "eval";
  if (!judged && now - shown_ < kPause) return;
  shown_ = now;
  std::string out;
  size_t rows = 0;
  for (size_t i = completions.size(); i > 0 && rows < kTableRows; --i) {
    const CompletionRecord& c = completions[i - 1];
    if (c.kind != (judged ? "eval" : "train")) continue;
    char reward[32];
    std::snprintf(reward, sizeof reward, "%6.3g", c.reward);
    out += cat("  ", c.kind, " ", step, "  ", reward, "  ", brief_text(c.prompt, 36), "  ",
               brief_text(c.completion, 60),
               c.oracle.empty() || judged ? "" : cat("  (", brief_text(c.oracle, 24), ")"), "\n");
    ++rows;
  }
  std::fputs(out.c_str(), stderr);
}

}  // namespace bessemer
