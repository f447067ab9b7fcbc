#include "core/wire/shm.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>
#include <fstream>

namespace bessemer::wire {

static_assert(std::atomic<uint64_t>::is_always_lock_free);

/// One ring. `head` and `sent_on` belong to the writer, `tail`, `waiting` and `read_on` to the
/// reader.
struct ShmLink::Direction {
  alignas(64) std::atomic<uint64_t> head;
  std::atomic<int32_t> sent_on;     // CPU
  std::atomic<uint32_t> by_socket;  // messages that went through the socket instead
  alignas(64) std::atomic<uint64_t> tail;
  std::atomic<int32_t> read_on;  // CPU
  alignas(64) std::atomic<uint32_t> waiting;
};

struct ShmLink::Segment {
  uint64_t magic;
  uint64_t nonce;
  Direction to_server, to_client;
};

namespace {

constexpr uint64_t kMagic = 0x314d52574d534542;  // "BESMWRM1"
constexpr uint32_t kSkip = ~uint32_t{0};         // the rest of the ring is empty
constexpr uint32_t kAwake = 0, kOnFutex = 1, kOnDoorbell = 2;
constexpr size_t kHead = 4096;
constexpr size_t kMaxRing = size_t{1} << 31;  // a record states its size in 32 bits

constexpr size_t padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

struct Record {
  uint32_t bytes;   // of the whole record, padded
  uint32_t header;  // of the header, or kSkip
};

std::string reason() { return strerror(errno); }

}  // namespace

const std::string& host_name() {
  static const std::string name = [] {
    std::string boot;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
    char space[64] = {};
    [[maybe_unused]] const ssize_t n = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    return cat(boot, '/', space);
  }();
  return name;
}

std::unique_ptr<ShmLink> ShmLink::create(size_t bytes, int doorbell) {
  static_assert(sizeof(Direction) == 192 && sizeof(Segment) == 448);  // as docs/protocol.md says
  std::unique_ptr<ShmLink> link(new ShmLink);
  link->server_ = true;
  link->doorbell_ = doorbell;
  link->ring_bytes_ = (std::clamp<size_t>(bytes, 4096, kMaxRing) + 4095) & ~size_t{4095};
  link->mapped_ = kHead + 2 * link->ring_bytes_;
  link->fd_ = memfd_create("bessemer-wire", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  BESSEMER_CHECK(link->fd_ >= 0, IoError, "[wire] memfd_create: ", reason());
  BESSEMER_CHECK(ftruncate(link->fd_, static_cast<off_t>(link->mapped_)) == 0, IoError,
                 "[wire] shared memory of ", link->mapped_, " bytes: ", reason());
  BESSEMER_CHECK(fcntl(link->fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0,
                 IoError, "[wire] sealing shared memory: ", reason());
  void* memory = mmap(nullptr, link->mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, link->fd_, 0);
  BESSEMER_CHECK(memory != MAP_FAILED, IoError, "[wire] mapping shared memory: ", reason());
  link->segment_ = new (memory) Segment{};
  BESSEMER_CHECK(getrandom(&link->nonce_, sizeof link->nonce_, 0) == sizeof link->nonce_, IoError,
                 "[wire] getrandom: ", reason());
  link->nonce_ >>= 1;  // fits a signed integer
  link->segment_->nonce = link->nonce_;
  link->segment_->magic = kMagic;
  link->in_ = &link->segment_->to_server;
  link->out_ = &link->segment_->to_client;
  link->in_->sent_on = link->in_->read_on = link->out_->sent_on = link->out_->read_on = -1;
  link->in_data_ = static_cast<char*>(memory) + kHead;
  link->out_data_ = link->in_data_ + link->ring_bytes_;
  return link;
}

Map ShmLink::offer() const {
  return {{"pid", static_cast<int64_t>(getpid())},
          {"fd", fd_},
          {"doorbell", doorbell_},
          {"bytes", static_cast<uint64_t>(ring_bytes_)},
          {"nonce", nonce_}};
}

void ShmLink::forget_offer() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::unique_ptr<ShmLink> ShmLink::open(const Map& offer) {
  std::unique_ptr<ShmLink> link(new ShmLink);
  const uint64_t pid = offer.count("pid");
  const uint64_t bytes = offer.count("bytes");
  BESSEMER_CHECK(bytes >= 4096 && bytes % 4096 == 0 && bytes <= kMaxRing, IoError,
                 "[wire] shared memory offer of ", bytes, " bytes");
  link->ring_bytes_ = bytes;
  link->mapped_ = kHead + 2 * bytes;
  const auto path = [&](uint64_t fd) { return cat("/proc/", pid, "/fd/", fd); };
  const std::string memory_path = path(offer.count("fd"));
  link->fd_ = ::open(memory_path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  BESSEMER_CHECK(link->fd_ >= 0, IoError, "[wire] shared memory ", memory_path, ": ", reason());
  struct stat info {};
  const int seals = fcntl(link->fd_, F_GET_SEALS);
  BESSEMER_CHECK(seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(link->fd_, &info) == 0 &&
                     static_cast<size_t>(info.st_size) == link->mapped_,
                 IoError, "[wire] ", memory_path, " is not the segment that was offered");
  void* memory = mmap(nullptr, link->mapped_, PROT_READ | PROT_WRITE, MAP_SHARED, link->fd_, 0);
  BESSEMER_CHECK(memory != MAP_FAILED, IoError, "[wire] mapping shared memory: ", reason());
  link->segment_ = static_cast<Segment*>(memory);
  BESSEMER_CHECK(link->segment_->magic == kMagic && link->segment_->nonce == offer.count("nonce"),
                 IoError, "[wire] ", memory_path, " is another process's segment");
  const std::string bell_path = path(offer.count("doorbell"));
  // For reading too: a write to a pipe without readers, the server being dead, would be a SIGPIPE.
  link->doorbell_ = ::open(bell_path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  BESSEMER_CHECK(link->doorbell_ >= 0, IoError, "[wire] doorbell ", bell_path, ": ", reason());
  link->in_ = &link->segment_->to_client;
  link->out_ = &link->segment_->to_server;
  link->out_data_ = static_cast<char*>(memory) + kHead;
  link->in_data_ = link->out_data_ + link->ring_bytes_;
  link->forget_offer();
  return link;
}

ShmLink::~ShmLink() {
  forget_offer();
  if (!server_ && doorbell_ >= 0) close(doorbell_);
  if (segment_) munmap(static_cast<void*>(segment_), mapped_);
}

size_t ShmLink::capacity() const { return ring_bytes_ / 2; }

bool ShmLink::write(const Message& message) {
  thread_local std::string header;
  header.clear();
  encode_header(message, header);
  size_t need = sizeof(Record) + padded(header.size());
  for (const NamedArray& array : message.arrays) need += padded(array.view.bytes());
  if (need > capacity()) return false;
  const uint64_t tail = out_->tail.load(std::memory_order_acquire);
  const uint64_t used = written_at_ - tail;
  if (used > ring_bytes_) return false;  // a position that cannot be: no room is what it can cost
  const size_t at = written_at_ % ring_bytes_;
  const size_t gap = at + need > ring_bytes_ ? ring_bytes_ - at : 0;
  if (used + gap + need > ring_bytes_) return false;
  if (gap) {
    const Record skip{static_cast<uint32_t>(gap), kSkip};
    memcpy(out_data_ + at, &skip, sizeof skip);
  }
  char* to = out_data_ + (gap ? 0 : at);
  const Record record{static_cast<uint32_t>(need), static_cast<uint32_t>(header.size())};
  memcpy(to, &record, sizeof record);
  to += sizeof record;
  memcpy(to, header.data(), header.size());
  to += padded(header.size());
  for (const NamedArray& array : message.arrays) {
    const size_t bytes = array.view.bytes();
    if (bytes) memcpy(to, array.view.data, bytes);
    to += padded(bytes);
  }
  written_at_ += gap + need;
  out_->sent_on.store(sched_getcpu(), std::memory_order_relaxed);
  out_->head.store(written_at_, std::memory_order_seq_cst);
  wake(*out_);
  return true;
}

void ShmLink::wake(Direction& direction) {
  if (direction.waiting.load(std::memory_order_seq_cst) == kAwake) return;
  const uint32_t was = direction.waiting.exchange(kAwake, std::memory_order_seq_cst);
  if (was == kOnFutex) {
    syscall(SYS_futex, &direction.waiting, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  } else if (was == kOnDoorbell && !server_) {
    // A full pipe is a rung bell.
    [[maybe_unused]] const ssize_t n = ::write(doorbell_, "", 1);
  }
}

bool ShmLink::readable() const { return in_->head.load(std::memory_order_seq_cst) != read_at_; }

std::optional<Incoming> ShmLink::read(const Limits& limits) {
  while (true) {
    const uint64_t head = in_->head.load(std::memory_order_acquire);
    if (head == read_at_) return std::nullopt;
    const uint64_t there = head - read_at_;
    const size_t at = read_at_ % ring_bytes_;
    const auto broken = [&](std::string_view what) {
      refuse(Code::malformed, "[wire] shared memory ring is broken: ", what);
    };
    if (there > ring_bytes_ || there % 8 != 0) broken("position");
    Record record;
    memcpy(&record, in_data_ + at, sizeof record);
    if (record.bytes < sizeof record || record.bytes % 8 != 0 || record.bytes > there ||
        record.bytes > ring_bytes_ - at) {
      broken("size");
    }
    if (record.header == kSkip) {
      read_at_ += record.bytes;
      in_->tail.store(read_at_, std::memory_order_release);
      continue;
    }
    const size_t size = record.bytes - sizeof record;
    if (copy_.use_count() != 1 || copy_bytes_ < size) {
      copy_bytes_ = std::max<size_t>(size, 1024);
      copy_ = std::make_shared_for_overwrite<char[]>(copy_bytes_);
    }
    const auto& copy = copy_;
    memcpy(copy.get(), in_data_ + at + sizeof record, size);
    read_at_ += record.bytes;
    in_->read_on.store(sched_getcpu(), std::memory_order_relaxed);
    in_->tail.store(read_at_, std::memory_order_release);

    Incoming incoming;
    try {
      if (record.header > size)
        refuse(Code::malformed, "[wire] header of ", record.header, " bytes");
      incoming.message = decode_header({copy.get(), record.header}, limits);
      size_t offset = padded(record.header);
      for (NamedArray& array : incoming.message.arrays) {
        const size_t bytes = array.view.bytes();
        if (offset > size || bytes > size - offset) {
          refuse(Code::malformed, "[wire] array '", array.name, "' goes beyond its record");
        }
        array.view.data = copy.get() + offset;
        offset += padded(bytes);
      }
      if (!incoming.message.arrays.empty()) incoming.message.storage = copy;
    } catch (const WireError& error) {
      incoming.problem = error;
    }
    return incoming;
  }
}

void ShmLink::arm() {
  in_->waiting.store(server_ ? kOnDoorbell : kOnFutex, std::memory_order_seq_cst);
}
void ShmLink::disarm() { in_->waiting.store(kAwake, std::memory_order_seq_cst); }

void ShmLink::sleep(double seconds) {
  const auto nanoseconds = static_cast<int64_t>(std::clamp(seconds, 0.0, 1e6) * 1e9);
  const timespec limit{static_cast<time_t>(nanoseconds / 1000000000), nanoseconds % 1000000000};
  syscall(SYS_futex, &in_->waiting, FUTEX_WAIT, kOnFutex, &limit, nullptr, 0);
}

void ShmLink::note_socket() {
  out_->by_socket.fetch_add(1, std::memory_order_seq_cst);
  wake(*out_);
}
bool ShmLink::socket_noted() {
  const uint32_t now = in_->by_socket.load(std::memory_order_seq_cst);
  return std::exchange(socket_seen_, now) != now;
}

void ShmLink::part_ways() {
  constexpr uint32_t kSleeps = 32;         // two context switches each, about 10 us
  constexpr int64_t kPause = 100'000'000;  // ns
  together_ = may_spin() ? 0 : together_ + 1;
  if (together_ < kSleeps) return;
  together_ = 0;
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  const int64_t ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  if (ns - parted_ < kPause) return;
  parted_ = ns;
  cpu_set_t allowed, others;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  others = allowed;
  const int mine = sched_getcpu();
  if (mine < 0 || mine >= CPU_SETSIZE) return;
  CPU_CLR(mine, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
}

bool ShmLink::may_spin() const {
  const int mine = sched_getcpu();
  return in_->sent_on.load(std::memory_order_relaxed) != mine &&
         out_->read_on.load(std::memory_order_relaxed) != mine;
}

}  // namespace bessemer::wire
