#include "forge/stage.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "core/base/error.h"
#include "core/base/rng.h"
#include "envs/render/video.h"

namespace bessemer {

namespace {

/// A film of an episode without a limit ends here, in seconds.
constexpr double kLongestFilm = 120;

const Spec& watchable(const std::string& id) {
  const Spec& spec = env_spec(id);
  for (const Channel& channel : spec.action) {
    BESSEMER_CHECK(!channel.ragged, ValueError, id, " has no picture: its actions are text");
  }
  return spec;
}

int64_t mask_size(const Spec& spec) {
  int64_t size = 0;
  for (int64_t n : spec.action[0].n) size += n;
  return spec.action_mask ? size * spec.rows : 0;
}

template <class T>
void put(void* action, int64_t index, double value) {
  const T narrow = static_cast<T>(value);
  std::memcpy(static_cast<char*>(action) + index * static_cast<int64_t>(sizeof(T)), &narrow,
              sizeof narrow);
}

void put_element(Dtype dtype, void* action, int64_t index, double value) {
  switch (dtype) {
    case Dtype::f32:
      return put<float>(action, index, value);
    case Dtype::f64:
      return put<double>(action, index, value);
    case Dtype::i64:
      return put<int64_t>(action, index, value);
    case Dtype::i32:
      return put<int32_t>(action, index, value);
    case Dtype::i8:
      return put<int8_t>(action, index, value);
    case Dtype::u8:
    case Dtype::boolean:
      return put<uint8_t>(action, index, value);
    default:
      fail<TypeError>("actions of dtype ", dtype_name(dtype), " cannot be drawn at random");
  }
}

/// One of the allowed numbers below n, each as likely.
int64_t draw_allowed(const PhiloxBlock& draw, int64_t n, const uint8_t* mask) {
  const int64_t allowed = mask ? std::count(mask, mask + n, uint8_t{1}) : n;
  if (allowed == 0) return 0;
  auto left = static_cast<int64_t>(
      uniform_below(draw.word[0], draw.word[1], static_cast<uint64_t>(allowed)));
  if (!mask) return left;
  int64_t at = 0;
  while (mask[at] != 1 || left-- > 0) ++at;
  return at;
}

double draw_real(const PhiloxBlock& draw, double low, double high) {
  const double u = uniform_double(draw.word[0], draw.word[1]);
  if (std::isfinite(low) && std::isfinite(high)) return low + u * (high - low);
  const double v = uniform_double(draw.word[2], draw.word[3]);
  const double normal = std::sqrt(-2 * std::log1p(-u)) * std::cos(2 * std::numbers::pi * v);
  return std::clamp(normal, low, high);
}

double bound(const std::vector<double>& bounds, int64_t index, double fallback) {
  if (bounds.empty()) return fallback;
  return bounds.size() == 1 ? bounds[0] : bounds[static_cast<size_t>(index)];
}

}  // namespace

Stage::Stage(const std::string& id, const Options& options,
             std::optional<int64_t> max_episode_steps)
    : canvas_(watchable(id).render_width, env_spec(id).render_height) {
  BatchOptions batch;
  batch.options = options;
  batch.autoreset = Autoreset::disabled;  // the last picture of an episode stays
  batch.max_episode_steps = max_episode_steps;
  batch_ = make_batch(id, batch);
  const auto rows = static_cast<size_t>(batch_->rows());
  for (const Channel& channel : spec().observation) {
    const size_t bytes = static_cast<size_t>(channel.numel()) * dtype_size(channel.dtype);
    observations_.emplace_back(channel.ragged ? 0 : rows * bytes);
  }
  mask_.resize(static_cast<size_t>(mask_size(spec())));
  reward_.resize(rows);
  terminated_.resize(rows);
  truncated_.resize(rows);
  fault_.resize(rows);
}

StepBuffers Stage::buffers() {
  StepBuffers out;
  for (auto& leaf : observations_) out.obs.push_back(leaf.empty() ? nullptr : leaf.data());
  out.reward = reward_.data();
  out.terminated = terminated_.data();
  out.truncated = truncated_.data();
  out.fault = fault_.data();
  out.action_mask = mask_.empty() ? nullptr : mask_.data();
  return out;
}

size_t Stage::action_bytes() const {
  const Channel& channel = spec().action[0];
  return static_cast<size_t>(channel.numel() * spec().rows) * dtype_size(channel.dtype);
}

void Stage::reset(uint64_t seed) {
  batch_->reset(std::span(&seed, 1), {}, {}, buffers());
  over_ = false;
  steps_ = 0;
  return_ = 0;
}

void Stage::step(const void* action) {
  Actions actions;
  actions.data = action;
  batch_->step(actions, buffers());
  BESSEMER_CHECK(!fault_[0], Error, spec().id, " broke down: ", batch_->fault_reason(0));
  ++steps_;
  return_ += static_cast<double>(reward_[0]);
  over_ = terminated_[0] || truncated_[0];
}

const Canvas& Stage::draw() {
  batch_->render(0, canvas_);
  return canvas_;
}

ActionSource random_actions(uint64_t seed) {
  return [rng = Rng{seed, Stream::action}](const Stage& stage, void* action) {
    const Channel& channel = stage.spec().action[0];
    const uint8_t* mask = stage.action_mask();
    for (int64_t i = 0; i < channel.numel(); ++i) {
      const PhiloxBlock draw =
          rng.at(static_cast<uint64_t>(stage.steps()), static_cast<uint64_t>(i));
      if (channel.n.empty()) {
        const double value = channel.kind == SpaceKind::multi_binary
                                 ? static_cast<double>(draw.word[0] & 1)
                                 : draw_real(draw, bound(channel.low, i, -INFINITY),
                                             bound(channel.high, i, INFINITY));
        put_element(channel.dtype, action, i, value);
        continue;
      }
      const int64_t n = channel.n[channel.n.size() == 1 ? 0 : static_cast<size_t>(i)];
      put_element(channel.dtype, action, i,
                  static_cast<double>(channel.start + draw_allowed(draw, n, mask)));
      if (mask) mask += n;
    }
  };
}

ActionSource policy_actions(const Algorithm& algorithm, bool deterministic, int64_t seed) {
  const std::shared_ptr<Actor> actor = algorithm.actor(deterministic, seed);
  return [actor](const Stage& stage, void* action) {
    const std::vector<uint8_t> starts(static_cast<size_t>(stage.spec().rows), stage.steps() == 0);
    actor->act(stage.observation(), starts.data(), stage.action_mask(), stage.spec().rows, action);
  };
}

double film_episode(Stage& stage, const ActionSource& source, uint64_t seed,
                    const std::string& file) {
  stage.reset(seed);
  const Canvas& first = stage.draw();
  VideoWriter film(file, first.width(), first.height(), stage.spec().render_fps);
  film.push(first);
  std::vector<std::byte> action(stage.action_bytes());
  const auto longest = static_cast<int64_t>(kLongestFilm * stage.spec().render_fps);
  while (!stage.over() && film.frames() < longest) {
    source(stage, action.data());
    stage.step(action.data());
    film.push(stage.draw());
  }
  film.finish();
  return stage.episode_return();
}

}  // namespace bessemer
