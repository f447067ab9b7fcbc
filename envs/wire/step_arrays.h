// The arrays of resets and steps (docs/protocol.md section 7): from an environment's buffers into a
// message, and from a message into the buffers that a caller owns.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/wire/message.h"
#include "envs/env.h"

namespace bessemer {

/// Bits of the `outcome` array.
inline constexpr uint8_t kTerminated = 1, kTruncated = 2, kFault = 4;

/// Text as two arrays `name.offsets` (int64 [rows + 1]) and `name.bytes` (uint8). The Ragged must
/// outlive the message's sending.
void add_ragged(wire::Message& message, const std::string& name, const Ragged& values);
/// Checks offsets against bytes. Throws WireError (malformed, bad_type).
Ragged read_ragged(const wire::Message& message, const std::string& name, int64_t rows);

/// A server's side: buffers for every channel of a Spec, reused from step to step.
class StepArrays {
 public:
  StepArrays(const Spec& spec, bool with_final);
  /// Buffers for so many rows, flags and lengths cleared.
  const StepBuffers& prepare(int64_t rows);
  /// Adds to `reply` what a reset or an `observe` (`stepped` false) or a step gives back. Valid
  /// until the next `prepare`.
  void write(wire::Message& reply, const EnvBatch& batch, std::span<const int64_t> ids,
             bool stepped);

 private:
  struct Column {
    std::string name;
    Dtype dtype;
    std::vector<int64_t> shape;  // [rows, ...]
    size_t row_bytes = 0;
    std::vector<uint64_t> data;  // aligned for every dtype
    void* resize(int64_t rows);
  };
  static Column column(std::string name, const Channel& channel);
  static void add(wire::Message& reply, const Column& column);
  void add_ended(wire::Message& reply, const std::vector<int64_t>& ended);

  const Spec spec_;
  bool with_final_;
  int64_t rows_ = 0;
  std::vector<Column> obs_, final_, rewards_, infos_;
  std::vector<Ragged> text_, final_text_;
  std::vector<float> reward_, return_;
  std::vector<uint8_t> terminated_, truncated_, fault_, outcome_, mask_;
  std::vector<int64_t> length_;
  int64_t mask_width_ = 0;
  // Rows that ended, dense, as they are sent.
  std::vector<int64_t> ended_, ended_length_;
  std::vector<float> ended_return_;
  std::vector<Column> ended_obs_;
  std::vector<Ragged> ended_text_;
  StepBuffers buffers_;
};

/// Rows that failed and why.
using Faults = std::vector<std::pair<int64_t, std::string>>;

/// What a reply answers: it says which buffers are written.
enum class ReplyKind : uint8_t { reset, step, observe };

/// A client's side: copies a reply into `out`, `rows` rows from `out_row` on, just as a local batch
/// would: an `observe` leaves rewards and flags alone, a reset touches those of the environments in
/// `mask` (all, where empty). `final_obs` of rows that ended come from the reply, or, where it has
/// none, from the observation itself (no autoreset in the same step). Reasons are added to
/// `faults`, with the row in `out`. Throws WireError when the reply does not fit the Spec.
void read_step(const wire::Message& reply, const Spec& spec, int64_t rows, int64_t out_row,
               ReplyKind kind, std::span<const uint8_t> mask, const StepBuffers& out,
               Faults& faults);

/// Bytes of a step's reply when nothing ended, text left out.
size_t step_bytes(const Spec& spec, int64_t rows);

}  // namespace bessemer
