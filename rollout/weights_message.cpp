#include <algorithm>
#include <memory>

#include "core/wire/message.h"
#include "rollout/weights.h"

namespace bessemer {

using wire::Code;
using wire::List;
using wire::Map;
using wire::Message;
using wire::Value;

namespace {
constexpr int64_t kMostElements = int64_t{1} << 40;  // of a tensor
constexpr size_t kMostTensors = size_t{1} << 16;
}  // namespace

void write_weights(Message& message, const WeightSet& set) {
  List tensors;
  for (const auto& [name, tensor] : set.tensors) {
    List shape;
    for (const int64_t size : tensor.shape()) shape.emplace_back(size);
    tensors.emplace_back(List{name, dtype_name(tensor.dtype()), std::move(shape)});
  }
  message.fields.set(
      "weights",
      Map{{"version", set.version}, {"hash", set.hash}, {"tensors", std::move(tensors)}});
  message.add("weights", Dtype::u8, {set.buffer.numel()}, set.buffer.raw());
}

WeightSet read_weights(const Message& message) {
  const Map& fields = message.fields.map("weights");
  std::vector<WeightShape> shapes;
  if (const size_t count = fields.list("tensors").size(); count > kMostTensors) {
    refuse(Code::malformed, "[weights] a set of ", count, " tensors");
  }
  for (const Value& item : fields.list("tensors")) {
    const List& entry = item.list("tensor");
    if (entry.size() != 3) refuse(Code::malformed, "[weights] an entry of ", entry.size());
    WeightShape shape;
    shape.name = entry[0].text("name");
    const std::string& dtype = entry[1].text("dtype");
    const List& sizes = entry[2].list("shape");
    int64_t numel = 1;
    try {
      shape.dtype = dtype_parse(dtype);
      for (const Value& dimension : sizes) {
        const int64_t size = dimension.integer("size");
        // Any dimension above the limit is refused even beside a zero, so products cannot overflow.
        if (size < 0 || size > kMostElements || numel > kMostElements / std::max<int64_t>(size, 1))
          refuse(Code::malformed, "[weights] '", shape.name, "' has size ", size);
        shape.shape.push(size);
        numel = std::max<int64_t>(numel * size, 1);
      }
    } catch (const ValueError& error) {
      refuse(Code::malformed, "[weights] '", shape.name, "': ", error.what());
    }
    shapes.push_back(std::move(shape));
  }
  const int64_t size[] = {weights_bytes(shapes)};
  const ArrayView& bytes = message.array("weights", Dtype::u8, size);
  // The message's memory, kept alive by whoever holds a tensor of it.
  int64_t stride = 1;
  using Storage = std::shared_ptr<const void>;
  WeightSet set;
  set.buffer = Tensor::wrap(
      bytes.data, Dtype::u8, {size[0]}, &stride,
      [](void* held) { delete static_cast<Storage*>(held); }, new Storage(message.storage));
  set.version = fields.integer("version");
  set.hash = fields.count("hash");
  set.tensors = lay_out_weights(set.buffer, shapes);
  if (const uint64_t found = weights_hash(set.tensors); found != set.hash) {
    refuse(Code::mismatch, "[weights] version ", set.version, " has hash ", found,
           " here, the sender's is ", set.hash);
  }
  return set;
}

}  // namespace bessemer
