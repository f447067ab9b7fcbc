// Numbers of the operations, from the one list in ops.def.
#pragma once

#include <cstdint>

namespace bessemer {

enum class OpId : uint16_t {
#define BESSEMER_UNARY(name, ...) name,
#define BESSEMER_BINARY(name, ...) name,
#define BESSEMER_OP(name, ...) name,
#include "core/ops/ops.def"
  count
};
inline constexpr int kOps = static_cast<int>(OpId::count);

/// Unary rows come first, then binary ones, so that an id is also the index into a table of loops.
inline constexpr int kUnaryOps = 0
#define BESSEMER_UNARY(...) +1
#include "core/ops/ops.def"
    ;
inline constexpr int kBinaryOps = 0
#define BESSEMER_BINARY(...) +1
#include "core/ops/ops.def"
    ;

}  // namespace bessemer
