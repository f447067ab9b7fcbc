// Environments over the wire: what requests of a session mean (docs/protocol.md section 7).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/base/job_threads.h"
#include "core/base/thread_pool.h"
#include "core/wire/server.h"
#include "envs/env.h"
#include "envs/server/hosted.h"
#include "envs/server/python_batch.h"

namespace bessemer {

struct ServeOptions {
  std::vector<std::string> ids;  // Python ones by their file; empty: every registered one
  int64_t instances = 4096;      // environments of all sessions together
  int64_t instances_per_session = 4096;
  double seconds_per_session = 0;  // stepping time that a session may use; 0: no limit
  int threads = 1;                 // that step a batch
  double drain = 10;               // seconds that sessions have left after SIGTERM
  HostOptions host;                // of Python environments
  wire::Tokens tokens;             // that clients show; empty: none is asked for
  wire::ServerOptions wire;
};

/// What takes long (a step that did last time, anything of a Python environment, the making of many
/// environments) is carried out by threads of its own once `attach` was called; requests of one
/// session stay in order.
class EnvService final : public wire::Service {
 public:
  /// Throws ValueError for an unknown id, and what python_spec throws.
  explicit EnvService(const ServeOptions& options);
  ~EnvService() override;

  void open(wire::Session& session, const wire::Message& hello, wire::Message& welcome) override;
  std::optional<wire::Message> request(wire::Session& session, wire::Message& message) override;
  void close(wire::Session& session, std::string_view reason) override;
  /// `info`, and `control` with its verbs.
  wire::Message info(const wire::Message& ask) override;
  void stop() override;

  /// The server that polls this service: `info` states its counts, and replies may come later.
  void attach(wire::Server& server);

 private:
  struct Served {
    std::string name, id;  // as clients and as this process call it
    Spec spec;
    std::string hash;
    bool python = false;
  };
  /// Runs on another thread; what it returns runs on the thread that polls.
  using Job = std::function<std::function<void()>()>;

  const Served* find(const std::string& name) const;
  const Served& served(const std::string& name) const;
  static wire::List capabilities(bool python);
  std::unique_ptr<EnvBatch> make(const Served& env, const BatchOptions& batch) const;
  void greet(const Hosted& hosted, const Served& env, wire::Message& welcome) const;
  void open_elsewhere(const std::string& key, const std::shared_ptr<Hosted>& hosted,
                      const Served& env, const BatchOptions& batch);
  void begin_job(const std::shared_ptr<Hosted>& hosted, Job job);
  wire::Message control(const wire::Message& ask);
  wire::List sessions() const;
  void set_limits(const wire::Map& fields);
  void check_time(const Hosted& hosted) const;
  void account(Hosted& hosted, const wire::Message& request, const wire::Message& reply);
  void answer_elsewhere(const std::string& key, const std::shared_ptr<Hosted>& hosted,
                        wire::Message message);
  void next(const std::string& key, const std::shared_ptr<Hosted>& hosted);

  ServeOptions options_;
  std::vector<Served> served_;
  std::unique_ptr<ThreadPool> pool_;
  wire::Server* server_ = nullptr;
  std::map<std::string, std::shared_ptr<Hosted>> sessions_;  // by key
  std::set<std::shared_ptr<Hosted>> running_;
  int64_t instances_ = 0;
  uint64_t steps_ = 0;   // environment steps since the start
  double stepping_ = 0;  // seconds spent in them
  std::unique_ptr<JobThreads> jobs_;
};

/// Serves on `addresses` until SIGTERM or SIGINT: the first drains, a second ends at once. `ready`
/// gets the addresses with `*` resolved. Throws ValueError and IoError before anything is served.
void serve_environments(const ServeOptions& options, std::span<const std::string> addresses,
                        const std::function<void(std::span<const std::string>)>& ready);

}  // namespace bessemer
