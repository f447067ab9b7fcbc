#include "core/base/metrics.h"

#include <algorithm>

#include "core/base/error.h"

namespace bessemer {

namespace {
auto find(auto& values, std::string_view name) {
  return std::find_if(values.begin(), values.end(), [&](const auto& v) { return v.first == name; });
}
void combine(MetricValue& into, const MetricValue& more) {
  switch (into.reduction) {
    case Reduction::mean:
    case Reduction::sum:
      into.total += more.total;
      break;
    case Reduction::min:
      into.total = std::min(into.total, more.total);
      break;
    case Reduction::max:
      into.total = std::max(into.total, more.total);
      break;
    case Reduction::last:
      into.total = more.total;
      break;
  }
  into.weight += more.weight;
}
}  // namespace

void Metrics::add(std::string_view name, double value, Reduction reduction, double weight) {
  const double total = reduction == Reduction::mean ? value * weight : value;
  const MetricValue entry{reduction, total, weight};
  if (auto at = find(values_, name); at != values_.end()) {
    combine(at->second, entry);
  } else {
    values_.emplace_back(name, entry);
  }
}

void Metrics::merge(const Metrics& other) {
  for (const auto& [name, value] : other.values_) {
    if (auto at = find(values_, name); at != values_.end()) {
      combine(at->second, value);
    } else {
      values_.emplace_back(name, value);
    }
  }
}

bool Metrics::has(std::string_view name) const { return find(values_, name) != values_.end(); }

double Metrics::get(std::string_view name) const {
  const auto at = find(values_, name);
  BESSEMER_CHECK(at != values_.end(), ValueError, "no metric named '", name, "'");
  return at->second.value();
}

}  // namespace bessemer
