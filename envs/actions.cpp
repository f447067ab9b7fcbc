// Whether actions are inside their space, a whole batch at a time, and what is wrong where they are
// not.
#include "envs/actions.h"

#include <cmath>

#include "core/base/error.h"

namespace bessemer {

namespace {
/// True where every element of `data` is inside [low, high]; NaN is not.
template <class T>
bool all_inside(const T* data, int64_t count, const std::vector<double>& low,
                const std::vector<double>& high, int64_t numel) {
  bool good = true;
  if (low.size() == 1 && high.size() == 1) {
    const T a = static_cast<T>(low[0]), b = static_cast<T>(high[0]);
    for (int64_t i = 0; i < count; ++i) good &= (data[i] >= a) & (data[i] <= b);
    return good;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t e = i % numel;
    const double a = low.empty() ? -HUGE_VAL : low[low.size() == 1 ? 0 : e];
    const double b = high.empty() ? HUGE_VAL : high[high.size() == 1 ? 0 : e];
    good &= (data[i] >= static_cast<T>(a)) & (data[i] <= static_cast<T>(b));
  }
  return good;
}

/// True where every integer element e is start <= x < start + n[e].
template <class T>
bool all_below(const T* data, int64_t count, int64_t start, const std::vector<int64_t>& n) {
  bool good = true;
  if (n.size() == 1) {
    const int64_t low = start, high = start + n[0];
    for (int64_t i = 0; i < count; ++i) good &= (data[i] >= low) & (data[i] < high);
    return good;
  }
  const auto numel = static_cast<int64_t>(n.size());
  for (int64_t i = 0; i < count; ++i) {
    good &= (data[i] >= start) & (data[i] < start + n[i % numel]);
  }
  return good;
}

}  // namespace

bool actions_inside(const Channel& channel, const void* data, int64_t rows) {
  const int64_t numel = channel.numel(), count = rows * numel;
  static const std::vector<int64_t> two(1, 2);
  switch (channel.kind) {
    case SpaceKind::text:
      return true;
    case SpaceKind::box:
      if (channel.dtype == Dtype::f32) {
        return all_inside(static_cast<const float*>(data), count, channel.low, channel.high, numel);
      }
      if (channel.dtype == Dtype::f64) {
        return all_inside(static_cast<const double*>(data), count, channel.low, channel.high,
                          numel);
      }
      return true;
    case SpaceKind::discrete:
    case SpaceKind::multi_discrete:
    case SpaceKind::multi_binary: {
      const auto& n = channel.kind == SpaceKind::multi_binary ? two : channel.n;
      switch (channel.dtype) {
        case Dtype::i64:
          return all_below(static_cast<const int64_t*>(data), count, channel.start, n);
        case Dtype::i32:
          return all_below(static_cast<const int32_t*>(data), count, channel.start, n);
        case Dtype::i8:
          return all_below(static_cast<const int8_t*>(data), count, channel.start, n);
        case Dtype::u8:
          return all_below(static_cast<const uint8_t*>(data), count, channel.start, n);
        default:
          return true;
      }
    }
  }
  return true;
}

namespace {
std::string row_text(int64_t row, int64_t element, int64_t numel) {
  return numel > 1 ? cat("row ", row, ", element ", element) : cat("row ", row);
}

std::string value_text(Dtype dtype, const void* data, int64_t i) {
  switch (dtype) {
    case Dtype::f32:
      return cat(static_cast<const float*>(data)[i]);
    case Dtype::f64:
      return cat(static_cast<const double*>(data)[i]);
    case Dtype::i64:
      return cat(static_cast<const int64_t*>(data)[i]);
    case Dtype::i32:
      return cat(static_cast<const int32_t*>(data)[i]);
    case Dtype::i8:
      return cat(static_cast<int>(static_cast<const int8_t*>(data)[i]));
    default:
      return cat(static_cast<int>(static_cast<const uint8_t*>(data)[i]));
  }
}
}  // namespace

void reject_action(const std::string& id, const Channel& channel, const void* data, int64_t row) {
  const int64_t numel = channel.numel();
  std::string allowed;
  for (int64_t e = 0; e < numel; ++e) {
    Channel one = channel;
    one.shape.clear();
    const auto pick = [&](auto& values) {
      if (values.size() > 1) values = {values[e]};
    };
    pick(one.low), pick(one.high), pick(one.n);
    const auto* at = static_cast<const char*>(data) + (row * numel + e) * dtype_size(channel.dtype);
    if (actions_inside(one, at, 1)) continue;
    if (channel.kind == SpaceKind::box) {
      allowed = cat(one.low.empty() ? -HUGE_VAL : one.low[0], " to ",
                    one.high.empty() ? HUGE_VAL : one.high[0]);
    } else {
      const int64_t n = channel.kind == SpaceKind::multi_binary ? 2 : one.n[0];
      allowed = cat(channel.start, " to ", channel.start + n - 1);
    }
    fail<ValueError>("[env] ", id, ": action of ", row_text(row, e, numel), " is ",
                     value_text(channel.dtype, data, row * numel + e), ", allowed are ", allowed);
  }
  fail<ValueError>("[env] ", id, ": action of row ", row, " is outside its space");
}

}  // namespace bessemer
