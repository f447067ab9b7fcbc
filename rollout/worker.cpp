#include "rollout/worker.h"

#include <chrono>

#include "core/base/trace.h"
#include "core/wire/client.h"
#include "rollout/sample_message.h"

namespace bessemer {

using wire::Code;
using wire::Message;
using wire::WireError;

namespace {

constexpr double kDeadline = 10;  // for the hub's answer to a hello
constexpr double kForever = 1e7;  // a task may be long in coming; the hub's end is seen otherwise

Message failed(const char* kind, const std::exception& error) {
  Message message("failed");
  message.fields = {{"kind", kind}, {"message", error.what()}};
  return message;
}

/// Runs `work`; what it throws as the message for the hub.
template <class Work>
std::optional<Message> attempt(const Work& work) {
  try {
    work();
    return std::nullopt;
  } catch (const NotFiniteError& error) {
    return failed("not_finite", error);
  } catch (const ValueError& error) {
    return failed("value", error);
  } catch (const TypeError& error) {
    return failed("type", error);
  } catch (const IoError& error) {
    return failed("io", error);
  } catch (const std::exception& error) {
    return failed("other", error);
  }
}

class Worker {
 public:
  Worker(wire::Client& client, const WorkerFactory& factory) : client_(client), factory_(factory) {}

  void run() {
    const wire::Map& welcome = client_.welcome().fields;
    Message report("pull");
    if (auto problem = attempt([&] {
          build();
          if (welcome.flag("begin", false)) {
            state_ = parts_.sampler->state();
            state_message_.emplace(state_);
            state_message_->write(report);
          }
        })) {
      report = std::move(*problem);
      parts_ = {};
    }
    while (true) {
      Message task = [&] {
        const trace::Span span("send and wait");
        return client_.call(std::move(report), kForever);
      }();
      if (task.fields.flag("stop", false)) return;
      report = Message("samples");
      const uint64_t number = task.fields.count("task");
      if (auto problem = attempt([&] { collect(task, report); })) report = std::move(*problem);
      report.fields.set("task", number);
      trace::flush();
    }
  }

 private:
  void build() {
    const trace::Span span("build");
    const wire::Map& welcome = client_.welcome().fields;
    rows_ = welcome.integer("rows");
    parts_ = factory_(welcome.text("setup"), welcome.integer("first_row"), rows_);
  }

  void collect(const Message& task, Message& report) {
    if (!parts_.sampler) build();
    if (task.find("weights")) take_weights(read_weights(task));
    const uint64_t hash = task.fields.count("weights_hash");
    if (hash != hash_) {
      wire::refuse(Code::mismatch, "[worker] asked to act with weights ", hash, ", here are ",
                   hash_);
    }
    if (const auto state = read_state(task, rows_)) parts_.sampler->restore(*state);
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    episodes_.clear();
    parts_.sampler->collect(task.fields.integer("version"), episodes_);
    state_ = parts_.sampler->state();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    report.fields = {{"weights_hash", hash}, {"seconds", seconds}};
    rollout_message_.emplace(parts_.sampler->rollout(), episodes_);
    rollout_message_->write(report);
    state_message_.emplace(state_);
    state_message_->write(report);
  }

  void take_weights(const WeightSet& set) {
    const trace::Span span("weights");
    nn::NamedTensors policy = parts_.policy->named_parameters();
    assign_weights(policy, set);
    assign_normalizer(*parts_.normalizer, set);
    hash_ = set.hash;
  }

  wire::Client& client_;
  const WorkerFactory& factory_;
  int64_t rows_ = 0;
  WorkerParts parts_;
  uint64_t hash_ = 0;
  std::vector<EpisodeEnd> episodes_;
  // What the report on its way borrows.
  SourceState state_;
  std::optional<RolloutMessage> rollout_message_;
  std::optional<StateMessage> state_message_;
};

}  // namespace

WorkerEnd run_worker(const std::string& address, const std::string& name, const std::string& secret,
                     const WorkerFactory& factory) {
  Message hello;
  hello.fields = {{"worker", name}, {"secret", secret}};
  wire::ClientOptions options;
  options.deadline = kDeadline;
  options.shared_bytes = size_t{1} << 30;  // as much as the hub finds right
  options.socket.limits.bytes = size_t{1} << 40;
  options.socket.limits.header_bytes = size_t{16} << 20;
  wire::Client client(address, std::move(hello), options);
  try {
    Worker(client, factory).run();
    return WorkerEnd::stopped;
  } catch (const WireError& error) {
    if (error.code() != Code::no_session) throw;
    return WorkerEnd::orphaned;
  }
}

}  // namespace bessemer
