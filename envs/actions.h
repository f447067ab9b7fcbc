// Actions against the space of their channel.
#pragma once

#include <cstdint>
#include <string>

#include "envs/spec.h"

namespace bessemer {

/// True where all `rows` of dense actions are inside the space of `channel`; NaN is outside of any
/// box.
bool actions_inside(const Channel& channel, const void* data, int64_t rows);

/// Throws ValueError that names the row (of `data`), the element, its value and what is allowed.
[[noreturn]] void reject_action(const std::string& id, const Channel& channel, const void* data,
                                int64_t row);

}  // namespace bessemer
