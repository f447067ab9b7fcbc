#include "rollout/task_worker.h"

#include <chrono>
#include <optional>

#include "core/base/trace.h"
#include "core/wire/client.h"

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

class Loop {
 public:
  Loop(wire::Client& client, const TaskWorkerFactory& factory)
      : client_(client), factory_(factory) {}

  void run() {
    Message report("pull");
    if (auto problem = attempt([&] {
          build();
          worker_->begin(client_.welcome().fields, report);
        })) {
      report = std::move(*problem);
      worker_.reset();
    }
    while (true) {
      Message task = [&] {
        const trace::Span span("send and wait");
        return client_.call(std::move(report), kForever);
      }();
      if (task.fields.flag("stop", false)) return;
      report = Message("samples");
      const uint64_t number = task.fields.count("task");
      if (auto problem = attempt([&] { perform(task, report); })) {
        report = std::move(*problem);
        worker_.reset();  // wherever it stopped, it begins anew
      }
      report.fields.set("task", number);
      trace::flush();
    }
  }

 private:
  void build() {
    const trace::Span span("build");
    hash_.reset();
    worker_ = factory_(client_.welcome().fields);
  }

  void perform(const Message& task, Message& report) {
    if (!worker_) build();
    if (task.find("weights")) {
      const trace::Span span("weights");
      const WeightSet set = read_weights(task);
      worker_->assign(set);
      hash_ = set.hash;
    }
    const uint64_t hash = task.fields.count("weights_hash");
    if (!hash_ || hash != *hash_) {
      wire::refuse(Code::mismatch, "[worker] asked to act with weights ", hash, ", here are ",
                   hash_ ? cat(*hash_) : "none");
    }
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    worker_->perform(task, report);
    report.fields.set("weights_hash", hash);
    report.fields.set("seconds", std::chrono::duration<double>(Clock::now() - begin).count());
  }

  wire::Client& client_;
  const TaskWorkerFactory& factory_;
  std::unique_ptr<TaskWorker> worker_;
  std::optional<uint64_t> hash_;  // of what it was assigned
};

}  // namespace

WorkerEnd run_tasks(const std::string& address, const std::string& name, const std::string& secret,
                    const TaskWorkerFactory& factory) {
  Message hello;
  hello.fields = {{"worker", name}, {"secret", secret}};
  wire::ClientOptions options;
  options.deadline = kDeadline;
  options.shared_bytes = size_t{1} << 30;  // as much as the hub finds right
  options.socket.limits.bytes = size_t{1} << 40;
  options.socket.limits.header_bytes = size_t{16} << 20;
  wire::Client client(address, std::move(hello), options);
  try {
    Loop(client, factory).run();
    return WorkerEnd::stopped;
  } catch (const WireError& error) {
    if (error.code() != Code::no_session) throw;
    return WorkerEnd::orphaned;
  }
}

}  // namespace bessemer
