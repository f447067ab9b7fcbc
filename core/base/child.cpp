#include "core/base/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

extern char** environ;

namespace bessemer {
namespace {

struct Fd {
  int value = -1;
  Fd() = default;
  explicit Fd(int fd) : value(fd) {}
  Fd(Fd&& other) noexcept : value(std::exchange(other.value, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(value, other.value);
    return *this;
  }
  ~Fd() { reset(); }
  void reset() {
    if (value >= 0) close(value);
    value = -1;
  }
};

std::string system_reason(int error) {
  char text[128];
  return strerror_r(error, text, sizeof text);
}

/// The program's path as execvp would find it, so that the child itself need not allocate.
std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = getenv("PATH");
  std::string_view rest = path ? path : "/usr/local/bin:/usr/bin:/bin";
  while (true) {
    const size_t colon = rest.find(':');
    const std::string_view folder = rest.substr(0, colon);
    std::string candidate = cat(folder.empty() ? "." : folder, '/', name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
  }
  fail<IoError>("[child] no program '", name, "' in PATH");
}

struct Capture {
  Fd fd;
  size_t limit = 0;
  ChildOutput kept;

  void add(std::string_view piece) {
    kept.text += piece;
    // Trimmed at twice the limit, so that a chatty child costs amortised constant time a byte.
    if (kept.text.size() > 2 * limit) trim();
  }
  void trim() {
    if (kept.text.size() <= limit) return;
    const size_t surplus = kept.text.size() - limit;
    kept.text.erase(0, surplus);
    kept.dropped += surplus;
  }
};

}  // namespace

struct Child::State {
  int pid = -1;
  Fd pidfd;
  std::mutex mutex;  // guards captures
  Capture captures[2];
  std::function<void(bool, std::string_view)> on_output;
  std::optional<ChildStatus> status;

  /// Reads what is there; never waits. At most `budget` bytes, so that an endless writer that
  /// outlives its parent cannot hold the caller.
  void drain(size_t budget) {
    std::lock_guard lock(mutex);
    char piece[16384];
    for (int i = 0; i < 2; ++i) {
      for (size_t left = budget; captures[i].fd.value >= 0 && left > 0;) {
        const ssize_t got = read(captures[i].fd.value, piece, sizeof piece);
        if (got > 0) {
          captures[i].add({piece, static_cast<size_t>(got)});
          if (on_output) on_output(i == 1, {piece, static_cast<size_t>(got)});
          left -= std::min(left, static_cast<size_t>(got));
        } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
          captures[i].fd.reset();
        } else if (errno == EAGAIN) {
          break;
        }
      }
    }
  }
};

namespace {

/// Everything the forked child needs, made ready before the fork: after it, only system calls.
struct Plan {
  std::string program, cwd;
  std::vector<char*> argv, envp;
  std::vector<std::string> env_storage;
  std::vector<int> fds;  // stdin, stdout, stderr, 3, ...; -1 leaves the parent's
  int error_fd = -1;
  pid_t parent = 0;
};

[[noreturn]] void become(const Plan& plan, int* scratch) {
  const auto give_up = [&](int error) {
    [[maybe_unused]] const ssize_t n = write(plan.error_fd, &error, sizeof error);
    _exit(127);
  };
  setpgid(0, 0);
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) give_up(errno);
  if (getppid() != plan.parent) _exit(127);  // it died before the line above took hold
  for (int s = 1; s < 65; ++s) {
    if (s != SIGKILL && s != SIGSTOP) signal(s, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (!plan.cwd.empty() && chdir(plan.cwd.c_str()) != 0) give_up(errno);
  // Sources first move above every target, so that no dup2 overwrites one that is still needed.
  const int count = static_cast<int>(plan.fds.size());
  int error_fd = fcntl(plan.error_fd, F_DUPFD_CLOEXEC, count);
  if (error_fd < 0) give_up(errno);
  for (int i = 0; i < count; ++i) {
    scratch[i] = plan.fds[i] < 0 ? -1 : fcntl(plan.fds[i], F_DUPFD_CLOEXEC, count);
    if (plan.fds[i] >= 0 && scratch[i] < 0) give_up(errno);
  }
  for (int i = 0; i < count; ++i) {
    if (scratch[i] >= 0 && dup2(scratch[i], i) < 0) _exit(127);
  }
  // Close on exec whatever a library left open.
  constexpr unsigned kCloseRangeCloexec = 4;
  if (syscall(SYS_close_range, static_cast<unsigned>(count), ~0u, kCloseRangeCloexec) != 0) {
    for (int fd = count; fd < 1024; ++fd) {
      const int flags = fcntl(fd, F_GETFD);
      if (flags >= 0) fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    }
  }
  execve(plan.program.c_str(), plan.argv.data(), plan.envp.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t n = write(error_fd, &error, sizeof error);
  _exit(127);
}

/// Forks; returns the pid, or throws with the reason why the program could not be started.
pid_t start(Plan& plan, const std::string& name) {
  int report[2];
  BESSEMER_CHECK(pipe2(report, O_CLOEXEC) == 0, IoError, "[child] pipe: ", system_reason(errno));
  Fd reader(report[0]), writer(report[1]);
  plan.error_fd = writer.value;
  plan.parent = getpid();
  std::vector<int> scratch(plan.fds.size());
  const pid_t pid = fork();
  if (pid == 0) become(plan, scratch.data());
  BESSEMER_CHECK(pid > 0, IoError, "[child] fork: ", system_reason(errno));
  writer.reset();
  int error = 0;
  ssize_t got;
  do {
    got = read(reader.value, &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof error) {
    waitpid(pid, nullptr, 0);
    fail<IoError>("[child] cannot start '", name, "': ", system_reason(error));
  }
  return pid;
}

}  // namespace

/// The thread that forks and reads. Never destroyed: a child would die with it.
struct ChildKeeper {
  struct Job {
    Plan* plan;
    const std::string* name;
    pid_t pid = -1;
    std::exception_ptr error;
    bool done = false;
  };
  std::mutex mutex;
  std::condition_variable finished;
  std::vector<Job*> jobs;
  std::vector<std::weak_ptr<Child::State>> watched;
  Fd wake{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  pid_t owner = getpid();

  static ChildKeeper& get() {
    static std::mutex creation;
    static ChildKeeper* keeper = nullptr;
    std::lock_guard lock(creation);
    // After a fork without exec the thread is not there: a new keeper, the old one's memory is
    // kept.
    if (!keeper || keeper->owner != getpid()) {
      keeper = new ChildKeeper;
      std::thread([k = keeper] { k->loop(); }).detach();
    }
    return *keeper;
  }

  void poke() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = write(wake.value, &one, sizeof one);
  }

  pid_t run(Plan& plan, const std::string& name) {
    Job job{&plan, &name, -1, nullptr, false};
    std::unique_lock lock(mutex);
    jobs.push_back(&job);
    poke();
    finished.wait(lock, [&] { return job.done; });
    if (job.error) std::rethrow_exception(job.error);
    return job.pid;
  }

  void watch(const std::shared_ptr<Child::State>& state) {
    std::lock_guard lock(mutex);
    watched.push_back(state);
    poke();
  }

  void loop() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    while (true) {
      std::vector<std::shared_ptr<Child::State>> states;
      std::vector<Job*> work;
      {
        std::lock_guard lock(mutex);
        work.swap(jobs);
        std::erase_if(watched, [&](auto& weak) {
          auto state = weak.lock();
          if (!state) return true;
          states.push_back(std::move(state));
          return false;
        });
      }
      for (Job* job : work) {
        try {
          job->pid = start(*job->plan, *job->name);
        } catch (...) {
          job->error = std::current_exception();
        }
        std::lock_guard lock(mutex);
        job->done = true;
        finished.notify_all();
      }
      std::vector<pollfd> fds{{wake.value, POLLIN, 0}};
      for (const auto& state : states) {
        std::lock_guard lock(state->mutex);
        for (const Capture& capture : state->captures) {
          if (capture.fd.value >= 0) fds.push_back({capture.fd.value, POLLIN, 0});
        }
      }
      // A state whose Child is gone must not be held over the wait: its pipes would stay open.
      std::vector<std::weak_ptr<Child::State>> weak(states.begin(), states.end());
      states.clear();
      poll(fds.data(), fds.size(), -1);
      uint64_t count;
      [[maybe_unused]] const ssize_t n = read(wake.value, &count, sizeof count);
      for (const auto& w : weak) {
        if (auto state = w.lock()) state->drain(1 << 16);
      }
    }
  }
};

std::string ChildStatus::text() const {
  if (signal) return cat("signal ", signal, " (", strsignal(signal), ")");
  return cat("exit code ", exit_code);
}

Child Child::spawn(const ChildOptions& options) {
  BESSEMER_CHECK(!options.args.empty(), ValueError, "[child] no program given");
  using Stream = ChildOptions::Stream;
  Plan plan;
  plan.program = find_program(options.args[0]);
  plan.cwd = options.cwd;
  for (const auto& arg : options.args) plan.argv.push_back(const_cast<char*>(arg.c_str()));
  plan.argv.push_back(nullptr);
  for (const auto& [key, value] : options.env) plan.env_storage.push_back(cat(key, '=', value));
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const bool replaced = std::ranges::any_of(options.env, [&](const auto& pair) {
      return text.starts_with(pair.first) && text.substr(pair.first.size()).starts_with('=');
    });
    if (!replaced) plan.envp.push_back(*entry);
  }
  for (auto& entry : plan.env_storage) plan.envp.push_back(entry.data());
  plan.envp.push_back(nullptr);

  Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  BESSEMER_CHECK(null.value >= 0, IoError, "[child] /dev/null: ", system_reason(errno));
  plan.fds = {null.value, -1, -1};
  plan.fds.insert(plan.fds.end(), options.pass_fds.begin(), options.pass_fds.end());
  auto state = std::make_shared<State>();
  state->on_output = options.on_output;
  Fd writers[2];
  const Stream streams[2] = {options.output, options.errors};
  for (int i = 0; i < 2; ++i) {
    if (streams[i] == Stream::null) plan.fds[i + 1] = null.value;
    if (streams[i] != Stream::capture) continue;
    int ends[2];
    BESSEMER_CHECK(pipe2(ends, O_CLOEXEC) == 0, IoError, "[child] pipe: ", system_reason(errno));
    state->captures[i].fd = Fd(ends[0]);
    state->captures[i].limit = options.capture_limit;
    writers[i] = Fd(ends[1]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    plan.fds[i + 1] = ends[1];
  }
  ChildKeeper& keeper = ChildKeeper::get();
  state->pid = keeper.run(plan, options.args[0]);
  // Not reaped yet, so the pid cannot be another process's.
  state->pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, state->pid, 0)));
  if (state->pidfd.value < 0) {
    const int error = errno;
    ::kill(-state->pid, SIGKILL);
    waitpid(state->pid, nullptr, 0);
    fail<IoError>("[child] pidfd_open: ", system_reason(error));
  }
  keeper.watch(state);
  Child child;
  child.state_ = std::move(state);
  return child;
}

Child::Child(Child&& other) noexcept : state_(std::move(other.state_)) {}
Child& Child::operator=(Child&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
Child::~Child() {
  if (!state_) return;
  if (!state_->status) kill();
  {
    std::lock_guard lock(state_->mutex);
    state_->on_output = nullptr;  // what it refers to may end with this object
  }
  state_.reset();
  ChildKeeper::get().poke();  // lets it forget the pipes
}

int Child::pid() const { return state_->pid; }
int Child::pidfd() const { return state_->pidfd.value; }
bool Child::running() { return !wait(0); }

std::optional<ChildStatus> Child::wait(double seconds) {
  if (state_->status) return state_->status;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(std::min(seconds, 1e9));
  pollfd ready{state_->pidfd.value, POLLIN, 0};
  while (true) {
    int timeout = -1;
    if (seconds >= 0) {
      const double left = std::chrono::duration<double>(end - Clock::now()).count();
      timeout = static_cast<int>(std::clamp(left * 1e3 + 0.999, 0.0, 1e9));
    }
    const int n = poll(&ready, 1, timeout);
    if (n > 0) break;
    if (n == 0) return std::nullopt;
    BESSEMER_CHECK(errno == EINTR, IoError, "[child] poll: ", system_reason(errno));
  }
  // While the leader is a zombie its group's number cannot be used again: the group dies first.
  ::kill(-state_->pid, SIGKILL);
  int raw = 0;
  ChildStatus status;
  if (waitpid(state_->pid, &raw, 0) == state_->pid) {
    if (WIFEXITED(raw)) status.exit_code = WEXITSTATUS(raw);
    if (WIFSIGNALED(raw)) status.signal = WTERMSIG(raw);
  }  // else somebody ignores SIGCHLD and the kernel reaped it: the code stays -1
  state_->status = status;
  state_->drain(size_t{1} << 24);
  return status;
}

void Child::signal(int number) {
  if (!state_->status) {
    syscall(SYS_pidfd_send_signal, state_->pidfd.value, number, nullptr, 0);
  }
}

ChildStatus Child::stop(double grace) {
  signal(SIGTERM);
  if (const auto status = wait(grace)) return *status;
  return kill();
}

ChildStatus Child::kill() {
  if (!state_->status) ::kill(-state_->pid, SIGKILL);
  return *wait();
}

ChildOutput Child::output() const {
  std::lock_guard lock(state_->mutex);
  state_->captures[0].trim();
  return state_->captures[0].kept;
}
ChildOutput Child::errors() const {
  std::lock_guard lock(state_->mutex);
  state_->captures[1].trim();
  return state_->captures[1].kept;
}

ChildResult run_child(const ChildOptions& options, double deadline) {
  Child child = Child::spawn(options);
  ChildResult result;
  if (const auto status = child.wait(deadline)) {
    result.status = *status;
  } else {
    result.timed_out = true;
    result.status = child.kill();
  }
  result.output = child.output();
  result.errors = child.errors();
  return result;
}

}  // namespace bessemer
