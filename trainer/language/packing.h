// Texts packed side by side for one forward pass: no padding, no attention across texts, and a
// prompt that several continuations share (a preference pair, a group) is computed once, forward
// and backward. Only tokens that are trained get a row at the output.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/nn/decoder.h"
#include "core/text/chat.h"

namespace bessemer {

/// A prompt (may be empty; none of it is trained) and its continuations.
struct Text {
  std::vector<int32_t> prompt;
  std::vector<Continuation> continuations;
};
/// Tokens of the prompt with its longest continuation: what has to fit into a context.
int64_t text_tokens(const Text& text);
/// Trained tokens that have a token before them.
int64_t trained_tokens(const Text& text);

/// One pass. Sequences are the continuations in the order of the texts; rows, targets and offsets
/// list their trained tokens.
struct Pack {
  std::vector<int64_t> tokens;
  std::vector<int64_t> segments;    // [S, 2], as attention() takes them
  std::vector<int64_t> rows;        // [N] the row whose output predicts a trained token
  std::vector<int64_t> targets;     // [N] that token
  std::vector<int64_t> offsets{0};  // [sequences + 1] into rows
  std::vector<int64_t> last;        // [sequences] row of each sequence's last token (whole texts)
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

struct PackOptions {
  int64_t max_tokens = 4096;  // of a pass; a text that is longer has one of its own
  /// Keep what comes after the last token that a prediction needs: for a score at the end.
  bool whole = false;
  /// A text whose continuations do not fit together is divided, its prompt repeated; false: it
  /// has a longer pass of its own.
  bool divide = true;
};

/// Texts in their order, as many in a pass as fit. Nothing depends on where passes are cut but the
/// time they take.
std::vector<Pack> pack_texts(std::span<const Text> texts, const PackOptions& options);

/// The packed tokens through the decoder: [T, hidden].
Tensor pack_hidden(const nn::Decoder& decoder, const Pack& pack);
/// ... and its rows that predict something: [N, hidden].
Tensor pack_rows(const Tensor& hidden, const Pack& pack);

/// Log-probabilities of the trained tokens of all texts, pass after pass, without gradients:
/// log_softmax(logits / temperature).
std::vector<float> text_log_probs(const nn::Decoder& decoder, std::span<const Pack> packs,
                                  double temperature);

Tensor index_tensor(std::span<const int64_t> values);

}  // namespace bessemer
