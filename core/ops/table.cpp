#include "core/ops/op.h"

namespace bessemer {

void (*record_op)(OpId, const Attrs&, const Tensor* const*, int, Tensor*, int) = nullptr;

#define BESSEMER_UNARY(name, ...) &BESSEMER_ROW(name),
#define BESSEMER_BINARY(name, ...) &BESSEMER_ROW(name),
#define BESSEMER_OP(name, ...) &BESSEMER_ROW(name),
const std::array<const OpInfo*, kOps> op_table = {
#include "core/ops/ops.def"
};

#define BESSEMER_UNARY(name, dtypes, saves, vjp, domain, numpy, doc) {#name, "x", doc},
#define BESSEMER_BINARY(name, dtypes, saves, vjp_a, vjp_b, domain, numpy, doc) {#name, "a, b", doc},
#define BESSEMER_OP(name, result, parameters, python, doc) {#name, python, doc},
const std::array<OpText, kOps> op_texts = {{
#include "core/ops/ops.def"
}};

}  // namespace bessemer
