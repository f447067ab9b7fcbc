#include "envs/wire/step_arrays.h"

#include <algorithm>
#include <cstring>

namespace bessemer {

using wire::Code;
using wire::Map;
using wire::Message;
using wire::Value;

namespace {

std::vector<int64_t> with_rows(int64_t rows, const std::vector<int64_t>& shape) {
  std::vector<int64_t> full{rows};
  full.insert(full.end(), shape.begin(), shape.end());
  return full;
}

int64_t mask_width(const Spec& spec) {
  int64_t width = 0;
  if (spec.action_mask) {
    for (const int64_t n : spec.action[0].n) width += n;
  }
  return width;
}

}  // namespace

void add_ragged(Message& message, const std::string& name, const Ragged& values) {
  message.add(name + ".offsets", Dtype::i64, {values.rows() + 1}, values.offsets.data());
  message.add(name + ".bytes", Dtype::u8, {static_cast<int64_t>(values.bytes.size())},
              values.bytes.data());
}

Ragged read_ragged(const Message& message, const std::string& name, int64_t rows) {
  const int64_t shape[] = {rows + 1};
  const auto offsets = message.array(name + ".offsets", Dtype::i64, shape).as<const int64_t>();
  const ArrayView& bytes = message.array(name + ".bytes");
  const int64_t size = bytes.numel();
  if (bytes.dtype != Dtype::u8 || bytes.ndim != 1) {
    wire::refuse(Code::bad_type, "[env] '", name, ".bytes' is ", dtype_name(bytes.dtype), " ",
                 bytes.dims(), ", expected uint8 (n,)");
  }
  if (offsets[0] != 0 || offsets[rows] != size || !std::ranges::is_sorted(offsets)) {
    wire::refuse(Code::malformed, "[env] '", name, ".offsets' do not rise from 0 to ", size);
  }
  Ragged values;
  values.offsets.assign(offsets.begin(), offsets.end());
  values.bytes.assign(static_cast<const char*>(bytes.data), static_cast<size_t>(size));
  return values;
}

StepArrays::Column StepArrays::column(std::string name, const Channel& channel) {
  Column made;
  made.name = std::move(name);
  made.dtype = channel.dtype;
  made.shape = with_rows(0, channel.shape);
  made.row_bytes =
      channel.ragged ? 0 : static_cast<size_t>(channel.numel()) * dtype_size(channel.dtype);
  return made;
}

void* StepArrays::Column::resize(int64_t rows) {
  shape[0] = rows;
  data.resize((static_cast<size_t>(rows) * row_bytes + 7) / 8);
  return data.data();
}

void StepArrays::add(Message& reply, const Column& column) {
  reply.add(column.name, column.dtype, std::span<const int64_t>(column.shape), column.data.data());
}

StepArrays::StepArrays(const Spec& spec, bool with_final)
    : spec_(spec), with_final_(with_final), mask_width_(mask_width(spec)) {
  for (const Channel& c : spec.observation) {
    obs_.push_back(column("obs." + c.name, c));
    if (with_final) {
      final_.push_back(column("final." + c.name, c));
      ended_obs_.push_back(column("final." + c.name, c));
    }
  }
  for (const Channel& c : spec.rewards) rewards_.push_back(column("rewards." + c.name, c));
  for (const Channel& c : spec.infos) infos_.push_back(column("infos." + c.name, c));
  text_.resize(obs_.size());
  final_text_.resize(final_.size());
  ended_text_.resize(final_.size());
}

const StepBuffers& StepArrays::prepare(int64_t rows) {
  rows_ = rows;
  const auto n = static_cast<size_t>(rows);
  reward_.assign(n, 0);
  return_.resize(n);
  terminated_.assign(n, 0);
  truncated_.assign(n, 0);
  fault_.assign(n, 0);
  length_.assign(n, -1);  // where an episode ends it is written, and only there
  mask_.resize(n * static_cast<size_t>(mask_width_));
  StepBuffers& b = buffers_;
  b = StepBuffers();
  const auto columns = [&](std::vector<Column>& from, std::vector<Ragged>& text,
                           std::vector<void*>& dense, std::vector<Ragged*>& ragged) {
    for (size_t c = 0; c < from.size(); ++c) {
      const bool is_text = spec_.observation[c].ragged;
      dense.push_back(is_text ? nullptr : from[c].resize(rows));
      ragged.push_back(is_text ? &text[c] : nullptr);
      text[c].clear();
    }
  };
  columns(obs_, text_, b.obs, b.ragged_obs);
  columns(final_, final_text_, b.final_obs, b.ragged_final_obs);
  for (Column& c : rewards_) b.rewards.push_back(static_cast<float*>(c.resize(rows)));
  for (Column& c : infos_) b.infos.push_back(c.resize(rows));
  b.reward = reward_.data();
  b.terminated = terminated_.data();
  b.truncated = truncated_.data();
  b.fault = fault_.data();
  b.episode_return = return_.data();
  b.episode_length = length_.data();
  if (mask_width_) b.action_mask = mask_.data();
  return b;
}

void StepArrays::write(Message& reply, const EnvBatch& batch, std::span<const int64_t> ids,
                       bool stepped) {
  for (size_t c = 0; c < obs_.size(); ++c) {
    if (spec_.observation[c].ragged) {
      add_ragged(reply, obs_[c].name, text_[c]);
    } else {
      add(reply, obs_[c]);
    }
  }
  outcome_.resize(static_cast<size_t>(rows_));
  uint8_t any = 0;
  static_assert(kTerminated == 1 && kTruncated == 2 && kFault == 4);
  for (int64_t row = 0; row < rows_; ++row) {  // the flags are 0 or 1
    outcome_[row] =
        static_cast<uint8_t>(terminated_[row] | truncated_[row] << 1 | fault_[row] << 2);
    any |= outcome_[row];
  }
  if (stepped) {
    reply.add("reward", Dtype::f32, {rows_}, reward_.data());
    for (const Column& c : rewards_) add(reply, c);
  }
  if (stepped || any) reply.add("outcome", Dtype::u8, {rows_}, outcome_.data());
  for (const Column& c : infos_) add(reply, c);
  if (mask_width_) reply.add("action_mask", Dtype::u8, {rows_, mask_width_}, mask_.data());
  if (any & kFault) {
    wire::List faults;
    for (int64_t row = 0; row < rows_; ++row) {
      if (!fault_[row]) continue;
      const int64_t env = ids.empty() ? row / spec_.rows : ids[row / spec_.rows];
      faults.emplace_back(
          wire::List{Value(row), Value(batch.fault_reason(env * spec_.rows + row % spec_.rows))});
      if (faults.size() == 64) break;  // the flags name them all; reasons are for people
    }
    reply.fields.set("faults", std::move(faults));
  }
  ended_.clear();
  int64_t longest = -1;
  for (int64_t row = 0; row < rows_; ++row) longest = std::max(longest, length_[row]);
  for (int64_t row = 0; longest >= 0 && row < rows_; ++row) {
    if (length_[row] >= 0) ended_.push_back(row);
  }
  if (!ended_.empty()) add_ended(reply, ended_);
}

void StepArrays::add_ended(Message& reply, const std::vector<int64_t>& ended) {
  const auto count = static_cast<int64_t>(ended.size());
  ended_length_.clear();
  ended_return_.clear();
  for (const int64_t row : ended) {
    ended_length_.push_back(length_[row]);
    ended_return_.push_back(return_[row]);
  }
  reply.add("ended", Dtype::i64, {count}, ended.data());
  reply.add("return", Dtype::f32, {count}, ended_return_.data());
  reply.add("length", Dtype::i64, {count}, ended_length_.data());
  for (size_t c = 0; c < final_.size(); ++c) {
    if (spec_.observation[c].ragged) {
      ended_text_[c].clear();
      for (const int64_t row : ended) ended_text_[c].push(final_text_[c].row(row));
      add_ragged(reply, final_[c].name, ended_text_[c]);
      continue;
    }
    const size_t size = final_[c].row_bytes;
    char* to = static_cast<char*>(ended_obs_[c].resize(count));
    const char* from = reinterpret_cast<const char*>(final_[c].data.data());
    for (const int64_t row : ended) {
      memcpy(to, from + static_cast<size_t>(row) * size, size);
      to += size;
    }
    add(reply, ended_obs_[c]);
  }
}

namespace {

/// Copies one dense array of the reply to `out + out_row`; nothing where it is not wanted.
void read_dense(const Message& reply, const std::string& name, Dtype dtype,
                const std::vector<int64_t>& shape, int64_t rows, void* out, int64_t out_row) {
  const ArrayView& view = reply.array(name, dtype, with_rows(rows, shape));
  if (!out || view.bytes() == 0) return;
  const size_t row_bytes = view.bytes() / static_cast<size_t>(rows);
  memcpy(static_cast<char*>(out) + static_cast<size_t>(out_row) * row_bytes, view.data,
         view.bytes());
}

template <class T>
T* at(const std::vector<T*>& pointers, size_t c) {
  return c < pointers.size() ? pointers[c] : nullptr;
}

}  // namespace

void read_step(const Message& reply, const Spec& spec, int64_t rows, int64_t out_row,
               ReplyKind kind, std::span<const uint8_t> mask, const StepBuffers& out,
               Faults& faults) {
  const bool stepped = kind == ReplyKind::step;
  const auto touched = [&](int64_t row) {
    return kind != ReplyKind::observe && (mask.empty() || mask[row / spec.rows]);
  };
  std::vector<Ragged> text(spec.observation.size());
  for (size_t c = 0; c < spec.observation.size(); ++c) {
    const Channel& channel = spec.observation[c];
    const std::string name = "obs." + channel.name;
    if (!channel.ragged) {
      read_dense(reply, name, channel.dtype, channel.shape, rows, at(out.obs, c), out_row);
      continue;
    }
    text[c] = read_ragged(reply, name, rows);
    if (Ragged* to = at(out.ragged_obs, c)) {
      if (out_row == 0) to->clear();
      for (int64_t row = 0; row < rows; ++row) to->push(text[c].row(row));
    }
  }
  static const std::vector<int64_t> scalar;
  if (stepped) {
    read_dense(reply, "reward", Dtype::f32, scalar, rows, out.reward, out_row);
    for (size_t c = 0; c < spec.rewards.size(); ++c) {
      const Channel& channel = spec.rewards[c];
      read_dense(reply, "rewards." + channel.name, channel.dtype, channel.shape, rows,
                 at(out.rewards, c), out_row);
    }
  } else {
    for (int64_t row = 0; row < rows; ++row) {
      if (!touched(row)) continue;
      if (out.reward) out.reward[out_row + row] = 0;
      for (float* component : out.rewards) {
        if (component) component[out_row + row] = 0;
      }
    }
  }
  for (size_t c = 0; c < spec.infos.size(); ++c) {
    const Channel& channel = spec.infos[c];
    read_dense(reply, "infos." + channel.name, channel.dtype, channel.shape, rows, at(out.infos, c),
               out_row);
  }
  if (const int64_t width = mask_width(spec)) {
    read_dense(reply, "action_mask", Dtype::u8, {width}, rows, out.action_mask, out_row);
  }
  const ArrayView* outcome = stepped ? &reply.array("outcome") : reply.find("outcome");
  if (outcome) {
    const int64_t shape[] = {rows};
    outcome = &reply.array("outcome", Dtype::u8, shape);
  }
  const auto* bits = outcome ? static_cast<const uint8_t*>(outcome->data) : nullptr;
  const auto flags = [&](uint8_t* to, uint8_t bit) {
    if (!to) return;
    if (stepped) {
      for (int64_t row = 0; row < rows; ++row) to[out_row + row] = (bits[row] & bit) != 0;
      return;
    }
    for (int64_t row = 0; row < rows; ++row) {
      if (touched(row)) to[out_row + row] = bits && (bits[row] & bit) ? 1 : 0;
    }
  };
  flags(out.terminated, kTerminated);
  flags(out.truncated, kTruncated);
  flags(out.fault, kFault);
  if (const Value* listed = reply.fields.find("faults")) {
    for (const Value& item : listed->list("faults")) {
      const wire::List& pair = item.list("faults");
      if (pair.size() != 2) wire::refuse(Code::malformed, "[env] a fault is [row, reason]");
      const int64_t row = pair[0].integer("faults");
      if (row < 0 || row >= rows) wire::refuse(Code::malformed, "[env] fault of row ", row);
      faults.emplace_back(out_row + row, pair[1].text("faults"));
    }
  }

  std::span<const int64_t> ended;
  if (const ArrayView* view = reply.find("ended")) ended = view->as<const int64_t>();
  const auto count = static_cast<int64_t>(ended.size());
  int64_t least = 0;  // the rows that ended are inside the batch and rise
  for (const int64_t row : ended) {
    if (row < least || row >= rows) wire::refuse(Code::malformed, "[env] row ", row, " ended");
    least = row + 1;
  }
  if (count) {
    const int64_t shape[] = {count};
    const auto returns = reply.array("return", Dtype::f32, shape).as<const float>();
    const auto lengths = reply.array("length", Dtype::i64, shape).as<const int64_t>();
    for (int64_t i = 0; i < count; ++i) {
      if (out.episode_return) out.episode_return[out_row + ended[i]] = returns[i];
      if (out.episode_length) out.episode_length[out_row + ended[i]] = lengths[i];
    }
  }
  for (size_t c = 0; c < spec.observation.size(); ++c) {
    const Channel& channel = spec.observation[c];
    const std::string name = "final." + channel.name;
    if (channel.ragged) {
      Ragged* to = at(out.ragged_final_obs, c);
      if (!to) continue;
      const bool sent = reply.find(name + ".offsets") != nullptr;
      const Ragged own = sent ? read_ragged(reply, name, count) : Ragged();
      if (out_row == 0) to->clear();
      for (int64_t row = 0, i = 0; row < rows; ++row) {
        if (i < count && ended[i] == row) {
          to->push(sent ? own.row(i) : text[c].row(row));
          ++i;
        } else {
          to->push({});
        }
      }
      continue;
    }
    auto* to = static_cast<char*>(at(out.final_obs, c));
    if (!to || count == 0) continue;
    const bool sent = reply.find(name) != nullptr;
    const ArrayView& from = sent ? reply.array(name, channel.dtype, with_rows(count, channel.shape))
                                 : reply.array("obs." + channel.name);
    const size_t size = static_cast<size_t>(channel.numel()) * dtype_size(channel.dtype);
    for (int64_t i = 0; i < count; ++i) {
      memcpy(to + static_cast<size_t>(out_row + ended[i]) * size,
             static_cast<const char*>(from.data) + static_cast<size_t>(sent ? i : ended[i]) * size,
             size);
    }
  }
}

size_t step_bytes(const Spec& spec, int64_t rows) {
  size_t row = 5 + static_cast<size_t>(mask_width(spec));
  for (const auto* channels : {&spec.observation, &spec.rewards, &spec.infos, &spec.action}) {
    for (const Channel& c : *channels) {
      row += c.ragged ? 64 : static_cast<size_t>(c.numel()) * dtype_size(c.dtype);
    }
  }
  return row * static_cast<size_t>(rows) + 1024;
}

}  // namespace bessemer
