#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "forge/sinks.h"

namespace bessemer {

namespace {

using Clock = std::chrono::steady_clock;

std::string fixed(double value, int places) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", places, value);
  return text;
}

/// Three places that matter: 0.0123, 1.23, 123, 1.23e-05.
std::string brief(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

std::string grouped(int64_t value) {
  std::string digits = cat(value), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-') out += ',';
    out += digits[i];
  }
  return out;
}

struct Named {
  std::string_view metric, label;
};
constexpr Named kLosses[] = {
    {"train/policy_gradient_loss", "policy"},
    {"train/value_loss", "value"},
    {"train/entropy_loss", "entropy"},
    {"train/approx_kl", "kl"},
    {"train/clip_fraction", "clip"},
    {"train/explained_variance", "explained"},
    {"loss", "loss"},
    {"kl", "kl"},
    {"entropy", "entropy"},
    {"grad_norm", "grad"},
    {"mismatch_kl", "mismatch"},
};

constexpr size_t kMostWorkers = 8;  // lines of the block

class ConsoleSink final : public Sink {
 public:
  explicit ConsoleSink(const ConsoleTitle& title)
      : title_(title),
        terminal_(::isatty(STDERR_FILENO) == 1 && std::getenv("TERM") != nullptr &&
                  std::string_view(std::getenv("TERM")) != "dumb"),
        rate_step_(title.first_step) {
    std::fprintf(stderr, "%s\n", title_.text.c_str());
  }
  ~ConsoleSink() override { flush(); }
  ConsoleSink(const ConsoleSink&) = delete;
  ConsoleSink& operator=(const ConsoleSink&) = delete;

  void write(const MetricsRow& row) override {
    remember(row);
    const auto now = Clock::now();
    pending_ = true;
    if (terminal_) {
      if (now - shown_ < std::chrono::milliseconds(100)) return;
      shown_ = now;
      draw();
    } else {
      // the first line soon, the next ones at growing distances, evaluations always
      if (now - shown_ < pause_ && !row.metrics.has("eval/mean_reward") &&
          !row.metrics.has("eval/score"))
        return;
      if (shown_ != Clock::time_point{})
        pause_ = std::min(pause_ * 2, Clock::duration(std::chrono::seconds(30)));
      shown_ = now;
      line();
    }
  }
  void flush() override {
    if (!pending_) return;
    if (terminal_) {
      draw();
    } else {
      line();
    }
  }

 private:
  void remember(const MetricsRow& row) {
    step_ = row.step;
    seconds_ = row.seconds;
    if (seconds_ - rate_seconds_ >= 0.5) {  // the rate of the last half second, smoothed
      const double rate = static_cast<double>(step_ - rate_step_) / (seconds_ - rate_seconds_);
      rate_ = rate_ == 0 ? rate : 0.6 * rate_ + 0.4 * rate;
      rate_step_ = step_;
      rate_seconds_ = seconds_;
    } else if (rate_ == 0 && seconds_ > 0) {
      first_rate_ = static_cast<double>(step_ - title_.first_step) / seconds_;
    }
    for (const auto& [name, value] : row.metrics.values()) {
      if (!name.starts_with("time/")) latest_.add(name, value.value(), Reduction::last);
    }
  }

  double rate() const { return rate_ > 0 ? rate_ : first_rate_; }
  std::string eta() const {
    const double left = static_cast<double>(title_.total_steps - step_);
    return rate() > 0 ? clock_text(std::max(0.0, left) / rate()) : "?";
  }
  double fraction() const {
    return std::clamp(static_cast<double>(step_) / static_cast<double>(title_.total_steps), 0.0,
                      1.0);
  }

  std::string returns() const {
    if (latest_.has("learning_rate")) return scores();
    std::string out = "return ";
    out += latest_.has("rollout/ep_rew_mean") ? brief(latest_.get("rollout/ep_rew_mean")) : "-";
    if (latest_.has("rollout/ep_len_mean"))
      out += cat("  length ", brief(latest_.get("rollout/ep_len_mean")));
    if (latest_.has("eval/mean_reward"))
      out += cat("  eval ", brief(latest_.get("eval/mean_reward")));
    return out;
  }
  /// What a language model is doing, as far as its algorithm measures it.
  std::string scores() const {
    static constexpr Named kShown[] = {{"eval/score", "score"},
                                       {"reward", "reward"},
                                       {"completions/mean_length", "length"},
                                       {"mean_token_accuracy", "accuracy"},
                                       {"accuracy", "accuracy"},
                                       {"rewards/accuracies", "accuracy"},
                                       {"rewards/margins", "margin"}};
    std::string out;
    for (const Named& one : kShown) {
      if (!latest_.has(one.metric)) continue;
      out += cat(out.empty() ? "" : "  ", one.label, " ", brief(latest_.get(one.metric)));
    }
    return out;
  }
  std::string losses() const {
    std::string out;
    for (const Named& loss : kLosses) {
      if (!latest_.has(loss.metric)) continue;
      out += cat(out.empty() ? "" : "  ", loss.label, " ", brief(latest_.get(loss.metric)));
    }
    return out;
  }

  /// One line a worker, from "workers/NAME/...".
  std::vector<std::string> workers() const {
    constexpr std::string_view start = "workers/", end = "/version";
    std::vector<std::string> out;
    for (const auto& [metric, value] : latest_.values()) {
      if (!metric.starts_with(start) || !metric.ends_with(end)) continue;
      const std::string name =
          metric.substr(start.size(), metric.size() - start.size() - end.size());
      const auto of = [&](std::string_view what) {
        const std::string key = cat(start, name, "/", what);
        return latest_.has(key) ? latest_.get(key) : 0;
      };
      // Environment steps a second, or tokens.
      const double speed = of("fps") + of("tokens_per_second");
      out.push_back(cat(name, "  ", short_number(speed), "/s  version ",
                        grouped(static_cast<int64_t>(value.value())), "  queue ",
                        brief(of("queued")), "  restarts ", brief(of("restarts"))));
    }
    const size_t count = out.size();
    if (count > kMostWorkers) {
      out.resize(kMostWorkers - 1);
      out.push_back(cat("and ", count - out.size(), " more workers"));
    }
    return out;
  }

  /// "2 workers, queue 3, 1 restart, staleness 0.5"; nothing where there are none.
  std::string workers_summary() const {
    if (!latest_.has("workers/running")) return "";
    std::string out = cat(brief(latest_.get("workers/running")), " workers, queue ",
                          brief(latest_.get("workers/queued")), ", restarts ",
                          brief(latest_.get("workers/restarts")));
    if (latest_.has("rollout/staleness_mean"))
      out += cat(", staleness ", brief(latest_.get("rollout/staleness_mean")), " (at most ",
                 brief(latest_.get("rollout/staleness_max")), ")");
    return out;
  }

  void draw() {
    pending_ = false;
    winsize size{};
    const int columns =
        ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
    const int width = std::clamp(columns - 66, 8, 40);
    const int eighths = static_cast<int>(fraction() * width * 8);
    static constexpr const char* parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    std::string bar;
    for (int i = 0; i < eighths / 8; ++i) bar += "█";
    bar += parts[eighths % 8];
    for (int i = eighths / 8 + (eighths % 8 ? 1 : 0); i < width; ++i) bar += "·";
    std::vector<std::string> lines = {
        cat(bar, " ", fixed(fraction() * 100, 0), "%  ", grouped(step_), " / ",
            grouped(title_.total_steps), " steps  ", short_number(rate()), "/s  ETA ", eta()),
        returns(), losses()};
    if (const std::string summary = workers_summary(); !summary.empty()) {
      lines.push_back(summary);
      for (std::string& text : workers()) lines.push_back("  " + std::move(text));
    }
    std::string out;
    if (drawn_ > 0) out += cat("\x1b[", drawn_, "A");
    for (const std::string& text : lines) {
      // long lines would wrap and spoil the block; the bar's multi-byte characters need room
      out += cat("\r\x1b[2K", &text == lines.data() ? text : text.substr(0, columns - 1), "\n");
    }
    std::fputs(out.c_str(), stderr);
    drawn_ = static_cast<int>(lines.size());
  }

  void line() {
    pending_ = false;
    const std::string summary = workers_summary();
    std::fprintf(stderr, "%s / %s steps  %s/s  ETA %s  %s  %s%s%s\n", grouped(step_).c_str(),
                 grouped(title_.total_steps).c_str(), short_number(rate()).c_str(), eta().c_str(),
                 returns().c_str(), losses().c_str(), summary.empty() ? "" : "  ", summary.c_str());
  }

  ConsoleTitle title_;
  bool terminal_;
  bool pending_ = false;
  int drawn_ = 0;  // lines of the block on the terminal
  int64_t step_ = 0;
  double seconds_ = 0;
  int64_t rate_step_;
  double rate_seconds_ = 0, rate_ = 0, first_rate_ = 0;
  Metrics latest_;
  Clock::time_point shown_{};
  Clock::duration pause_ = std::chrono::seconds(2);
};

}  // namespace

std::string short_number(double value) {
  static constexpr const char* units[] = {"", " k", " M", " G", " T"};
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 4) {
    value /= 1000;
    ++unit;
  }
  char text[64];
  std::snprintf(text, sizeof text, "%.3g%s", value, units[unit]);
  return text;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::min(seconds, 3.6e8) + 0.5);
  char text[64];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%d:%02d:%02d", static_cast<int>(whole / 3600),
                  static_cast<int>(whole / 60 % 60), static_cast<int>(whole % 60));
  } else {
    std::snprintf(text, sizeof text, "%d:%02d", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
  }
  return text;
}

std::unique_ptr<Sink> console_sink(const ConsoleTitle& title) {
  return std::make_unique<ConsoleSink>(title);
}

}  // namespace bessemer
