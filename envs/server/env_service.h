// Environments over the wire: what requests of a session mean (docs/protocol.md section 7).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/wire/server.h"
#include "envs/env.h"

namespace bessemer {

struct ServeOptions {
  std::vector<std::string> ids;  // empty: every registered environment
  int64_t instances = 4096;      // environments of all sessions together
  int64_t instances_per_session = 4096;
  double seconds_per_session = 0;  // stepping time that a session may use; 0: no limit
  int threads = 1;                 // that step a batch
  double drain = 10;               // seconds that sessions have left after SIGTERM
  wire::ServerOptions wire;
};

class EnvService final : public wire::Service {
 public:
  /// Throws ValueError for an unknown id.
  explicit EnvService(const ServeOptions& options);
  ~EnvService() override;

  void open(wire::Session& session, const wire::Message& hello, wire::Message& welcome) override;
  std::optional<wire::Message> request(wire::Session& session, wire::Message& message) override;
  void close(wire::Session& session, std::string_view reason) override;
  wire::Message info(const wire::Message& ask) override;

  /// Lets `info` state the server's counts too.
  void attach(const wire::Server& server) { server_ = &server; }

 private:
  struct Hosted;
  const std::string& served(const std::string& id) const;

  ServeOptions options_;
  std::vector<std::string> ids_;
  std::unique_ptr<ThreadPool> pool_;
  const wire::Server* server_ = nullptr;
  int64_t instances_ = 0;
  uint64_t steps_ = 0;   // environment steps since the start
  double stepping_ = 0;  // seconds spent in them
};

/// Serves on `addresses` until SIGTERM or SIGINT: the first drains, a second ends at once. `ready`
/// gets the addresses with `*` resolved. Throws ValueError and IoError before anything is served.
void serve_environments(const ServeOptions& options, std::span<const std::string> addresses,
                        const std::function<void(std::span<const std::string>)>& ready);

}  // namespace bessemer
