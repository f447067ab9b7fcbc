#include "core/tensor/shape.h"

namespace bessemer {

Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b) {
  Shape out;
  out.ndim = a.ndim > b.ndim ? a.ndim : b.ndim;
  for (int i = 0; i < out.ndim; ++i) {
    const int ia = i - (out.ndim - a.ndim), ib = i - (out.ndim - b.ndim);
    const int64_t da = ia < 0 ? 1 : a.dim[ia], db = ib < 0 ? 1 : b.dim[ib];
    BESSEMER_CHECK(da == db || da == 1 || db == 1, ValueError, "[", op,
                   "] shapes do not broadcast: ", a.dims(), " and ", b.dims());
    out.dim[i] = da == 1 ? db : da;
  }
  return out;
}

void contiguous_strides(const Shape& shape, int64_t* strides) {
  int64_t step = 1;
  for (int i = shape.ndim - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape.dim[i];
  }
}

int normalize_dim(std::string_view op, int64_t dim, int ndim) {
  BESSEMER_CHECK(dim >= -ndim && dim < ndim, IndexError, "[", op, "] dimension ", dim,
                 " is out of range for a tensor of ", ndim, " dimensions");
  return static_cast<int>(dim < 0 ? dim + ndim : dim);
}

}  // namespace bessemer
