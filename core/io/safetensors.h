// Named tensors in one file, in the safetensors format (github.com/huggingface/safetensors): eight
// bytes of header length, a JSON header, the elements. Files written here are read by the Python
// package and the other way round.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/tensor.h"

namespace bessemer {

struct TensorFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;

  /// ValueError with the nearest name when there is none of this name.
  const Tensor& at(const std::string& name) const;
};

/// Writes all tensors (any strides) and replaces `path` only when everything is on the disk: an
/// error leaves the file that was there. The bytes depend on names, elements and metadata only:
/// wide dtypes come first, then names in order, each tensor aligned to its element. A name given
/// twice or "__metadata__" is a ValueError; IoError names the path and the system's reason.
void save_safetensors(const std::string& path,
                      const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

/// Reads a whole file. IoError when it cannot be read; ValueError naming path and reason when it is
/// damaged or holds a dtype this library lacks. Nothing in the header is trusted: sizes, overlaps,
/// gaps, bounds.
TensorFile load_safetensors(const std::string& path);

}  // namespace bessemer
