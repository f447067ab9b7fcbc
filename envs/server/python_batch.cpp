#include "envs/server/python_batch.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "envs/batch_base.h"
#include "envs/registry.h"
#include "envs/render/canvas.h"
#include "envs/wire/spec_map.h"

namespace bessemer {
namespace {

using Clock = HostProcess::Clock;

constexpr uint8_t kRebuild = 1, kSeeded = 2;  // flags of a reset
constexpr double kCloseGrace = 2;             // seconds to close environments at the end

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Reads an outcome's fields in order; what the process sent is not trusted.
struct Reader {
  std::string_view rest;
  const char* take(size_t size) {
    if (rest.size() < size) throw HostError("its answer is cut short");
    const char* at = rest.data();
    rest.remove_prefix(size);
    return at;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
};

std::string target_of(const std::string& id) { return id.starts_with("py:") ? id.substr(3) : id; }

wire::Map option_map(const Options& options) {
  wire::Map map;
  for (const auto& [name, text] : options) map.set(name, text);
  return map;
}

wire::Map asked_map(HostProcess& process, char letter, const Options& options, double seconds) {
  process.push(letter, wire::pack({{"options", option_map(options)}}));
  process.flush();
  const std::string frame = process.answer(seconds);
  return wire::unpack(std::string_view(frame).substr(1));
}

Spec ask_spec(HostProcess& process, const Options& options, const HostOptions& host) {
  wire::Map spec = asked_map(process, 'D', options, host.start_deadline);
  try {
    for (auto& [key, value] : asked_map(process, 'I', options, host.deadline).items) {
      spec.set(key, std::move(value));
    }
  } catch (const HostGone&) {
    // An environment that a random action brings down has no infos, and says why in its turn.
  } catch (const HostError&) {
  }
  Spec out = spec_from_map(spec);
  check_spec(out);
  return out;
}

class PythonBatch final : public BatchBase {
 public:
  PythonBatch(const Spec& spec, const std::string& id, const BatchOptions& options,
              const HostOptions& host)
      : BatchBase(spec, options), host_(host), given_(options.options) {
    int64_t count = host.processes;
    if (count == 0) count = std::max<int64_t>(8, 2 * std::thread::hardware_concurrency());
    count = std::min(count, envs_);
    for (int64_t p = 0; p < count; ++p) {
      Process& process = processes_.emplace_back(target_of(id), host);
      process.first = envs_ * p / count;
      process.instances = envs_ * (p + 1) / count - process.first;
      for (int64_t i = 0; i < process.instances; ++i) instances_.push_back({p});
    }
    // All of them start at once, and only then is any of them waited for.
    for (Process& process : processes_) start(process);
    for (Process& process : processes_) {
      process.starting = 0;
      process.host.answer(host_.start_deadline);
      process.host.answer(host_.start_deadline);
    }
  }

  ~PythonBatch() override {
    const auto end = host_deadline(kCloseGrace);
    for (Process& process : processes_) {
      const double left = std::chrono::duration<double>(end - Clock::now()).count();
      // One that is in the middle of something would not hear it.
      process.queue.empty() ? process.host.stop(std::max(0.05, left)) : process.host.kill();
    }
  }

 protected:
  struct Instance {
    int64_t process = 0;
    bool waited = false;  // a frame is under way
    bool fresh = true;    // built and not used since
    std::string last;     // the last outcome, from the observation on
    std::string answer;   // a frame that came
    std::string lost;     // why its world is gone
  };
  struct Process {
    Process(std::string target, const HostOptions& options)
        : host(std::move(target), "env", options) {}
    HostProcess host;
    int64_t first = 0, instances = 0;
    int starting = 0;           // answers of a restart that have not come
    std::deque<int64_t> queue;  // environments whose answers are under way, in order
    Clock::time_point due;      // of the first of them
  };

  // Processes

  void start(Process& process) {
    process.host.start();
    wire::List infos;
    for (const Channel& channel : spec_.infos) {
      wire::List shape;
      for (const int64_t size : channel.shape) shape.emplace_back(size);
      infos.emplace_back(wire::Map{{"name", channel.name},
                                   {"dtype", dtype_name(channel.dtype)},
                                   {"shape", std::move(shape)}});
    }
    process.host.push('M', wire::pack({{"options", option_map(given_)},
                                       {"count", process.instances},
                                       {"infos", std::move(infos)}}));
    process.host.flush();
    process.starting = 2;
    process.queue.clear();
    process.due = host_deadline(host_.start_deadline);
  }

  /// The process is gone: every instance of it has lost its world, `culprit` (if it is known)
  /// because of itself. Another one is started at once.
  void lose(Process& process, const std::string& reason, int64_t culprit) {
    process.host.kill();
    process.queue.clear();
    process.starting = 0;
    for (int64_t env = process.first; env < process.first + process.instances; ++env) {
      Instance& instance = instances_[env];
      instance.waited = false;  // an answer that came before still counts
      instance.fresh = true;
      instance.lost = env == culprit || culprit < 0
                          ? reason
                          : cat("the process that it shared with environment ", culprit,
                                " was ended: ", reason);
    }
    try {
      start(process);
    } catch (const std::exception&) {
      // The next reset tries again and tells.
    }
  }

  void ask(int64_t env, char letter, std::string_view payload) {
    Instance& instance = instances_[env];
    Process& process = processes_[instance.process];
    std::string frame;
    put(frame, static_cast<uint32_t>(env - process.first));
    frame += payload;
    process.host.push(letter, frame);
    if (process.queue.empty() && process.starting == 0) process.due = host_deadline(host_.deadline);
    process.queue.push_back(env);
    instance.waited = true;
  }

  void flush(Process& process) {
    try {
      process.host.flush();
    } catch (const HostGone& gone) {
      lose(process, gone.what(), process.queue.empty() ? -1 : process.queue.front());
    }
  }
  void flush_all() {
    for (Process& process : processes_) flush(process);
  }

  /// Waits for the answer to what `env` was asked; in `lost` where there will be none.
  void collect(int64_t env) {
    Instance& instance = instances_[env];
    Process& process = processes_[instance.process];
    while (instance.waited && instance.answer.empty()) {
      const int64_t first = process.queue.empty() ? env : process.queue.front();
      try {
        std::optional<std::string> frame = process.host.receive(process.due);
        if (!frame) {
          lose(process, late(process), process.starting > 0 ? -1 : first);
        } else if (process.starting > 0) {
          started(process, *frame);
        } else {
          take(process, std::move(*frame));
        }
      } catch (const HostGone& gone) {
        lose(process, gone.what(), process.starting > 0 ? -1 : first);
      } catch (...) {
        abandon();
        throw;
      }
    }
    instance.waited = false;
  }

  std::string late(const Process& process) const {
    return process.starting > 0
               ? cat("it did not start within ", host_.start_deadline, " s")
               : cat("no answer within ", host_.deadline, " s; its process was ended");
  }

  void started(Process& process, const std::string& frame) {
    if (frame[0] == 'E') {
      const wire::Map error = wire::unpack(std::string_view(frame).substr(1));
      throw HostGone(cat("it could not be built again: ", error.text("text")));
    }
    if (--process.starting == 0) process.due = host_deadline(host_.deadline);
  }

  void take(Process& process, std::string frame) {
    Reader reader{frame};
    reader.take(1);
    const int64_t env = process.first + reader.number<uint32_t>();
    if (process.queue.empty() || env != process.queue.front()) {
      throw HostGone("it answered what it was not asked");
    }
    process.queue.pop_front();
    process.due = host_deadline(host_.deadline);
    const bool last = frame[0] == 'Z';
    if (last) frame[0] = 'F';
    instances_[env].answer = std::move(frame);
    if (last) lose(process, "it ran out of memory", env);
  }

  /// The caller gave up in the middle: what is under way will never be asked for.
  void abandon() {
    for (Process& process : processes_) {
      if (!process.queue.empty()) lose(process, "its step was interrupted", -1);
    }
  }

  /// Answers that are no good, as errors with their reason.
  std::string_view checked(int64_t env, char letter) {
    Instance& instance = instances_[env];
    if (instance.answer.empty()) throw HostError(instance.lost);
    const std::string_view frame = instance.answer;
    if (frame[0] == 'F') throw HostError(std::string(frame.substr(5)));
    if (frame[0] != letter) throw HostError("it answered what it was not asked");
    return frame.substr(5);
  }

  /// One question about one instance, now.
  std::string asked(int64_t env, char letter, std::string_view payload, char answer) {
    ask(env, letter, payload);
    flush(processes_[instances_[env].process]);
    collect(env);
    std::string body(checked(env, answer));
    instances_[env].answer.clear();
    return body;
  }

  // Episodes

  void ask_reset(int64_t env, const uint64_t* seed, const Settings& options) {
    Instance& instance = instances_[env];
    Process& process = processes_[instance.process];
    if (!process.host.started()) start(process);
    std::string payload;
    const bool rebuild = broken_[env] && !instance.fresh;
    put<uint8_t>(payload, (rebuild ? kRebuild : 0) | (seed ? kSeeded : 0));
    put<uint64_t>(payload, seed ? *seed : 0);
    if (!spec_.reset_options.empty()) {
      wire::Map map;
      for (const Option& option : spec_.reset_options) {
        switch (option.type) {
          case Option::Type::boolean:
            map.set(option.name, options.boolean(option.name));
            break;
          case Option::Type::integer:
            map.set(option.name, options.integer(option.name));
            break;
          case Option::Type::number:
            map.set(option.name, options.number(option.name));
            break;
          case Option::Type::text:
            map.set(option.name, options.text(option.name));
        }
      }
      payload += wire::pack(map);
    }
    instance.lost.clear();
    instance.fresh = false;
    ask(env, 'R', payload);
  }

  void begin_resets(std::span<const int64_t> ids, std::span<const uint64_t> seeds,
                    const Settings& options) override {
    for (size_t i = 0; i < ids.size(); ++i) {
      ask_reset(ids[i], seeds.empty() ? nullptr : &seeds[i], options);
    }
    flush_all();
  }

  void begin_steps(const void* data, const Ragged* text, std::span<const int64_t> ids,
                   int64_t count) override {
    const Channel& channel = spec_.action[0];
    const auto bytes =
        static_cast<size_t>(channel.numel()) * (data ? dtype_size(channel.dtype) : 0);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t env = ids.empty() ? i : ids[i];
      if (phase_[env] == Phase::ended) {
        ask_reset(env, nullptr, fallback_);
      } else if (instances_[env].lost.empty()) {
        ask(env, 'A',
            data ? std::string_view(static_cast<const char*>(data) + i * bytes, bytes)
                 : text->row(i));
      }
    }
    flush_all();
  }

  bool start_world(int64_t env, const Settings& options) override {
    Instance& instance = instances_[env];
    try {
      if (!instance.waited) {
        ask_reset(env, nullptr, options);
        flush(processes_[instance.process]);
      }
      collect(env);
      instance.last = checked(env, 'O').substr(sizeof(uint8_t) + sizeof(double));
      check_outcome(instance.last);
      instance.answer.clear();
      broken_[env] = 0;
      return true;
    } catch (const HostError&) {
      remember_fault(env, std::current_exception());
    } catch (const IoError&) {  // no interpreter any more
      remember_fault(env, std::current_exception());
    }
    instance.answer.clear();
    return false;
  }

  void step_range(const Range& range, const StepBuffers& out) override {
    // First everything comes in; where an episode ended its reset goes out before any is waited
    // for.
    for (int64_t env = range.low; env < range.high; ++env) {
      if (phase_[env] != Phase::ended) collect(env);
    }
    bool resets = false;
    for (int64_t env = range.low; env < range.high; ++env) {
      if (phase_[env] == Phase::ended) continue;
      const int64_t row = range.out_row + env - range.low;
      Instance& instance = instances_[env];
      try {
        Reader reader{checked(env, 'O')};
        const uint8_t flags = reader.number<uint8_t>();
        const double reward = reader.number<double>();
        check_outcome(reader.rest);
        instance.last = reader.rest;
        ++length_[env];
        return_[env] += reward;
        const bool truncated = (flags & 2) || (limit_ > 0 && length_[env] >= limit_);
        if (out.reward) out.reward[row] = static_cast<float>(reward);
        if (out.terminated) out.terminated[row] = flags & 1;
        if (out.truncated) out.truncated[row] = truncated;
        if (out.fault) out.fault[row] = 0;
        over_[env - range.low] = (flags & 1) || truncated ? Over::ended : Over::no;
      } catch (const HostError&) {
        remember_fault(env, std::current_exception());
        broken_[env] = 1;
        over_[env - range.low] = Over::fault;
      }
      instance.answer.clear();
      if (over_[env - range.low] != Over::no && autoreset_ == Autoreset::same_step) {
        ask_reset(env, nullptr, fallback_);
        resets = true;
      }
    }
    if (resets) flush_all();
    for (int64_t env = range.low; env < range.high; ++env) {
      const int64_t row = range.out_row + env - range.low;
      if (phase_[env] == Phase::ended) {  // autoreset next_step; its action was ignored
        clear_row(row, out);
        restart(env, row, fallback_, out);
        continue;
      }
      if (over_[env - range.low] == Over::fault) {
        fault(env, row, out);
        continue;
      }
      observe_world(env, row, out);
      if (over_[env - range.low] == Over::ended) finish(env, row, out);
    }
  }

  // Outcomes

  /// Throws HostError unless the bytes hold what the Spec says.
  void check_outcome(std::string_view bytes) const {
    Reader reader{bytes};
    for (size_t c = 0; c < spec_.observation.size(); ++c) {
      const bool text = spec_.observation[c].ragged;
      reader.take(text ? reader.number<uint32_t>() : static_cast<size_t>(obs_bytes_[c]));
    }
    for (const int64_t bytes_of : info_bytes_) reader.take(static_cast<size_t>(bytes_of));
    if (!reader.rest.empty()) throw HostError("its answer has bytes left over");
  }

  void read_observation(Reader& reader, RowOut& out) const {
    for (size_t c = 0; c < spec_.observation.size(); ++c) {
      const int at = static_cast<int>(c);
      if (spec_.observation[c].ragged) {
        const auto size = reader.number<uint32_t>();
        out.text(at, {reader.take(size), size});
      } else {
        std::memcpy(out.dense<char>(at), reader.take(obs_bytes_[c]), obs_bytes_[c]);
      }
    }
  }

  void observe_world(int64_t env, int64_t row, const StepBuffers& out) const override {
    void* pointers[kMaxChannels];
    Reader reader{instances_[env].last};
    RowOut obs = row_out(out.obs, obs_bytes_, row, pointers, text_of(text_, env, 0));
    read_observation(reader, obs);
    if (out.infos.empty()) return;
    RowOut info = row_out(out.infos, info_bytes_, row, pointers, {});
    for (size_t c = 0; c < info_bytes_.size(); ++c) {
      std::memcpy(info.dense<char>(static_cast<int>(c)), reader.take(info_bytes_[c]),
                  info_bytes_[c]);
    }
  }

  void observe_final(int64_t env, int64_t row, const StepBuffers& out) const override {
    void* pointers[kMaxChannels];
    Reader reader{instances_[env].last};
    RowOut obs = row_out(out.final_obs, obs_bytes_, row, pointers, text_of(final_text_, env, 0));
    read_observation(reader, obs);
  }

  /// What cannot be pickled is saved as nothing; loaded, it is a fault in the next step.
  void world_state(int64_t env, StateIo& io) override {
    Instance& instance = instances_[env];
    std::string pickled;
    uint8_t there = 1;
    if (!io.loading()) {
      try {
        pickled = asked(env, 'W', {}, 'B');
      } catch (const HostError&) {
        there = 0;
      }
    }
    io(there, instance.last, pickled);
    if (!io.loading()) return;
    check_outcome(instance.last);
    if (!there) {
      instance.lost = "its state could not be saved: it cannot be pickled";
      return;
    }
    try {
      asked(env, 'X', pickled, 'B');
      instance.lost.clear();
      instance.fresh = false;
    } catch (const HostError& error) {
      fail<ValueError>("[env] saved state of environment ", env, ": ", error.what());
    }
  }

  void draw_world(int64_t env, Canvas& canvas) const override {
    auto& self = const_cast<PythonBatch&>(*this);
    std::string body;
    try {
      body = self.asked(env, 'P', {}, 'G');
    } catch (const HostError& error) {
      fail<ValueError>("[env] ", spec_.id, " has no picture: ", error.what());
    }
    Reader reader{body};
    const auto height = reader.number<uint32_t>(), width = reader.number<uint32_t>();
    BESSEMER_CHECK(height > 0 && width > 0 && height <= 8192 && width <= 8192 &&
                       reader.rest.size() == size_t{3} * height * width,
                   ValueError, "[env] a picture of ", width, " x ", height, " in ",
                   reader.rest.size(), " bytes");
    Canvas picture(static_cast<int>(width), static_cast<int>(height));
    std::memcpy(picture.writable_pixels().data(), reader.rest.data(), reader.rest.size());
    canvas.blit(picture, 0, 0);
  }

 private:
  enum class Over : uint8_t { no, ended, fault };

  HostOptions host_;
  Options given_;
  std::deque<Process> processes_;
  std::vector<Instance> instances_;
  std::vector<Over> over_ = std::vector<Over>(static_cast<size_t>(envs_));
};

const Spec& scheme_spec(const std::string& id) { return python_spec(id, {}, {}); }

std::unique_ptr<EnvBatch> scheme_make(const std::string& id, const BatchOptions& given) {
  BatchOptions options = given;
  const HostOptions host = take_host_options(options.options);
  return make_python_batch(id, options, host);
}

[[maybe_unused]] const bool registered =
    (set_python_environments({is_python_environment, scheme_spec, scheme_make}), true);

}  // namespace

HostOptions take_host_options(Options& options, HostOptions host) {
  const std::vector<Option> known = {
      {.name = "host_processes",
       .type = Option::Type::integer,
       .fallback = cat(host.processes),
       .min = 0,
       .max = 4096},
      {.name = "host_deadline", .fallback = cat(host.deadline), .min = 0.01, .max = 1e6},
      {.name = "host_start_deadline", .fallback = cat(host.start_deadline), .min = 0.1, .max = 1e6},
      {.name = "host_memory",
       .type = Option::Type::integer,
       .fallback = cat(host.memory),
       .min = 0,
       .max = 1 << 24}};
  Options mine;
  std::erase_if(options, [&](const auto& item) {
    if (!item.first.starts_with("host_")) return false;
    mine.push_back(item);
    return true;
  });
  const Settings settings(known, mine, "a Python environment's host");
  host.processes = settings.integer("host_processes");
  host.deadline = settings.number("host_deadline");
  host.start_deadline = settings.number("host_start_deadline");
  host.memory = settings.integer("host_memory");
  return host;
}

bool is_python_environment(const std::string& id) {
  return id.starts_with("py:") || id.find(".py:") != std::string::npos;
}

const Spec& python_spec(const std::string& id, const Options& options, const HostOptions& host) {
  static std::mutex mutex;
  static std::map<std::string, Spec> known;
  std::string key = target_of(id);
  for (const auto& [name, text] : options) key += cat('\n', name, '=', text);
  {
    std::lock_guard lock(mutex);
    const auto found = known.find(key);
    if (found != known.end()) return found->second;
  }
  HostProcess process(target_of(id), "env", host);
  Spec spec;
  try {
    process.start();
    process.answer(host.start_deadline);
    spec = ask_spec(process, options, host);
  } catch (const HostGone& gone) {
    throw HostError(cat("[host] ", target_of(id), ": ", gone.what()));
  }
  process.stop(kCloseGrace);
  std::lock_guard lock(mutex);
  return known.emplace(key, std::move(spec)).first->second;
}

std::unique_ptr<EnvBatch> make_python_batch(const std::string& id, const BatchOptions& given,
                                            const HostOptions& host) {
  const Spec& spec = python_spec(id, given.options, host);
  BatchOptions options = given;
  options.pool = nullptr;  // the processes are what runs side by side
  try {
    return std::make_unique<PythonBatch>(spec, id, options, host);
  } catch (const HostGone& gone) {
    throw HostError(cat("[host] ", target_of(id), ": ", gone.what()));
  }
}

}  // namespace bessemer
