// Metric values that merge: a mean of means weighs by count, whatever thread or worker produced it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bessemer {

enum class Reduction : uint8_t { mean, sum, min, max, last };

struct MetricValue {
  Reduction reduction = Reduction::mean;
  double total = 0;
  double weight = 0;
  double value() const {
    return reduction == Reduction::mean ? (weight > 0 ? total / weight : 0) : total;
  }
};

/// A small ordered table of named values; names are the field's ("rollout/ep_rew_mean").
class Metrics {
 public:
  void add(std::string_view name, double value, Reduction reduction = Reduction::mean,
           double weight = 1);
  void mean(std::string_view name, double value, double weight = 1) {
    add(name, value, Reduction::mean, weight);
  }
  void last(std::string_view name, double value) { add(name, value, Reduction::last); }
  void merge(const Metrics& other);
  void clear() { values_.clear(); }
  bool has(std::string_view name) const;
  double get(std::string_view name) const;  // ValueError when absent
  const std::vector<std::pair<std::string, MetricValue>>& values() const { return values_; }

 private:
  std::vector<std::pair<std::string, MetricValue>> values_;
};

}  // namespace bessemer
