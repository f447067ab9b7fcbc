// Spans: what each thread did from when to when. Every process of a run writes its own file, all on
// the machine's one monotonic clock; merge() joins them into one trace that Perfetto and
// chrome://tracing open. Off, a span costs one load and a branch.
//
//     const trace::Span span("learn");
//
// A file has one event a line and only ever grows, so that a process that was killed loses at most
// what it had not written yet.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace bessemer::trace {

namespace detail {
extern std::atomic<bool> on;
int64_t now();
void record(const char* name, int64_t begin, int64_t end);
}  // namespace detail

/// The environment variable that tells a child process to trace: "FOLDER:NAME".
inline constexpr const char* kVariable = "BESSEMER_TRACE";

/// Begins to trace into FOLDER/NAME.<pid>.events; `name` is the process's in the picture. Throws
/// IoError where the file cannot be opened, ValueError when it traces already.
void start(const std::string& folder, const std::string& name);
/// As the environment says, if it says so.
void start_from_environment();
inline bool enabled() { return detail::on.load(std::memory_order_relaxed); }
/// Names the calling thread in the picture, whether or not it is drawn yet; text that lives for
/// ever.
void name_thread(const char* name);
/// Hands over what is recorded so far. A disk that is full ends the tracing, not the run.
void flush();
/// Flushes and ends it.
void stop();

/// Joins the events of earlier merges in `path` and all files of `folder` into `path`, and removes
/// the files. Lines that a killed process left unfinished are dropped. Throws IoError.
void merge(const std::string& folder, const std::string& path);

/// The time from here to the end of the scope. `name` is a literal.
class Span {
 public:
  explicit Span(const char* name) : name_(enabled() ? name : nullptr) {
    if (name_) begin_ = detail::now();
  }
  ~Span() {
    if (name_) detail::record(name_, begin_, detail::now());
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  const char* name_;
  int64_t begin_ = 0;
};

}  // namespace bessemer::trace
