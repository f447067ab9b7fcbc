#include "autograd/nn/distribution.h"

#include <cmath>
#include <numeric>

#include "core/base/error.h"
#include "core/cpu/kernels.h"

namespace bessemer::nn {

namespace {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;
/// Keeps a state-dependent variance above zero (SB3's epsilon).
constexpr float kVarianceFloor = 1e-6f;

void unary(OpId id, int64_t n, float* out, const float* x) {
  cpu::kernels().unary_f32[static_cast<int>(id)](n, out, 1, x, 1);
}

/// `count` uniforms or normals of one row: word j of the row's blocks, four a block.
struct RowDraws {
  const Rng& rng;
  uint64_t index, counter;
  int64_t blocks;  // a row's blocks for one counter
  PhiloxBlock block(int64_t i) const {
    return rng.at(index, counter * static_cast<uint64_t>(blocks) + static_cast<uint64_t>(i));
  }
};

void draw_normals(const RowDraws& draws, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock block = draws.block(i / 4);
    double z[4];
    normal_pair(block.word[0], block.word[1], z[0], z[1]);
    normal_pair(block.word[2], block.word[3], z[2], z[3]);
    for (int64_t j = 0; j < 4 && i + j < n; ++j) out[i + j] = static_cast<float>(z[j]);
  }
}

}  // namespace

ActionDistribution ActionDistribution::categorical(std::span<const int64_t> choices) {
  ActionDistribution d;
  d.kind_ = ActionKind::categorical;
  d.choices_.assign(choices.begin(), choices.end());
  for (int64_t n : choices)
    BESSEMER_CHECK(n >= 1 && n <= 1 << 24, ValueError, "[categorical] ", n, " choices");
  d.components_ = static_cast<int64_t>(choices.size());
  d.outputs_ = std::accumulate(choices.begin(), choices.end(), int64_t{0});
  return d;
}

ActionDistribution ActionDistribution::gaussian(int64_t components) {
  ActionDistribution d;
  d.kind_ = ActionKind::gaussian;
  d.components_ = d.outputs_ = components;
  return d;
}

ActionDistribution ActionDistribution::state_dependent(int64_t components, int64_t features) {
  ActionDistribution d;
  d.kind_ = ActionKind::state_dependent;
  d.components_ = d.outputs_ = components;
  d.features_ = features;
  return d;
}

int64_t ActionDistribution::log_stds() const {
  switch (kind_) {
    case ActionKind::categorical:
      return 0;
    case ActionKind::gaussian:
      return components_;
    case ActionKind::state_dependent:
      return features_ * components_;
  }
  return 0;
}

void ActionDistribution::prepare(const ActionInputs& in, ActionScratch& scratch) const {
  switch (kind_) {
    case ActionKind::categorical:
      return prepare_categorical(in, scratch);
    case ActionKind::gaussian:
      scratch.std.resize(static_cast<size_t>(components_));
      return unary(OpId::exp, components_, scratch.std.data(), in.log_std);
    case ActionKind::state_dependent:
      return prepare_state_dependent(in, scratch);
  }
}

// log p = z - log(sum exp z) with z = logit - max. Elementwise passes run over all rows at once,
// sums within a row go left to right, so a row's bits do not depend on its neighbours.
void ActionDistribution::prepare_categorical(const ActionInputs& in, ActionScratch& s) const {
  const int64_t groups = components_, cells = in.rows * outputs_;
  s.log_p.resize(static_cast<size_t>(cells));
  s.p.resize(static_cast<size_t>(cells));
  s.sum.resize(static_cast<size_t>(in.rows * groups));
  s.log_sum.resize(s.sum.size());
  float* z = s.log_p.data();
  for (int64_t i = 0; i < cells; ++i) z[i] = in.mask && !in.mask[i] ? kMaskedLogit : in.outputs[i];
  for (int64_t r = 0; r < in.rows; ++r) {
    float* row = z + r * outputs_;
    for (int64_t n : choices_) {
      float top = row[0];
      for (int64_t k = 1; k < n; ++k) top = row[k] > top ? row[k] : top;
      for (int64_t k = 0; k < n; ++k) row[k] -= top;
      row += n;
    }
  }
  unary(OpId::exp, cells, s.p.data(), z);
  const float* p = s.p.data();
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      float sum = 0;
      for (int64_t k = 0; k < choices_[g]; ++k) sum += *p++;
      s.sum[r * groups + g] = sum;
    }
  }
  unary(OpId::log, in.rows * groups, s.log_sum.data(), s.sum.data());
  float* q = s.p.data();
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const float log_sum = s.log_sum[r * groups + g], scale = 1 / s.sum[r * groups + g];
      for (int64_t k = 0; k < choices_[g]; ++k) {
        *z++ -= log_sum;
        *q++ *= scale;
      }
    }
  }
}

void ActionDistribution::prepare_state_dependent(const ActionInputs& in, ActionScratch& s) const {
  const int64_t cells = features_ * components_;
  s.matrix.resize(static_cast<size_t>(cells));  // variances of the exploration matrix
  unary(OpId::exp, cells, s.matrix.data(), in.log_std);
  for (float& x : s.matrix) x *= x;
  s.squared.resize(static_cast<size_t>(in.rows * features_));
  for (size_t i = 0; i < s.squared.size(); ++i) s.squared[i] = in.features[i] * in.features[i];
  s.std.resize(static_cast<size_t>(in.rows * components_));
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t a = 0; a < components_; ++a) {
      double variance = 0;
      for (int64_t h = 0; h < features_; ++h)
        variance +=
            static_cast<double>(s.squared[r * features_ + h]) * s.matrix[h * components_ + a];
      s.std[r * components_ + a] = std::sqrt(static_cast<float>(variance) + kVarianceFloor);
    }
  }
}

void ActionDistribution::sample(const ActionInputs& in, const ActionScratch& s, const Rng& rng,
                                std::span<const int64_t> index, uint64_t counter,
                                const float* exploration, float* actions) const {
  const int64_t blocks = (components_ + 3) / 4;
  for (int64_t r = 0; r < in.rows; ++r, actions += components_) {
    const RowDraws draws{rng, static_cast<uint64_t>(index[r]), counter, blocks};
    switch (kind_) {
      case ActionKind::categorical: {
        const float* p = s.p.data() + r * outputs_;
        PhiloxBlock block{};
        for (int64_t g = 0; g < components_; p += choices_[g], ++g) {
          if (g % 4 == 0) block = draws.block(g / 4);
          // Inverse of the distribution function; rounding may leave the last sum below 1, and then
          // the last possible choice is meant.
          const float u = uniform_float(block.word[g % 4]);
          float below = 0;
          int64_t chosen = 0;
          for (int64_t k = 0; k < choices_[g]; ++k) {
            if (p[k] <= 0) continue;
            chosen = k;
            below += p[k];
            if (u < below) break;
          }
          actions[g] = static_cast<float>(chosen);
        }
        break;
      }
      case ActionKind::gaussian:
        draw_normals(draws, components_, actions);
        for (int64_t a = 0; a < components_; ++a)
          actions[a] = in.outputs[r * outputs_ + a] + s.std[a] * actions[a];
        break;
      case ActionKind::state_dependent: {
        const float* matrix = exploration + r * features_ * components_;
        const float* x = in.features + r * features_;
        for (int64_t a = 0; a < components_; ++a) {
          double noise = 0;
          for (int64_t h = 0; h < features_; ++h)
            noise += static_cast<double>(x[h]) * matrix[h * components_ + a];
          actions[a] = in.outputs[r * outputs_ + a] + static_cast<float>(noise);
        }
        break;
      }
    }
  }
}

void ActionDistribution::mode(const ActionInputs& in, const ActionScratch& s,
                              float* actions) const {
  if (!discrete()) {
    std::copy(in.outputs, in.outputs + in.rows * outputs_, actions);
    return;
  }
  const float* log_p = s.log_p.data();
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t n : choices_) {
      int64_t best = 0;
      for (int64_t k = 1; k < n; ++k)
        if (log_p[k] > log_p[best]) best = k;
      *actions++ = static_cast<float>(best);
      log_p += n;
    }
  }
}

void ActionDistribution::evaluate(const ActionInputs& in, const ActionScratch& s,
                                  const float* actions, float* log_prob, float* entropy) const {
  const float* log_p = s.log_p.data();
  const float* p = s.p.data();
  for (int64_t r = 0; r < in.rows; ++r, actions += components_) {
    float total = 0, spread = 0;
    if (discrete()) {
      for (int64_t g = 0; g < components_; ++g) {
        const int64_t n = choices_[g];
        total += log_p[static_cast<int64_t>(actions[g])];
        if (entropy)
          for (int64_t k = 0; k < n; ++k) spread -= p[k] * log_p[k];
        log_p += n;
        p += n;
      }
    } else {
      const float* std = s.std.data() + (kind_ == ActionKind::gaussian ? 0 : r * components_);
      double lp = 0, h = 0;
      for (int64_t a = 0; a < components_; ++a) {
        const double z = (static_cast<double>(actions[a]) - in.outputs[r * outputs_ + a]) / std[a];
        const double log_std = std::log(static_cast<double>(std[a]));
        lp -= 0.5 * z * z + log_std + kHalfLogTwoPi;
        h += 0.5 + kHalfLogTwoPi + log_std;
      }
      total = static_cast<float>(lp);
      spread = static_cast<float>(h);
    }
    log_prob[r] = total;
    if (entropy) entropy[r] = spread;
  }
}

void ActionDistribution::gradient(const ActionInputs& in, ActionScratch& s, const float* actions,
                                  const float* d_log_prob, const float* d_entropy, float* d_outputs,
                                  float* d_log_std) const {
  if (discrete()) {
    // d log p_a / d logit_k = [k = a] - p_k;  dH / d logit_k = -p_k (log p_k + H)
    const float* log_p = s.log_p.data();
    const float* p = s.p.data();
    for (int64_t r = 0; r < in.rows; ++r, actions += components_) {
      for (int64_t g = 0; g < components_; ++g) {
        const int64_t n = choices_[g], chosen = static_cast<int64_t>(actions[g]);
        float h = 0;
        for (int64_t k = 0; k < n; ++k) h -= p[k] * log_p[k];
        for (int64_t k = 0; k < n; ++k)
          d_outputs[k] = -p[k] * (d_log_prob[r] + d_entropy[r] * (log_p[k] + h));
        d_outputs[chosen] += d_log_prob[r];
        log_p += n;
        p += n;
        d_outputs += n;
      }
    }
    return;
  }
  // d log p / d mean = z / std;  d log p / d log std = z² - 1;  dH / d log std = 1
  s.total.assign(static_cast<size_t>(log_stds()), 0);
  for (int64_t r = 0; r < in.rows; ++r) {
    const float* std = s.std.data() + (kind_ == ActionKind::gaussian ? 0 : r * components_);
    for (int64_t a = 0; a < components_; ++a) {
      const int64_t i = r * components_ + a;
      const double z = (static_cast<double>(actions[i]) - in.outputs[i]) / std[a];
      d_outputs[i] = static_cast<float>(d_log_prob[r] * z / std[a]);
      const double d_log = d_log_prob[r] * (z * z - 1) + d_entropy[r];
      if (kind_ == ActionKind::gaussian) {
        s.total[a] += d_log;
      } else {
        // variance = sum_h x_h² exp(2 log_std[h]): d log std / d log_std[h] = x_h² exp(2 ·) /
        // variance
        const double scale = d_log / (static_cast<double>(std[a]) * std[a]);
        for (int64_t h = 0; h < features_; ++h)
          s.total[h * components_ + a] += scale * s.squared[r * features_ + h];
      }
    }
  }
  for (size_t i = 0; i < s.total.size(); ++i) {
    const double variance = kind_ == ActionKind::gaussian ? 1 : s.matrix[i];
    d_log_std[i] = static_cast<float>(s.total[i] * variance);
  }
}

void ActionDistribution::explore(const Rng& rng, int64_t index, uint64_t counter,
                                 const float* log_std, float* matrix) const {
  const int64_t cells = features_ * components_;
  draw_normals({rng, static_cast<uint64_t>(index), counter, (cells + 3) / 4}, cells, matrix);
  for (int64_t i = 0; i < cells; ++i) matrix[i] *= std::exp(log_std[i]);
}

}  // namespace bessemer::nn
