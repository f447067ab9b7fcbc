#include "envs/server/python_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "core/base/wait_check.h"
#include "host_script.h"

namespace bessemer {
namespace {

constexpr size_t kFrameLimit = size_t{1} << 28;
constexpr size_t kTailKept = 1500;  // of what a process printed, in the reason of its end

std::mutex interpreter_mutex;
std::string& interpreter_path() {
  static std::string path;
  return path;
}

bool executable(const std::string& path) {
  return !path.empty() && access(path.c_str(), X_OK) == 0;
}

std::string in_path(const char* name) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!rest.empty()) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    std::string candidate = cat(rest.substr(0, colon), '/', name);
    if (colon > 0 && executable(candidate)) return candidate;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return {};
}

/// The script as a file without a name, readable from its start.
int script_fd() {
  const int fd = memfd_create("bessemer_host", MFD_CLOEXEC);
  const std::string_view text = kHostScript;
  BESSEMER_CHECK(
      fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()), IoError,
      "[host] memfd: ", strerror(errno));
  lseek(fd, 0, SEEK_SET);
  return fd;
}

/// Whole lines of what user code prints, with its name before each, on this process's stderr.
class Printer {
 public:
  explicit Printer(std::string name) : name_(std::move(name)) {}
  void operator()(bool is_error, std::string_view piece) {
    std::string& line = lines_[is_error ? 1 : 0];
    for (const char c : piece) {
      if (c != '\n') line += c;
      if (c == '\n' || line.size() > 2000) {
        std::fprintf(stderr, "%s | %s\n", name_.c_str(), line.c_str());
        line.clear();
      }
    }
  }

 private:
  std::string name_, lines_[2];
};

std::string tail(const std::string& text) {
  std::string_view end = text;
  if (end.size() > kTailKept) end.remove_prefix(end.size() - kTailKept);
  while (!end.empty() && end.back() == '\n') end.remove_suffix(1);
  return std::string(end);
}

}  // namespace

void set_host_interpreter(std::string path) {
  std::lock_guard lock(interpreter_mutex);
  interpreter_path() = std::move(path);
}

std::string host_interpreter() {
  {
    std::lock_guard lock(interpreter_mutex);
    if (executable(interpreter_path())) return interpreter_path();
  }
  if (const char* given = std::getenv("BESSEMER_PYTHON"); given && *given) {
    BESSEMER_CHECK(executable(given), IoError, "[host] BESSEMER_PYTHON is ", given,
                   ", which is no program");
    return given;
  }
  if (const char* venv = std::getenv("BESSEMER_VENV"); venv && *venv) {
    if (std::string path = cat(venv, "/bin/python"); executable(path)) return path;
  }
  std::string found = in_path("python3");
  BESSEMER_CHECK(!found.empty(), IoError,
                 "[host] Python code needs an interpreter with NumPy, msgpack and Gymnasium: set "
                 "BESSEMER_PYTHON to it (the launcher's is .venv/bin/python)");
  return found;
}

HostProcess::Clock::time_point host_deadline(double seconds) {
  return HostProcess::Clock::now() + std::chrono::duration_cast<HostProcess::Clock::duration>(
                                         std::chrono::duration<double>(std::min(seconds, 1e8)));
}

HostProcess::HostProcess(std::string target, std::string kind, const HostOptions& options)
    : target_(std::move(target)), kind_(std::move(kind)), options_(options) {}

HostProcess::HostProcess(HostProcess&& other) noexcept
    : target_(std::move(other.target_)),
      kind_(std::move(other.kind_)),
      options_(other.options_),
      child_(std::move(other.child_)),
      channel_(std::exchange(other.channel_, -1)),
      outgoing_(std::move(other.outgoing_)),
      incoming_(std::move(other.incoming_)),
      read_at_(other.read_at_) {}

HostProcess::~HostProcess() { kill(); }

void HostProcess::kill() {
  if (channel_ >= 0) close(channel_);
  channel_ = -1;
  outgoing_.clear();
  incoming_.clear();
  read_at_ = 0;
  if (child_) child_.kill();
  child_ = Child();
}

void HostProcess::stop(double grace) {
  if (channel_ >= 0) {
    shutdown(channel_, SHUT_WR);  // the end of its input
    child_.wait(grace);
  }
  kill();
}

void HostProcess::start() {
  kill();
  const std::string python = host_interpreter();
  int ends[2];
  BESSEMER_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, IoError,
                 "[host] socketpair: ", strerror(errno));
  const size_t colon = target_.rfind(':');
  const std::string name = target_.substr(colon == std::string::npos ? 0 : colon + 1);
  ChildOptions child;
  child.args = {python, "-c",
                "exec(compile(open(4).read(), '_host.py', 'exec'), "
                "{'__name__': '__main__', '__file__': '_host.py'})",
                name};
  child.env = {{"PYTHONFAULTHANDLER", "1"}};
  // Many processes side by side: libraries should not start a thread a core in each.
  for (const char* threads : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"}) {
    if (!std::getenv(threads)) child.env.emplace_back(threads, "1");
  }
  child.capture_limit = 1 << 14;
  child.on_output = Printer(name);
  int script = -1;
  try {
    script = script_fd();
    child.pass_fds = {ends[1], script};
    child_ = Child::spawn(child);
  } catch (...) {
    for (const int fd : {ends[0], ends[1], script}) {
      if (fd >= 0) close(fd);
    }
    throw;
  }
  close(ends[1]);
  close(script);
  channel_ = ends[0];
  fcntl(channel_, F_SETFL, O_NONBLOCK);
  push('L', wire::pack({{"target", target_},
                        {"kind", kind_},
                        {"memory", options_.memory * (int64_t{1} << 20)}}));
  flush();
}

void HostProcess::push(char letter, std::string_view payload) {
  const auto size = static_cast<uint32_t>(payload.size() + 1);
  outgoing_.append(reinterpret_cast<const char*>(&size), sizeof size);
  outgoing_ += letter;
  outgoing_ += payload;
}

void HostProcess::flush() {
  size_t sent = 0;
  const auto end = host_deadline(options_.deadline);
  while (sent < outgoing_.size()) {
    if (channel_ < 0) throw HostGone("its process has ended");
    const ssize_t n =
        ::send(channel_, outgoing_.data() + sent, outgoing_.size() - sent, MSG_NOSIGNAL);
    if (n >= 0) {
      sent += static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      pollfd ready[] = {{channel_, POLLOUT, 0}, {child_.pidfd(), POLLIN, 0}};
      poll(ready, 2, static_cast<int>(kWaitSlice * 1e3));
      wait_check();
      if (Clock::now() > end) {
        kill();
        throw HostGone(cat("it read nothing for ", options_.deadline, " s"));
      }
    } else if (errno != EINTR) {
      outgoing_.clear();
      gone();
    }
  }
  outgoing_.clear();
}

/// A whole frame of what was read, or "".
std::string HostProcess::take_frame() {
  const size_t have = incoming_.size() - read_at_;
  uint32_t size = 0;
  if (have < sizeof size) return {};
  std::memcpy(&size, incoming_.data() + read_at_, sizeof size);
  if (size == 0 || size > kFrameLimit) {
    kill();
    throw HostGone(cat("it sent a frame of ", size, " bytes"));
  }
  if (have - sizeof size < size) return {};
  std::string frame = incoming_.substr(read_at_ + sizeof size, size);
  read_at_ += sizeof size + size;
  if (read_at_ == incoming_.size()) {
    incoming_.clear();
    read_at_ = 0;
  }
  return frame;
}

std::optional<std::string> HostProcess::receive(Clock::time_point end) {
  bool ended = false;
  while (true) {
    if (std::string frame = take_frame(); !frame.empty()) return frame;
    if (channel_ < 0) throw HostGone("its process has ended");
    char piece[65536];
    const ssize_t n = recv(channel_, piece, sizeof piece, 0);
    if (n > 0) {
      if (read_at_ > 0 && read_at_ > incoming_.size() / 2) {
        incoming_.erase(0, read_at_);
        read_at_ = 0;
      }
      incoming_.append(piece, static_cast<size_t>(n));
      continue;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) gone();
    if (ended && errno == EAGAIN) gone();  // and all it said was read
    const double left = std::chrono::duration<double>(end - Clock::now()).count();
    if (left <= 0) return std::nullopt;
    pollfd ready[] = {{channel_, POLLIN, 0}, {child_.pidfd(), POLLIN, 0}};
    const int found = poll(ready, 2, static_cast<int>(std::min(left, kWaitSlice) * 1e3) + 1);
    // One poll() may look at the socket, then at a process that wrote and ended in between.
    ended = found > 0 && ready[1].revents != 0;
    if (found == 0) wait_check();
  }
}

void HostProcess::gone() {
  std::string reason = "its process has ended";
  if (child_) {
    // Its end of the socket may be closed a moment before it has ended.
    const std::optional<ChildStatus> status = child_.wait(1);
    reason = status ? cat("its process ended with ", status->text())
                    : std::string("its process closed the connection");
    const std::string said = tail(child_.errors().text);
    if (!said.empty()) reason += "\n" + said;
  }
  kill();
  throw HostGone(reason);
}

std::string HostProcess::answer(double seconds) {
  std::optional<std::string> frame = receive(host_deadline(seconds));
  if (!frame) {
    kill();
    throw HostGone(cat("no answer in time; its process was ended"));
  }
  if ((*frame)[0] != 'E') return *std::move(frame);
  const wire::Map error = wire::unpack(std::string_view(*frame).substr(1));
  if (error.flag("last", false)) kill();
  if (error.flag("usage", false)) fail<ValueError>("[host] ", error.text("text"));
  throw HostError(cat("[host] ", target_, " failed:\n", error.text("text")));
}

}  // namespace bessemer
