#include "envs/batch_base.h"

#include <algorithm>
#include <chrono>

#include "envs/actions.h"

namespace bessemer {

namespace {
constexpr double kTaskNs = 20'000;    // work of one task: a thread's wake-up costs 20 to 30 µs
constexpr double kInlineNs = 10'000;  // below it a step stays on the calling thread
constexpr std::string_view kMagic = "BSMENV01";

uint64_t hash_bytes(std::string_view bytes) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return hash;
}
}  // namespace

std::vector<int64_t> channel_bytes(const std::vector<Channel>& channels) {
  std::vector<int64_t> bytes;
  for (const Channel& c : channels) {
    bytes.push_back(c.ragged ? 0 : c.numel() * static_cast<int64_t>(dtype_size(c.dtype)));
  }
  return bytes;
}

BatchBase::BatchBase(const Spec& spec, const BatchOptions& options)
    : spec_(spec),
      envs_(options.num_envs),
      autoreset_(options.autoreset),
      limit_(options.max_episode_steps.value_or(spec.max_episode_steps)),
      settings_(spec.options, options.options, spec.id),
      fallback_(spec.reset_options, {}, spec.id),
      obs_bytes_(channel_bytes(spec.observation)),
      info_bytes_(channel_bytes(spec.infos)),
      pool_(options.pool),
      check_(options.check_actions) {
  BESSEMER_CHECK(envs_ >= 1, ValueError, "[env] num_envs is ", envs_, ", expected at least 1");
  BESSEMER_CHECK(limit_ >= 0, ValueError, "[env] max_episode_steps is ", limit_,
                 ", expected 0 (no limit) or more");
  spec_.max_episode_steps = limit_;
  const Channel& action = spec_.action[0];
  if (!action.ragged)
    action_bytes_ = action.numel() * static_cast<int64_t>(dtype_size(action.dtype));
  for (const int64_t n : action.n) mask_bytes_ += n;
  rng_.resize(envs_);
  seeded_.resize(envs_);
  phase_.resize(envs_, Phase::unstarted);
  broken_.resize(envs_);
  in_flight_.resize(envs_);
  length_.resize(envs_);
  return_.resize(rows());
  fault_reason_.resize(rows());
  ragged_ = std::ranges::any_of(spec_.observation, &Channel::ragged);
  if (ragged_) {
    text_.resize(rows() * spec_.observation.size());
    final_text_.resize(text_.size());
  }
}

void* BatchBase::scratch() const {
  // Where values of channels go that nobody wants; one a thread, grown to the widest row.
  thread_local std::vector<double> space;
  int64_t widest = 8;
  for (const int64_t bytes : obs_bytes_) widest = std::max(widest, bytes);
  for (const int64_t bytes : info_bytes_) widest = std::max(widest, bytes);
  if (static_cast<int64_t>(space.size() * sizeof(double)) < widest) space.resize(widest / 8 + 1);
  return space.data();
}

void BatchBase::check_env(int64_t env) const {
  BESSEMER_CHECK(env >= 0 && env < envs_, IndexError, "[env] environment ", env, " of ", envs_);
}

// --- reset -------------------------------------------------------------------------------------

void BatchBase::reset(std::span<const uint64_t> seeds, const Options& reset_options,
                      std::span<const uint8_t> mask, const StepBuffers& out) {
  BESSEMER_CHECK(mask.empty() || static_cast<int64_t>(mask.size()) == envs_, ValueError,
                 "[env] reset mask has ", mask.size(), " entries, expected ", envs_);
  BESSEMER_CHECK(sent_.empty(), ValueError, "[env] reset while ", sent_.size(),
                 " environments are sent and not received");
  const auto wanted = [&](int64_t env) { return mask.empty() || mask[env]; };
  int64_t count = 0;
  for (int64_t env = 0; env < envs_; ++env) {
    if (wanted(env)) {
      ++count;
    } else {
      BESSEMER_CHECK(phase_[env] != Phase::unstarted, ValueError, "[env] environment ", env,
                     " was never reset and the mask leaves it out");
    }
  }
  BESSEMER_CHECK(seeds.empty() || static_cast<int64_t>(seeds.size()) == count, ValueError, "[env] ",
                 seeds.size(), " seeds for ", count, " environments to reset");
  const Settings settings(spec_.reset_options, reset_options, cat(spec_.id, " reset"));
  std::vector<int64_t> ids;
  for (int64_t env = 0; env < envs_; ++env) {
    if (!wanted(env)) continue;
    if (!seeds.empty()) {
      rng_[env] = Pcg64(seeds[ids.size()]);
    } else if (!seeded_[env]) {
      rng_[env] = Pcg64::from_entropy();
    }
    seeded_[env] = 1;
    ids.push_back(env);
  }
  struct Flag {
    bool& flag;
    explicit Flag(bool& f) : flag(f) { flag = true; }
    ~Flag() { flag = false; }
  } const resetting(resetting_);
  begin_resets(ids, seeds, settings);
  const auto start = [&](int64_t i) {
    restart(ids[i], ids[i] * spec_.rows, settings, out);
    for (int a = 0; a < spec_.rows; ++a) clear_row(ids[i] * spec_.rows + a, out);
    if (broken_[ids[i]] && out.fault) std::fill_n(out.fault + ids[i] * spec_.rows, spec_.rows, 1);
  };
  if (pool_ && count > 1 && cost_ * static_cast<double>(count) > kInlineNs) {
    const int64_t tasks = std::min<int64_t>(count, pool_->threads() * 4);
    pool_->run(tasks, [&](int64_t t) {
      for (int64_t i = count * t / tasks; i < count * (t + 1) / tasks; ++i) start(i);
    });
  } else {
    for (int64_t i = 0; i < count; ++i) start(i);
  }
  for (int64_t env = 0; env < envs_; ++env) {
    if (!wanted(env)) observe_row(env, env * spec_.rows, out);
  }
  all_running_ = false;
  if (ragged_) flush_text({}, envs_, out);
}

bool BatchBase::restart(int64_t env, int64_t row, const Settings& reset_options,
                        const StepBuffers& out) {
  length_[env] = 0;
  std::fill_n(return_.begin() + env * spec_.rows, spec_.rows, 0.0);
  if (!start_world(env, reset_options)) {
    zero_fault(env, row, out);
    if (out.fault) std::fill_n(out.fault + row, spec_.rows, 1);
    return false;
  }
  phase_[env] = Phase::running;
  observe_world(env, row, out);
  return true;
}

void BatchBase::clear_row(int64_t row, const StepBuffers& out) const {
  if (out.reward) out.reward[row] = 0;
  if (out.terminated) out.terminated[row] = 0;
  if (out.truncated) out.truncated[row] = 0;
  if (out.fault) out.fault[row] = 0;
  for (float* component : out.rewards) {
    if (component) component[row] = 0;
  }
}

void BatchBase::finish(int64_t env, int64_t row, const StepBuffers& out) {
  phase_[env] = Phase::ended;
  for (int a = 0; a < spec_.rows; ++a) {
    if (out.episode_return) {
      out.episode_return[row + a] = static_cast<float>(return_[env * spec_.rows + a]);
    }
    if (out.episode_length) out.episode_length[row + a] = length_[env];
  }
  if (!out.final_obs.empty() || !out.ragged_final_obs.empty()) observe_final(env, row, out);
  if (autoreset_ == Autoreset::same_step) restart(env, row, fallback_, out);
}

void BatchBase::remember_fault(int64_t env, std::exception_ptr error) {
  std::string reason = "an exception that is no std::exception";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    reason = known.what();
  } catch (...) {
  }
  for (int a = 0; a < spec_.rows; ++a) fault_reason_[env * spec_.rows + a] = reason;
}

void BatchBase::zero_fault(int64_t env, int64_t row, const StepBuffers& out) {
  phase_[env] = Phase::ended;
  broken_[env] = 1;
  zero_row(env, row, out);
}

void BatchBase::fault(int64_t env, int64_t row, const StepBuffers& out) {
  zero_fault(env, row, out);
  if (autoreset_ == Autoreset::same_step) restart(env, row, fallback_, out);
  if (out.fault) std::fill_n(out.fault + row, spec_.rows, 1);
}

void BatchBase::zero_row(int64_t env, int64_t row, const StepBuffers& out) const {
  const auto zero = [&](const std::vector<void*>& to, const std::vector<int64_t>& bytes,
                        int64_t at) {
    for (size_t c = 0; c < to.size() && c < bytes.size(); ++c) {
      if (to[c]) std::memset(static_cast<char*>(to[c]) + at * bytes[c], 0, bytes[c]);
    }
  };
  for (int a = 0; a < spec_.rows; ++a) {
    clear_row(row + a, out);
    zero(out.obs, obs_bytes_, row + a);
    zero(out.infos, info_bytes_, row + a);
    if (out.action_mask) std::memset(out.action_mask + (row + a) * mask_bytes_, 1, mask_bytes_);
    for (std::string& text : text_of(text_, env, a)) text.clear();
  }
}

void BatchBase::observe_row(int64_t env, int64_t row, const StepBuffers& out) const {
  if (broken_[env]) {
    zero_row(env, row, out);
  } else {
    observe_world(env, row, out);
  }
}

std::string BatchBase::fault_reason(int64_t row) const {
  BESSEMER_CHECK(row >= 0 && row < rows(), IndexError, "[env] row ", row, " of ", rows());
  return fault_reason_[row];
}

// --- actions -----------------------------------------------------------------------------------

void BatchBase::check_phases(std::span<const int64_t> ids) const {
  const auto check = [&](int64_t env) {
    BESSEMER_CHECK(phase_[env] != Phase::unstarted, ValueError, "[env] step before reset");
    BESSEMER_CHECK(phase_[env] != Phase::ended || autoreset_ != Autoreset::disabled, ValueError,
                   "[env] environment ", env, " has ended: reset it before the next step");
  };
  if (ids.empty()) {
    for (int64_t env = 0; env < envs_; ++env) check(env);
  } else {
    for (const int64_t env : ids) check(env);
  }
}

void BatchBase::check_actions(const void* data, const Ragged* text, std::span<const int64_t> ids,
                              int64_t count) const {
  const Channel& channel = spec_.action[0];
  const int64_t rows = count * spec_.rows;
  if (channel.ragged) {
    BESSEMER_CHECK(text, ValueError, "[env] ", spec_.id, " takes text actions");
    BESSEMER_CHECK(text->rows() == rows, ValueError, "[env] ", text->rows(), " text actions for ",
                   rows, " rows");
    for (int64_t row = 0; row < rows && channel.max_length > 0; ++row) {
      const auto size = static_cast<int64_t>(text->row(row).size());
      BESSEMER_CHECK(size <= channel.max_length, ValueError, "[env] action of row ", row, " has ",
                     size, " bytes, at most ", channel.max_length);
    }
    return;
  }
  BESSEMER_CHECK(data, ValueError, "[env] ", spec_.id, " takes ", dtype_name(channel.dtype),
                 " actions, got none");
  if (!check_ || actions_inside(channel, data, rows)) return;
  // Something is wrong: find the row, unless its environment ignores the action.
  const auto* bytes = static_cast<const char*>(data);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row / spec_.rows, env = ids.empty() ? at : ids[at];
    if (action_ignored(env) || actions_inside(channel, bytes + row * action_bytes_, 1)) continue;
    reject_action(spec_.id, channel, data, row);
  }
}

// --- step, send, recv --------------------------------------------------------------------------

void BatchBase::step(const Actions& actions, const StepBuffers& out) {
  BESSEMER_CHECK(sent_.empty(), ValueError, "[env] step while ", sent_.size(),
                 " environments are sent and not received");
  if (!all_running_) {
    check_phases({});
    all_running_ = autoreset_ != Autoreset::disabled;
  }
  check_actions(actions.data, actions.ragged, {}, envs_);
  begin_steps(actions.data, actions.ragged, {}, envs_);
  run(actions.data, actions.ragged, {}, envs_, out);
}

void BatchBase::run(const void* data, const Ragged* text, std::span<const int64_t> ids,
                    int64_t count, const StepBuffers& out) {
  // Runs of consecutive ids are one range, so that a batch in order is stepped as a whole.
  const auto part = [&](int64_t begin, int64_t end) {
    while (begin < end) {
      int64_t next = ids.empty() ? end : begin + 1;
      while (next < end && ids[next] == ids[next - 1] + 1) ++next;
      const int64_t low = ids.empty() ? begin : ids[begin];
      Range range{low, low + next - begin};
      if (data) range.actions = static_cast<const char*>(data) + begin * spec_.rows * action_bytes_;
      range.text_actions = text;
      range.action_row = range.out_row = begin * spec_.rows;
      step_range(range, out);
      begin = next;
    }
  };
  const int threads = pool_ ? pool_->threads() : 1;
  if (threads == 1) {
    part(0, count);
  } else {
    const double total = cost_ * static_cast<double>(count);
    int64_t tasks = 1;
    if (total > kInlineNs) {
      tasks = std::clamp<int64_t>(static_cast<int64_t>(total / kTaskNs), threads, threads * 8);
      tasks = std::min(tasks, count);
    }
    const bool measure = cost_ == 0 || (calls_++ & 63) == 0;
    const auto begin =
        measure ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    if (tasks == 1) {
      part(0, count);
    } else {
      pool_->run(tasks, [&](int64_t t) { part(count * t / tasks, count * (t + 1) / tasks); });
    }
    if (measure) {
      const std::chrono::duration<double, std::nano> spent =
          std::chrono::steady_clock::now() - begin;
      const double now = spent.count() * static_cast<double>(std::min<int64_t>(tasks, threads)) /
                         static_cast<double>(count);
      cost_ = cost_ == 0 ? now : 0.75 * cost_ + 0.25 * now;
    }
  }
  if (ragged_) flush_text(ids, count, out);
}

void BatchBase::flush_text(std::span<const int64_t> ids, int64_t count,
                           const StepBuffers& out) const {
  const auto channels = static_cast<int64_t>(spec_.observation.size());
  const auto flush = [&](const std::vector<Ragged*>& to, std::vector<std::string>& texts) {
    for (size_t c = 0; c < to.size() && c < spec_.observation.size(); ++c) {
      if (!to[c] || !spec_.observation[c].ragged) continue;
      to[c]->clear();
      for (int64_t i = 0; i < count; ++i) {
        const int64_t env = ids.empty() ? i : ids[i];
        for (int a = 0; a < spec_.rows; ++a) {
          to[c]->push(texts[(env * spec_.rows + a) * channels + static_cast<int64_t>(c)]);
        }
      }
    }
  };
  flush(out.ragged_obs, text_);
  flush(out.ragged_final_obs, final_text_);
  for (std::string& text : final_text_) text.clear();
}

void BatchBase::send(const Actions& actions, std::span<const int64_t> ids) {
  const auto count = static_cast<int64_t>(ids.size());
  if (count == 0) return;
  for (const int64_t env : ids) {
    check_env(env);
    BESSEMER_CHECK(!in_flight_[env], ValueError, "[env] environment ", env,
                   " was sent before and not received");
  }
  check_phases(ids);
  check_actions(actions.data, actions.ragged, ids, count);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (in_flight_[ids[i]]) {
      for (size_t j = 0; j < i; ++j) in_flight_[ids[j]] = 0;
      fail<ValueError>("[env] environment ", ids[i], " appears twice in one send");
    }
    in_flight_[ids[i]] = 1;
  }
  begin_steps(actions.data, actions.ragged, ids, count);
  sent_.insert(sent_.end(), ids.begin(), ids.end());
  if (action_bytes_ > 0) {
    sent_actions_.append(static_cast<const char*>(actions.data),
                         count * spec_.rows * action_bytes_);
  } else {
    for (int64_t row = 0; row < count * spec_.rows; ++row)
      sent_text_.push(actions.ragged->row(row));
  }
}

int64_t BatchBase::recv(int64_t at_least, const StepBuffers& out, std::span<int64_t> ids) {
  const auto sent = static_cast<int64_t>(sent_.size());
  BESSEMER_CHECK(at_least >= 1 && at_least <= sent, ValueError, "[env] recv of ", at_least,
                 " environments, ", sent, " are sent");
  BESSEMER_CHECK(static_cast<int64_t>(ids.size()) >= at_least, ValueError, "[env] recv of ",
                 at_least, " environments into room for ", ids.size(), " ids");
  const std::vector<int64_t> now(sent_.begin(), sent_.begin() + at_least);
  const bool text = action_bytes_ == 0;
  run(text ? nullptr : sent_actions_.data(), text ? &sent_text_ : nullptr, now, at_least, out);
  std::copy(now.begin(), now.end(), ids.begin());
  for (const int64_t env : now) in_flight_[env] = 0;
  sent_.erase(sent_.begin(), sent_.begin() + at_least);
  sent_actions_.erase(0, at_least * spec_.rows * action_bytes_);
  if (text) {
    Ragged rest;
    for (int64_t row = at_least * spec_.rows; row < sent_text_.rows(); ++row) {
      rest.push(sent_text_.row(row));
    }
    sent_text_ = std::move(rest);
  }
  all_running_ = false;
  return at_least;
}

// --- the rest ----------------------------------------------------------------------------------

void BatchBase::observe(const StepBuffers& out) const {
  for (int64_t env = 0; env < envs_; ++env) {
    BESSEMER_CHECK(phase_[env] != Phase::unstarted, ValueError, "[env] observe before reset");
    observe_row(env, env * spec_.rows, out);
  }
  if (ragged_) flush_text({}, envs_, out);
}

void BatchBase::render(int64_t env, Canvas& canvas) const {
  check_env(env);
  BESSEMER_CHECK(phase_[env] != Phase::unstarted, ValueError, "[env] render before reset");
  draw_world(env, canvas);
}

std::string BatchBase::save(int64_t env) const {
  check_env(env);
  StateIo io;
  auto& self = const_cast<BatchBase&>(*this);  // a saving StateIo only reads
  io.bytes() = kMagic;
  std::string id = spec_.id;
  Pcg64::State rng = rng_[env].state();
  const int64_t agents = spec_.rows;
  std::vector<double> returns(return_.begin() + env * agents, return_.begin() + (env + 1) * agents);
  io(id, rng, self.seeded_[env], self.phase_[env], self.broken_[env], self.length_[env], returns);
  if (phase_[env] != Phase::unstarted && !broken_[env]) self.world_state(env, io);
  uint64_t hash = hash_bytes(io.bytes());
  io(hash);
  return std::move(io.bytes());
}

void BatchBase::load(int64_t env, std::string_view state) {
  check_env(env);
  constexpr size_t kHash = sizeof(uint64_t);
  BESSEMER_CHECK(state.size() > kMagic.size() + kHash, ValueError,
                 "[env] saved state is cut short: ", state.size(), " bytes");
  BESSEMER_CHECK(state.starts_with(kMagic.substr(0, 6)), ValueError,
                 "[env] these bytes are not a saved environment");
  BESSEMER_CHECK(state.starts_with(kMagic), ValueError, "[env] saved state has version ",
                 state.substr(6, 2), ", this program reads ", kMagic.substr(6));
  uint64_t hash = 0;
  std::memcpy(&hash, state.data() + state.size() - kHash, kHash);
  const std::string_view body = state.substr(0, state.size() - kHash);
  BESSEMER_CHECK(hash == hash_bytes(body), ValueError, "[env] saved state is damaged");
  StateIo io(body.substr(kMagic.size()));
  std::string id;
  io(id);
  BESSEMER_CHECK(id == spec_.id, ValueError, "[env] saved state is of ", id, ", not of ", spec_.id);
  Pcg64::State rng;
  uint8_t seeded, broken;
  Phase phase;
  int64_t length;
  std::vector<double> returns;
  io(rng, seeded, phase, broken, length, returns);
  BESSEMER_CHECK(phase <= Phase::ended && length >= 0, ValueError,
                 "[env] saved state has an impossible episode");
  BESSEMER_CHECK(static_cast<int64_t>(returns.size()) == spec_.rows, ValueError,
                 "[env] saved state has ", returns.size(), " rows, expected ", spec_.rows);
  if (phase != Phase::unstarted && !broken) world_state(env, io);
  BESSEMER_CHECK(io.exhausted(), ValueError, "[env] saved state has bytes left over");
  rng_[env].set_state(rng);
  seeded_[env] = seeded;
  phase_[env] = phase;
  broken_[env] = broken;
  length_[env] = length;
  std::copy(returns.begin(), returns.end(), return_.begin() + env * spec_.rows);
  all_running_ = false;
}

}  // namespace bessemer
