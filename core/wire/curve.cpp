#include "core/wire/curve.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <thread>

#include "core/base/error.h"
#include "core/wire/zmq_context.h"

namespace bessemer::wire {
namespace {

constexpr size_t kKeyLength = 40;
constexpr std::string_view kTitle = "bessemer-keys 1 ";

std::string in_folder(const std::string& path, const char* name) {
  struct stat found {};
  const bool folder = stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
  return folder ? cat(path, path.ends_with('/') ? "" : "/", name) : path;
}

std::string beside(const std::string& file, const char* name) {
  return file.substr(0, file.rfind('/') + 1) + name;
}

/// The whole of a small file that nobody else may read.
std::string read_secret(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  BESSEMER_CHECK(fd >= 0, IoError, "[keys] cannot read ", file, ": ", strerror(errno));
  struct stat found {};
  char text[1 << 16];
  const bool known = fstat(fd, &found) == 0;
  const ssize_t size = read(fd, text, sizeof text);
  close(fd);
  BESSEMER_CHECK(known && size >= 0, IoError, "[keys] cannot read ", file, ": ", strerror(errno));
  BESSEMER_CHECK((found.st_mode & 077) == 0, IoError, "[keys] others may read ", file,
                 ": chmod 600 it");
  BESSEMER_CHECK(size < static_cast<ssize_t>(sizeof text), ValueError, "[keys] ", file,
                 " is too large");
  return {text, static_cast<size_t>(size)};
}

void write_secret(const std::string& file, const std::string& text) {
  const std::string aside = file + ".new";
  unlink(aside.c_str());
  const int fd = open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool written = fd >= 0 &&
                       write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  BESSEMER_CHECK(written && rename(aside.c_str(), file.c_str()) == 0, IoError,
                 "[keys] cannot write ", file, ": ", strerror(written ? errno : error));
}

bool exists(const std::string& file) { return access(file.c_str(), F_OK) == 0; }

bool is_key(std::string_view text) {
  uint8_t binary[32];
  return text.size() == kKeyLength && zmq_z85_decode(binary, std::string(text).c_str());
}

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> words;
  while (true) {
    const size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos) return words;
    line.remove_prefix(begin);
    const size_t end = std::min(line.find_first_of(" \t\r"), line.size());
    words.emplace_back(line.substr(0, end));
    line.remove_prefix(end);
  }
}

Keys read_keys(const std::string& file, std::string_view kind) {
  const std::string text = read_secret(file);
  BESSEMER_CHECK(text.starts_with(cat(kTitle, kind, "\n")), ValueError, "[keys] ", file,
                 " is no file of ", kind, " keys");
  auto keys = std::make_shared<CurveKeys>();
  std::string_view rest = std::string_view(text).substr(text.find('\n') + 1);
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::vector<std::string> words = words_of(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (words.empty()) continue;
    bool good = is_key(words.back());
    if (words[0] == "client" && words.size() == 3) {
      keys->clients.emplace_back(words[1], words[2]);
    } else if (words[0] == "public" && words.size() == 2) {
      keys->public_key = words[1];
    } else if (words[0] == "secret" && words.size() == 2) {
      keys->secret_key = words[1];
    } else if (words[0] == "server" && words.size() == 2) {
      keys->server = words[1];
    } else {
      good = false;
    }
    BESSEMER_CHECK(good, ValueError, "[keys] ", file, " is damaged at '", words[0], "'");
  }
  char expected[kKeyLength + 1] = {};
  const bool whole = keys->secret_key.size() == kKeyLength &&
                     zmq_curve_public(expected, keys->secret_key.c_str()) == 0 &&
                     keys->public_key == expected && (kind == "server" || !keys->server.empty());
  BESSEMER_CHECK(whole, ValueError, "[keys] ", file, " is damaged: its keys do not fit together");
  return keys;
}

std::pair<std::string, std::string> key_pair() {
  char public_key[kKeyLength + 1] = {}, secret_key[kKeyLength + 1] = {};
  BESSEMER_CHECK(zmq_curve_keypair(public_key, secret_key) == 0, IoError,
                 "[keys] this ZeroMQ has no CURVE: it was built without libsodium");
  return {public_key, secret_key};
}

/// In a time that does not tell how much of it was right.
bool same(const std::string& a, const std::string& b) {
  if (a.empty() || a.size() != b.size()) return false;
  unsigned char differs = 0;
  for (size_t i = 0; i < a.size(); ++i) differs |= static_cast<unsigned char>(a[i] ^ b[i]);
  return differs == 0;
}

/// ZeroMQ's authentication protocol (RFC 27): one thread of the process answers who may connect.
class Gate {
 public:
  static Gate& get() {
    static Gate* gate = new Gate;  // its thread lasts as long as the process
    return *gate;
  }
  std::string join(const CurveKeys& keys) {
    std::lock_guard lock(mutex_);
    const std::string domain = cat("bessemer-", ++last_);
    for (const auto& [name, key] : keys.clients) allowed_[domain][key] = name;
    return domain;
  }
  void leave(const std::string& domain) {
    std::lock_guard lock(mutex_);
    allowed_.erase(domain);
  }

 private:
  Gate() {
    socket_ = zmq_socket(zmq_shared_context(), ZMQ_REP);
    BESSEMER_CHECK(socket_ && zmq_bind(socket_, "inproc://zeromq.zap.01") == 0, IoError,
                   "[wire] the authentication handler: ", zmq_strerror(errno));
    std::thread([this] { loop(); }).detach();
  }

  void loop() {
    while (true) {
      std::vector<std::string> frames;
      int more = 1;
      while (more) {
        char piece[512];
        const int size = zmq_recv(socket_, piece, sizeof piece, 0);
        if (size < 0) return;
        frames.emplace_back(piece, std::min<size_t>(static_cast<size_t>(size), sizeof piece));
        size_t width = sizeof more;
        zmq_getsockopt(socket_, ZMQ_RCVMORE, &more, &width);
      }
      const std::optional<std::string> name = check(frames);
      const std::string id = frames.size() > 1 ? frames[1] : "", user = name.value_or("");
      const std::string_view reply[] = {
          "1.0", id, name ? "200" : "400", name ? "OK" : "unknown key", user, ""};
      for (size_t i = 0; i < std::size(reply); ++i) {
        zmq_send(socket_, reply[i].data(), reply[i].size(),
                 i + 1 < std::size(reply) ? ZMQ_SNDMORE : 0);
      }
    }
  }

  /// version, request id, domain, address, routing id, mechanism, the client's key.
  std::optional<std::string> check(const std::vector<std::string>& frames) {
    if (frames.size() != 7 || frames[5] != "CURVE" || frames[6].size() != 32) return std::nullopt;
    char key[kKeyLength + 1] = {};
    zmq_z85_encode(key, reinterpret_cast<const uint8_t*>(frames[6].data()), 32);
    std::lock_guard lock(mutex_);
    const auto domain = allowed_.find(frames[2]);
    if (domain == allowed_.end()) return std::nullopt;
    const auto found = domain->second.find(key);
    if (found == domain->second.end()) return std::nullopt;
    return found->second;
  }

  void* socket_;
  std::mutex mutex_;
  int last_ = 0;
  std::map<std::string, std::map<std::string, std::string>> allowed_;  // domain, key -> name
};

}  // namespace

std::string zap_join(const CurveKeys& keys) { return Gate::get().join(keys); }
void zap_leave(const std::string& domain) { Gate::get().leave(domain); }

std::string random_hex(size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) {
    uint8_t byte = 0;
    BESSEMER_CHECK(getrandom(&byte, 1, 0) == 1, IoError, "[keys] getrandom: ", strerror(errno));
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

bool curve_available() { return zmq_has("curve"); }

Keys read_server_keys(const std::string& path) {
  return read_keys(in_folder(path, "server.key"), "server");
}
Keys read_client_keys(const std::string& path) {
  return read_keys(in_folder(path, "client.key"), "client");
}

std::string read_token(const std::string& file) {
  std::string text = read_secret(file);
  while (text.ends_with('\n')) text.pop_back();
  BESSEMER_CHECK(text.size() >= 16 && text.find_first_of(" \t\r\n") == std::string::npos,
                 ValueError, "[keys] ", file, " holds no token");
  return text;
}

Tokens read_tokens(const std::string& path) {
  const std::string file = in_folder(path, "server.key");
  Tokens tokens;
  if (const auto act = beside(file, "act.token"); exists(act)) tokens.act = read_token(act);
  if (const auto all = beside(file, "control.token"); exists(all)) tokens.control = read_token(all);
  return tokens;
}

bool Tokens::may_control(const std::string& token) const {
  return !asked() || same(control, token);
}
bool Tokens::may_act(const std::string& token) const {
  return !asked() || same(act, token) || same(control, token);
}

std::vector<std::string> make_keys(const std::string& folder, const std::string& client) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  BESSEMER_CHECK(!client.empty() && client.find_first_not_of(kPlain) == std::string::npos &&
                     client != "server",
                 ValueError, "[keys] '", client,
                 "' is no name for a client: letters, digits, - and _ make one");
  BESSEMER_CHECK(mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST, IoError,
                 "[keys] cannot make ", folder, ": ", strerror(errno));
  const std::string server_file = cat(folder, "/server.key");
  const std::string client_file = cat(folder, '/', client, ".key");
  BESSEMER_CHECK(!exists(client_file), ValueError, "[keys] ", client_file,
                 " exists: another client needs another name");
  std::vector<std::string> written;
  if (!exists(server_file)) {
    const auto [open_key, secret_key] = key_pair();
    write_secret(server_file,
                 cat(kTitle, "server\npublic ", open_key, "\nsecret ", secret_key, "\n"));
    written.push_back(server_file);
  }
  const Keys server = read_keys(server_file, "server");
  for (const char* name : {"act.token", "control.token"}) {
    const std::string file = cat(folder, '/', name);
    if (exists(file)) continue;
    write_secret(file, random_hex(32) + "\n");
    written.push_back(file);
  }
  const auto [open_key, secret_key] = key_pair();
  write_secret(server_file, cat(read_secret(server_file), "client ", client, " ", open_key, "\n"));
  write_secret(client_file, cat(kTitle, "client\npublic ", open_key, "\nsecret ", secret_key,
                                "\nserver ", server->public_key, "\n"));
  written.push_back(client_file);
  return written;
}

}  // namespace bessemer::wire
