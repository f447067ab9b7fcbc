#include <cmath>
#include <vector>

#include "autograd/nn/module.h"

namespace bessemer::nn {

namespace {

/// n numbers of one parameter: element i is half of the i/2-th pair of its stream.
std::vector<double> normals(uint64_t seed, uint64_t parameter, int64_t n) {
  const Rng rng{seed, Stream::init};
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock block = rng.at(parameter, static_cast<uint64_t>(i / 4));
    double z[4];
    normal_pair(block.word[0], block.word[1], z[0], z[1]);
    normal_pair(block.word[2], block.word[3], z[2], z[3]);
    for (int64_t j = 0; j < 4 && i + j < n; ++j) out[i + j] = z[j];
  }
  return out;
}

Tensor to_tensor(const std::vector<double>& values, const Shape& shape) {
  Tensor out = Tensor::empty(shape);
  float* data = out.data<float>();
  for (size_t i = 0; i < values.size(); ++i) data[i] = static_cast<float>(values[i]);
  return out;
}

/// Makes the `count` vectors of length `length` (one after the other) orthonormal in place:
/// modified Gram-Schmidt done twice, which is as orthogonal as Householder's QR ("twice is enough",
/// Giraud et al. 2005). Its R has a positive diagonal, so Q needs no sign correction.
void orthonormalize(std::vector<double>& v, int64_t count, int64_t length) {
  for (int64_t i = 0; i < count; ++i) {
    double* a = v.data() + i * length;
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double* q = v.data() + j * length;
        double dot = 0;
        for (int64_t k = 0; k < length; ++k) dot += a[k] * q[k];
        for (int64_t k = 0; k < length; ++k) a[k] -= dot * q[k];
      }
    }
    double norm = 0;
    for (int64_t k = 0; k < length; ++k) norm += a[k] * a[k];
    norm = std::sqrt(norm);
    for (int64_t k = 0; k < length; ++k) a[k] /= norm;
  }
}

}  // namespace

Tensor Init::normal(const Shape& shape, double std) {
  std::vector<double> values = normals(seed, next++, shape.numel());
  for (double& x : values) x *= std;
  return to_tensor(values, shape);
}

Tensor Init::uniform(const Shape& shape, double low, double high) {
  const Rng rng{seed, Stream::init};
  const uint64_t parameter = next++;
  Tensor out = Tensor::empty(shape);
  float* data = out.data<float>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    const PhiloxBlock block = rng.at(parameter, static_cast<uint64_t>(i / 2));
    const uint32_t* word = block.word + i % 2 * 2;
    data[i] = static_cast<float>(low + (high - low) * uniform_double(word[0], word[1]));
  }
  return out;
}

Tensor Init::orthogonal(const Shape& shape, double gain) {
  BESSEMER_CHECK(shape.ndim >= 2, ValueError, "[orthogonal] needs two dimensions or more, got ",
                 shape.dims());
  const int64_t rows = shape[0], columns = shape.numel() / (rows > 0 ? rows : 1);
  std::vector<double> gauss = normals(seed, next++, shape.numel());
  // The fewer vectors are made orthonormal: rows of a wide matrix, columns of a tall one.
  const bool wide = rows <= columns;
  if (!wide) {
    std::vector<double> columns_first(gauss.size());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) columns_first[c * rows + r] = gauss[r * columns + c];
    gauss.swap(columns_first);
  }
  orthonormalize(gauss, wide ? rows : columns, wide ? columns : rows);
  Tensor out = Tensor::empty(shape);
  float* data = out.data<float>();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      data[r * columns + c] =
          static_cast<float>(gain * (wide ? gauss[r * columns + c] : gauss[c * rows + r]));
  return out;
}

}  // namespace bessemer::nn
