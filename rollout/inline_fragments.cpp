#include "rollout/inline_fragments.h"

namespace bessemer {

std::optional<Fragment> InlineFragments::take(double) {
  Fragment out;
  out.worker = "inline";
  source_->collect(version_, out.episodes);
  out.number = number_++;
  out.version = version_;
  out.rollout = source_->rollout();  // the sampler goes on in its own buffer
  samples_ += static_cast<uint64_t>(out.rollout.steps * out.rollout.rows);
  return out;
}

}  // namespace bessemer
