// What the packed and the paged rows of attention share.
#pragma once

#include <cmath>
#include <vector>

#include "core/cpu/attention.h"
#include "core/ops/family.h"

namespace bessemer {

/// A segment of a packed batch: tokens [first, first + count), which also see the `before` tokens
/// of the segment `prefix`, if that is not -1.
struct Segment {
  int64_t first, count, prefix, before;
};
/// Rows of `segments` [S, 2] over `tokens` tokens; ValueError where they are not ascending from 0,
/// a segment is empty, or a prefix is not an earlier segment without prefix.
std::vector<Segment> read_segments(const char* op, const Tensor& segments, int64_t tokens);

inline Tensor whole_numbers(const char* op, const char* what, const Tensor& x) {
  return dense(as_index(op, what, x));
}

/// q is floating, [tokens, heads, D], with a number of heads that is a multiple of kv_heads.
void check_heads(const char* op, const Tensor& q, int64_t kv_heads);

/// 0 stands for 1 / sqrt(D).
inline double attention_scale(double scale, int64_t dim) {
  return scale == 0 ? 1 / std::sqrt(static_cast<double>(dim)) : scale;
}

/// body(i) for i below `tasks`, on the pool's threads where `work` multiply-adds pay for that.
template <class Body>
void spread(int64_t tasks, double work, Body&& body) {
  constexpr double kParallelWork = 1 << 20;
  if (work > kParallelWork) {
    cpu::pool().run(tasks, body);
  } else {
    for (int64_t i = 0; i < tasks; ++i) body(i);
  }
}

/// A sequence and how many queries it has.
struct Attended {
  cpu::Attend sequence;
  int64_t queries;
};
/// Spread over threads by heads and blocks of queries, which changes no bit.
void attend_all(std::span<const Attended> sequences);

}  // namespace bessemer
