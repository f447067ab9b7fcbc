// Where a run's measurements go: metrics.jsonl, TensorBoard event files, the terminal, Prometheus.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/metrics.h"

namespace bessemer {

/// What one iteration measured.
struct MetricsRow {
  int64_t step = 0;       // environment steps so far
  int64_t iteration = 0;  // rollouts so far
  double seconds = 0;     // since this process began to train
  const Metrics& metrics;
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void write(const MetricsRow& row) = 0;
  /// Hands everything written so far to the operating system. Throws IoError.
  virtual void flush() = 0;
};

/// One JSON object a line: {"step": .., "iteration": .., "rollout/ep_rew_mean": .., ...}. Fields
/// whose name starts with "time/" are the only ones that may differ between equal runs. Appends to
/// `path`.
std::unique_ptr<Sink> jsonl_sink(const std::string& path);
/// Cuts `path` to the complete rows whose step is at most `step`: what an uninterrupted run had
/// written then. A missing file is left missing.
void truncate_jsonl(const std::string& path, int64_t step);

/// A new event file in `folder`. `purge_from`: a run resumed at this step; TensorBoard then drops
/// what earlier files say of later steps.
std::unique_ptr<Sink> tensorboard_sink(const std::string& folder,
                                       std::optional<int64_t> purge_from);

/// TFRecord's masked form of the CRC-32C.
uint32_t masked_crc32c(std::string_view bytes);

using PrometheusLabels = std::vector<std::pair<std::string, std::string>>;
/// The newest value of every metric at http://HOST:PORT/metrics, in Prometheus' text format 0.0.4.
/// `address`: PORT (of 127.0.0.1) or HOST:PORT; port 0 is a free one, `port` receives it. Throws
/// ValueError for another text, IoError naming the address where it cannot be had. `labels` say
/// what runs, as labels of bessemer_info.
std::unique_ptr<Sink> prometheus_sink(const std::string& address, const PrometheusLabels& labels,
                                      int* port = nullptr);
/// "train/approx_kl" as Prometheus writes it: "train_approx_kl".
std::string prometheus_name(std::string_view name);
/// "0.5", "NaN", "+Inf", "-Inf".
std::string prometheus_number(double value);

struct ConsoleTitle {
  std::string text;  // "CartPole-v1 · ppo · seed 7 · 2 threads"
  int64_t first_step = 0;
  int64_t total_steps = 0;
};
/// On a terminal one block that is redrawn at most ten times a second, elsewhere a line now and
/// then. Writes to stderr.
std::unique_ptr<Sink> console_sink(const ConsoleTitle& title);

/// "61.2 k", "1.25 M": four significant places at the most.
std::string short_number(double value);
/// "0:07", "12:30", "1:02:03".
std::string clock_text(double seconds);

}  // namespace bessemer
