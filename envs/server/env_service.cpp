#include "envs/server/env_service.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <optional>
#include <utility>

#include "core/base/wait_check.h"
#include "envs/wire/spec_map.h"

namespace bessemer {

using wire::Code;
using wire::List;
using wire::Map;
using wire::Message;
using wire::Value;

namespace {

constexpr std::string_view kCapabilities[] = {"ids", "snapshot", "fork", "render", "replay"};
/// Environments of a session that are made on the thread that polls.
constexpr int64_t kOpenInline = 1024;

Autoreset autoreset_of(const std::string& name) {
  if (name == "next_step") return Autoreset::next_step;
  if (name == "same_step") return Autoreset::same_step;
  if (name == "disabled") return Autoreset::disabled;
  wire::refuse(Code::bad_value, "[env] autoreset is '", name,
               "', expected next_step, same_step or disabled");
}

}  // namespace

EnvService::EnvService(const ServeOptions& options) : options_(options) {
  const std::vector<std::string> ids = options.ids.empty() ? env_ids() : options.ids;
  for (const std::string& id : ids) {
    const bool python = in_processes(id);
    const Spec& spec = python ? python_spec(id, {}, options.host) : env_spec(id);
    const std::string& name = python ? spec.id : id;
    BESSEMER_CHECK(!find(name), ValueError, "[env] '", name, "' would be served twice");
    served_.push_back({name, id, spec, spec_hash(spec), python});
  }
  if (options.threads != 1) pool_ = std::make_unique<ThreadPool>(options.threads);
}
EnvService::~EnvService() { EnvService::stop(); }

void EnvService::attach(wire::Server& server) {
  server_ = &server;
  jobs_ = std::make_unique<JobThreads>();
}

void EnvService::stop() {
  for (const auto& hosted : running_) hosted->cancelled = true;
  jobs_.reset();
  running_.clear();
  server_ = nullptr;
}

const EnvService::Served* EnvService::find(const std::string& name) const {
  const auto found = std::ranges::find_if(
      served_, [&](const Served& env) { return env.name == name || env.id == name; });
  return found == served_.end() ? nullptr : &*found;
}

const EnvService::Served& EnvService::served(const std::string& name) const {
  if (const Served* found = find(name)) return *found;
  std::vector<std::string> names;
  for (const Served& one : served_) names.push_back(one.name);
  wire::refuse(Code::unknown_name, "[env] '", name, "' is not served here",
               did_you_mean(name, names));
}

List EnvService::capabilities(bool python) {
  List list;
  for (const std::string_view name : kCapabilities) {
    if (!python || name == "ids" || name == "render") list.emplace_back(name);
  }
  return list;
}

// Sessions

void EnvService::open(wire::Session& session, const Message& hello, Message& welcome) {
  const Map& fields = hello.fields;
  if (!options_.tokens.may_act(fields.text("token", ""))) {
    wire::refuse(Code::denied, "[env] a token is asked for here, and this is none that may act");
  }
  const Served& env = served(fields.text("env"));
  if (const std::string wanted = fields.text("spec_hash", "");
      !wanted.empty() && wanted != env.hash) {
    wire::refuse(Code::mismatch, "[env] ", env.name, " has specification ", env.hash,
                 " here, the client's is ", wanted);
  }
  const int64_t envs = fields.integer("num_envs", 1);
  if (envs < 1) wire::refuse(Code::bad_value, "[env] num_envs is ", envs);
  if (envs > options_.instances_per_session) {
    wire::refuse(Code::capacity, "[env] ", envs, " environments asked for, a session may have ",
                 options_.instances_per_session);
  }
  if (envs > options_.instances - instances_) {
    wire::refuse(Code::capacity, "[env] ", envs, " environments asked for, ",
                 options_.instances - instances_, " of ", options_.instances, " are free");
  }
  BatchOptions batch;
  batch.num_envs = envs;
  batch.options = options_of(fields, "options");
  batch.autoreset = autoreset_of(fields.text("autoreset", "next_step"));
  if (const Value* steps = fields.find("max_episode_steps"); steps && !steps->null()) {
    batch.max_episode_steps = steps->integer("max_episode_steps");
  }
  batch.pool = pool_.get();
  const std::string arithmetic = fields.text("arithmetic", "lanes");
  if (arithmetic != "lanes" && arithmetic != "plain") {
    wire::refuse(Code::bad_value, "[env] arithmetic is '", arithmetic,
                 "', expected lanes or plain");
  }
  batch.arithmetic = arithmetic == "plain" ? Arithmetic::plain : Arithmetic::lanes;
  auto hosted = std::make_shared<Hosted>(env.name, envs, env.python);
  hosted->client = fields.text("client");
  if (server_ && (env.python || envs > kOpenInline)) {
    session.opening = true;
    open_elsewhere(session.key, hosted, env, batch);
  } else {
    hosted->use(make(env, batch));
    greet(*hosted, env, welcome);
  }
  instances_ += envs;
  sessions_[session.key] = hosted;
  session.data = std::move(hosted);
}

std::unique_ptr<EnvBatch> EnvService::make(const Served& env, const BatchOptions& batch) const {
  return env.python ? make_python_batch(env.id, batch, options_.host) : make_batch(env.id, batch);
}

void EnvService::greet(const Hosted& hosted, const Served& env, Message& welcome) const {
  welcome.fields.set("server", "bessemer " BESSEMER_VERSION);
  welcome.fields.set("env", env.name);
  welcome.fields.set("num_envs", hosted.envs);
  welcome.fields.set("spec", spec_to_map(hosted.batch().spec()));
  welcome.fields.set("spec_hash", env.hash);
  welcome.fields.set("capabilities", capabilities(env.python));
}

void EnvService::open_elsewhere(const std::string& key, const std::shared_ptr<Hosted>& hosted,
                                const Served& env, const BatchOptions& batch) {
  begin_job(hosted, [this, key, hosted, &env, batch]() -> std::function<void()> {
    std::optional<wire::WireError> problem;
    try {
      hosted->use(make(env, batch));
    } catch (...) {
      problem = wire::current_error();
    }
    return [this, key, hosted, &env, problem] {
      if (problem) return server_->deny(key, problem->code(), problem->what());
      Message welcome;
      greet(*hosted, env, welcome);
      server_->welcome(key, std::move(welcome));
    };
  });
}

void EnvService::close(wire::Session& session, std::string_view) {
  if (!session.data) return;
  auto hosted = std::static_pointer_cast<Hosted>(session.data);
  session.data.reset();
  sessions_.erase(session.key);
  instances_ -= hosted->envs;
  hosted->closed = true;
  hosted->cancelled = true;
  // Processes take their time to end.
  if (hosted->python && jobs_)
    jobs_->run([hosted = std::move(hosted)]() mutable { hosted.reset(); });
}

// Requests

void EnvService::begin_job(const std::shared_ptr<Hosted>& hosted, Job job) {
  hosted->running = true;
  running_.insert(hosted);
  jobs_->run([this, hosted, job = std::move(job)] {
    wait_cancelled = &hosted->cancelled;
    std::function<void()> done = job();
    wait_cancelled = nullptr;
    // The reply's arrays lie in the environments' buffers: the next request waits until it is sent.
    server_->post([this, hosted, done = std::move(done)] {
      hosted->running = false;
      running_.erase(hosted);
      if (!hosted->closed) done();
    });
  });
}

std::optional<Message> EnvService::request(wire::Session& session, Message& message) {
  const auto hosted = std::static_pointer_cast<Hosted>(session.data);
  if (hosted->running || !hosted->waiting.empty()) {
    hosted->waiting.push_back(std::move(message));
    return std::nullopt;
  }
  check_time(*hosted);
  if (!server_ || hosted->quick(message)) {
    Message reply = hosted->answer(message);
    account(*hosted, message, reply);
    return reply;
  }
  answer_elsewhere(session.key, hosted, std::move(message));
  return std::nullopt;
}

void EnvService::check_time(const Hosted& hosted) const {
  if (options_.seconds_per_session > 0 && hosted.spent > options_.seconds_per_session) {
    wire::refuse(Code::capacity, "[env] this session has used its ", options_.seconds_per_session,
                 " s");
  }
}

void EnvService::account(Hosted& hosted, const Message& request, const Message& reply) {
  hosted.spent += hosted.last_seconds;
  if (request.type != "step") return;
  const int64_t rows = reply.find("outcome")->numel();
  const auto steps = static_cast<uint64_t>(rows / hosted.batch().spec().rows);
  hosted.steps += steps;
  steps_ += steps;
  stepping_ += hosted.last_seconds;
}

void EnvService::answer_elsewhere(const std::string& key, const std::shared_ptr<Hosted>& hosted,
                                  Message message) {
  begin_job(hosted, [this, key, hosted, message = std::move(message)]() -> std::function<void()> {
    Message reply;
    std::optional<wire::WireError> problem;
    try {
      reply = hosted->answer(message);
    } catch (...) {
      problem = wire::current_error();
    }
    return [this, key, hosted, message, reply = std::move(reply), problem] {
      if (problem) {
        server_->reply_error(key, message.id, problem->code(), problem->what());
      } else {
        account(*hosted, message, reply);
        server_->reply(key, message.id, reply);
      }
      next(key, hosted);
    };
  });
}

/// Those that came meanwhile, until one of them takes long again.
void EnvService::next(const std::string& key, const std::shared_ptr<Hosted>& hosted) {
  while (!hosted->waiting.empty() && !hosted->running && !hosted->closed) {
    Message message = std::move(hosted->waiting.front());
    hosted->waiting.pop_front();
    try {
      check_time(*hosted);
      if (!hosted->quick(message)) {
        answer_elsewhere(key, hosted, std::move(message));
        return;
      }
      Message reply = hosted->answer(message);
      account(*hosted, message, reply);
      server_->reply(key, message.id, std::move(reply));
    } catch (...) {
      const wire::WireError error = wire::current_error();
      server_->reply_error(key, message.id, error.code(), error.what());
    }
  }
}

// Without a session

Message EnvService::info(const Message& ask) {
  if (ask.type == "control") return control(ask);
  if (ask.type != "info") {
    wire::refuse(Code::unknown_type, "[env] '", ask.type, "' needs a session");
  }
  List envs;
  for (const Served& env : served_) {
    envs.emplace_back(Map{{"id", env.name},
                          {"spec_hash", env.hash},
                          {"capabilities", capabilities(env.python)},
                          {"spec", spec_to_map(env.spec)}});
  }
  Message reply;
  reply.fields = {{"server", "bessemer " BESSEMER_VERSION},
                  {"service", "env"},
                  {"protocol", List{Value(wire::kProtocol)}},
                  {"capabilities", capabilities(false)},
                  {"envs", std::move(envs)},
                  {"instances", instances_},
                  {"max_instances", options_.instances},
                  {"steps", steps_},
                  {"stepping_seconds", stepping_}};
  if (server_) {
    reply.fields.set("incarnation", server_->incarnation());
    reply.fields.set("wire", server_->stats());
  }
  return reply;
}

Message EnvService::control(const Message& ask) {
  const Map& fields = ask.fields;
  if (!options_.tokens.may_control(fields.text("token", ""))) {
    wire::refuse(Code::denied, "[env] control asks for a token, and this is none that may");
  }
  if (!server_) wire::refuse(Code::unsupported, "[env] this service has no server");
  const std::string& verb = fields.text("verb");
  Message reply;
  if (verb == "sessions") {
    reply.fields.set("sessions", sessions());
  } else if (verb == "limits") {
    set_limits(fields);
    reply.fields = {{"instances", options_.instances},
                    {"instances_per_session", options_.instances_per_session},
                    {"seconds_per_session", options_.seconds_per_session}};
  } else if (verb == "drain") {
    const double seconds = fields.number("seconds", options_.drain);
    if (!(seconds >= 0)) wire::refuse(Code::bad_value, "[env] seconds is ", seconds);
    server_->drain(seconds);
  } else if (verb == "stop") {
    server_->stop();
  } else if (verb == "close") {
    const std::string& client = fields.text("client");
    const auto found = std::ranges::find_if(
        sessions_, [&](const auto& item) { return item.second->client == client; });
    if (found == sessions_.end()) {
      wire::refuse(Code::unknown_name, "[env] no session of a client '", client, "'");
    }
    const std::string key = found->first;
    server_->end(key, "control");
  } else {
    const std::vector<std::string> verbs{"sessions", "limits", "drain", "stop", "close"};
    wire::refuse(Code::unknown_name, "[env] no verb '", verb, "'", did_you_mean(verb, verbs));
  }
  return reply;
}

/// Keys are left out: who knows one may use the session.
List EnvService::sessions() const {
  List list;
  for (const auto& [key, hosted] : sessions_) {
    list.emplace_back(Map{{"client", hosted->client},
                          {"env", hosted->id},
                          {"num_envs", hosted->envs},
                          {"steps", hosted->steps},
                          {"seconds", hosted->spent},
                          {"waiting", static_cast<uint64_t>(hosted->waiting.size())},
                          {"busy", hosted->running}});
  }
  return list;
}

void EnvService::set_limits(const Map& fields) {
  const int64_t instances = fields.integer("instances", options_.instances);
  const int64_t each = fields.integer("instances_per_session", options_.instances_per_session);
  const double seconds = fields.number("seconds_per_session", options_.seconds_per_session);
  if (instances < 1 || each < 1 || !(seconds >= 0)) {
    wire::refuse(Code::bad_value, "[env] limits of ", instances, " and ", each, " instances and ",
                 seconds, " s");
  }
  options_.instances = instances;
  options_.instances_per_session = each;
  options_.seconds_per_session = seconds;
}

namespace {

std::atomic<wire::Server*> signalled{nullptr};
std::atomic<double> drain_seconds{10};
std::atomic<int> signals{0};

void on_signal(int) {
  wire::Server* server = signalled;
  if (!server) return;
  const int before = errno;
  if (signals++ == 0) {
    server->drain(drain_seconds);
  } else {
    server->stop();
  }
  errno = before;
}

}  // namespace

void serve_environments(const ServeOptions& options, std::span<const std::string> addresses,
                        const std::function<void(std::span<const std::string>)>& ready) {
  BESSEMER_CHECK(!addresses.empty(), ValueError, "[env] no address to serve on");
  EnvService service(options);
  wire::Server server(service, options.wire);
  service.attach(server);
  std::vector<std::string> bound;
  for (const std::string& address : addresses) bound.push_back(server.bind(address));
  signals = 0;
  drain_seconds = options.drain;
  signalled = &server;
  struct sigaction action {
  }, old_term{}, old_int{};
  action.sa_handler = on_signal;
  sigaction(SIGTERM, &action, &old_term);
  sigaction(SIGINT, &action, &old_int);
  const auto restore = [&] {
    sigaction(SIGTERM, &old_term, nullptr);
    sigaction(SIGINT, &old_int, nullptr);
    signalled = nullptr;
  };
  try {
    ready(bound);
    server.run();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

}  // namespace bessemer
