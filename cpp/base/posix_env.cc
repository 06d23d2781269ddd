// The real Env: Linux and macOS.
//
// A mapped file is written with memcpy, so its space must really be there: a page of a hole on a full disk would be
// SIGBUS. Hence fallocate, or zeros written one by one where the filesystem has none. Pages that were written are given
// back to the system every few MiB (they stay in its cache), so that the log does not count as this process's memory.

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/env.h"

namespace fastkv {
namespace {

constexpr size_t kIoBytesMax = 1 << 30;         // Linux moves at most 2 GiB a call, macOS refuses more than INT_MAX
constexpr uint64_t kDropMappedBytes = 4 << 20;  // mapped and written pages that may count as ours
constexpr size_t kZeroChunkBytes = 1 << 20;
constexpr uint64_t kMapGranularity = 64 << 10;  // a multiple of every page size

Status ErrnoStatus(std::string_view operation, const std::string& path, int error) {
  Code code = Code::kIoError;
  if (error == ENOSPC || error == EDQUOT) code = Code::kNoSpace;
  if (error == ENOENT) code = Code::kNotFound;
  return {code, std::string(operation) + " " + path + ": " + strerror(error)};
}

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

Fd OpenFd(const std::string& path, int flags, mode_t mode = 0) {
  int fd;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  return Fd(fd);
}

Status PwriteAll(int fd, const std::string& path, uint64_t offset, const char* data, size_t length) {
  while (length > 0) {
    const ssize_t n = pwrite(fd, data, std::min(length, kIoBytesMax), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus("write", path, errno);
    data += n;
    offset += static_cast<uint64_t>(n);
    length -= static_cast<size_t>(n);
  }
  return {};
}

Status WriteZeros(int fd, const std::string& path, uint64_t from, uint64_t to) {
  const std::string zeros(kZeroChunkBytes, '\0');
  for (uint64_t at = from; at < to; at += kZeroChunkBytes) {
    FASTKV_RETURN_IF_ERROR(PwriteAll(fd, path, at, zeros.data(), std::min<uint64_t>(kZeroChunkBytes, to - at)));
  }
  return {};
}

// The file has `size` bytes with space behind every one of them; bytes that were there stay.
Status Reserve(int fd, const std::string& path, uint64_t old_size, uint64_t size) {
#if defined(__linux__)
  int result;
  do {
    result = fallocate(fd, 0, 0, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  if (errno != EOPNOTSUPP && errno != ENOSYS) return ErrnoStatus("allocate", path, errno);
#endif
  return WriteZeros(fd, path, old_size, size);
}

Status SyncFd(int fd, const std::string& path) {
  int result;
  do {
#if defined(__APPLE__)
    result = fcntl(fd, F_FULLFSYNC);
#else
    result = fdatasync(fd);
#endif
  } while (result != 0 && errno == EINTR);
  return result == 0 ? Status() : ErrnoStatus("sync", path, errno);
}

class PosixView : public FileView {
 public:
  PosixView(Fd fd, void* base, size_t size) : fd_(std::move(fd)), base_(base), size_(size) {}
  ~PosixView() override {
    if (base_ != nullptr) munmap(base_, size_);
  }
  std::string_view bytes() const override { return {static_cast<const char*>(base_), size_}; }

  uint64_t NextData(uint64_t from) const override {
#ifdef SEEK_DATA
    const off_t found = lseek(fd_.get(), static_cast<off_t>(from), SEEK_DATA);
    if (found >= 0) return std::min<uint64_t>(static_cast<uint64_t>(found), size_);
    if (errno == ENXIO) return size_;  // nothing but a hole
#endif
    return from;
  }

 private:
  const Fd fd_;
  void* base_;
  size_t size_;
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  Status Read(uint64_t offset, size_t length, char* out, size_t* got) override {
    *got = 0;
    while (*got < length) {
      const ssize_t n =
          pread(fd_.get(), out + *got, std::min(length - *got, kIoBytesMax), static_cast<off_t>(offset + *got));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("read", path_, errno);
      if (n == 0) break;
      *got += static_cast<size_t>(n);
    }
    return {};
  }

 private:
  const std::string path_;
  const Fd fd_;
};

class PwriteFile : public WritableFile {
 public:
  PwriteFile(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  Status Write(uint64_t offset, std::span<const std::string_view> parts) override {
    std::array<iovec, 8> vectors;
    size_t part = 0, skip = 0;  // skip: bytes of parts[part] that are written already
    while (part < parts.size()) {
      int count = 0;
      size_t bytes = 0;
      for (size_t i = part; i < parts.size() && count < static_cast<int>(vectors.size()) && bytes < kIoBytesMax; ++i) {
        const std::string_view rest = i == part ? parts[i].substr(skip) : parts[i];
        const size_t length = std::min(rest.size(), kIoBytesMax - bytes);
        vectors[static_cast<size_t>(count++)] = {const_cast<char*>(rest.data()), length};
        bytes += length;
      }
      const ssize_t n = pwritev(fd_.get(), vectors.data(), count, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus("write", path_, errno);
      offset += static_cast<uint64_t>(n);
      size_t left = static_cast<size_t>(n);
      while (part < parts.size() && left >= parts[part].size() - skip) {
        left -= parts[part].size() - skip;
        skip = 0;
        ++part;
      }
      skip += left;
    }
    return {};
  }

  Status Sync() override { return SyncFd(fd_.get(), path_); }

  void StartWriteback() override {
#if defined(__linux__)
    sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WRITE);  // a hint; a real failure shows in the next Sync
#endif
  }

 protected:
  const std::string path_;
  const Fd fd_;
};

class MappedFile : public PwriteFile {
 public:
  MappedFile(std::string path, Fd fd, char* base, uint64_t size)
      : PwriteFile(std::move(path), std::move(fd)), base_(base), size_(size) {}
  ~MappedFile() override { munmap(base_, size_); }

  Status Write(uint64_t offset, std::span<const std::string_view> parts) override {
    for (const std::string_view part : parts) {
      FASTKV_CHECK(offset <= size_ && part.size() <= size_ - offset);
      // In pieces, so that a value of 2 GiB does not become resident as a whole.
      for (size_t done = 0; done < part.size();) {
        const size_t length = std::min<size_t>(part.size() - done, kDropMappedBytes);
        memcpy(base_ + offset, part.data() + done, length);
        done += length;
        offset += length;
        DropWritten(offset);
      }
    }
    return {};
  }

  Status Sync() override {
#if defined(__APPLE__)
    if (msync(base_, size_, MS_SYNC) != 0) return ErrnoStatus("sync", path_, errno);
#endif
    return SyncFd(fd_.get(), path_);  // on Linux this covers what was written through the mapping
  }

 private:
  void DropWritten(uint64_t end) {
    if (end < dropped_ + kDropMappedBytes) return;
    const uint64_t until = end / kMapGranularity * kMapGranularity;
    madvise(base_ + dropped_, until - dropped_, MADV_DONTNEED);
    dropped_ = until;
  }

  char* const base_;
  const uint64_t size_;
  uint64_t dropped_ = 0;  // pages below were given back
};

// Which lock files this process holds. flock alone would do between processes, but its holder inside this process could
// only be guessed from the pid. A forked child inherits descriptors and with them the lock: it closes its copies at
// once, so that the lock ends with the parent.
class LockRegistry {
 public:
  using Key = std::pair<uint64_t, uint64_t>;  // device, inode

  static LockRegistry& Get() {
    static LockRegistry* registry = new LockRegistry;  // never destroyed: locks may outlive static destructors
    return *registry;
  }

  std::mutex mu;
  std::map<Key, int> held;  // -> descriptor
  uint64_t generation = 0;  // grows in a forked child: locks taken before are not its own

 private:
  LockRegistry() { FASTKV_CHECK(pthread_atfork(Prepare, Parent, Child) == 0); }
  static void Prepare() { Get().mu.lock(); }
  static void Parent() { Get().mu.unlock(); }
  static void Child() {
    for (const auto& [key, fd] : Get().held) close(fd);
    Get().held.clear();
    ++Get().generation;
    Get().mu.unlock();
  }
};

class PosixLock : public FileLock {
 public:
  PosixLock(LockRegistry::Key key, uint64_t generation) : key_(key), generation_(generation) {}
  ~PosixLock() override {
    LockRegistry& registry = LockRegistry::Get();
    const std::lock_guard guard(registry.mu);
    if (registry.generation != generation_) return;  // the parent's: unlocking would free it under the parent's feet
    const auto it = registry.held.find(key_);
    FASTKV_CHECK(it != registry.held.end());
    // A child may have been forked a moment ago and not yet have closed its copy, so closing ours would not do.
    flock(it->second, LOCK_UN);
    close(it->second);
    registry.held.erase(it);
  }

 private:
  const LockRegistry::Key key_;
  const uint64_t generation_;
};

class PosixEnv : public Env {
 public:
  Status CreateDir(const std::string& path) override {
    if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
    return ErrnoStatus("create directory", path, errno);
  }

  Status List(const std::string& dir, std::vector<std::string>* names) override {
    names->clear();
    DIR* stream = opendir(dir.c_str());
    if (stream == nullptr) return ErrnoStatus("list directory", dir, errno);
    errno = 0;
    while (const dirent* entry = readdir(stream)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names->emplace_back(name);
      errno = 0;
    }
    const int error = errno;
    closedir(stream);
    if (error != 0) return ErrnoStatus("list directory", dir, error);
    std::sort(names->begin(), names->end());
    return {};
  }

  Status SyncDir(const std::string& dir) override {
    const Fd fd = OpenFd(dir, O_RDONLY | O_DIRECTORY);
    if (!fd.ok()) return ErrnoStatus("open directory", dir, errno);
    if (fsync(fd.get()) != 0) return ErrnoStatus("sync directory", dir, errno);
    return {};
  }

  Status Stat(const std::string& path, FileInfo* info) override {
    struct stat st;
    *info = {};
    if (stat(path.c_str(), &st) != 0) return errno == ENOENT ? Status() : ErrnoStatus("stat", path, errno);
    *info = {true, S_ISDIR(st.st_mode), static_cast<uint64_t>(st.st_size)};
    return {};
  }

  Status Remove(const std::string& path) override {
    return unlink(path.c_str()) == 0 ? Status() : ErrnoStatus("remove", path, errno);
  }

  Status Rename(const std::string& from, const std::string& to) override {
    return rename(from.c_str(), to.c_str()) == 0 ? Status() : ErrnoStatus("rename", from + " to " + to, errno);
  }

  Status View(const std::string& path, std::unique_ptr<FileView>* view) override {
    Fd fd = OpenFd(path, O_RDONLY);
    if (!fd.ok()) return ErrnoStatus("open", path, errno);
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return ErrnoStatus("stat", path, errno);
    const auto size = static_cast<size_t>(st.st_size);
    void* base = nullptr;
    if (size > 0) {
      base = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
      if (base == MAP_FAILED) return ErrnoStatus("map", path, errno);
      madvise(base, size, MADV_SEQUENTIAL);
    }
    *view = std::make_unique<PosixView>(std::move(fd), base, size);
    return {};
  }

  Status OpenForRead(const std::string& path, std::unique_ptr<ReadableFile>* file) override {
    Fd fd = OpenFd(path, O_RDONLY);
    if (!fd.ok()) return ErrnoStatus("open", path, errno);
    *file = std::make_unique<PosixReadableFile>(path, std::move(fd));
    return {};
  }

  Status Create(const std::string& path, uint64_t size, WriteMode mode, std::unique_ptr<WritableFile>* file) override {
    Fd fd = OpenFd(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (!fd.ok()) return ErrnoStatus("create", path, errno);
    Status status = size == 0 ? Status() : Reserve(fd.get(), path, 0, size);
    if (status.ok()) status = Wrap(path, std::move(fd), size, mode, file);
    if (!status.ok()) unlink(path.c_str());
    return status;
  }

  Status OpenForWrite(const std::string& path, WriteMode mode, std::unique_ptr<WritableFile>* file) override {
    Fd fd = OpenFd(path, O_RDWR);
    if (!fd.ok()) return ErrnoStatus("open", path, errno);
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return ErrnoStatus("stat", path, errno);
    const auto size = static_cast<uint64_t>(st.st_size);
    // With pwrite a full disk is an error to return, not a signal: nothing to reserve.
    if (size > 0 && mode == WriteMode::kMapped) FASTKV_RETURN_IF_ERROR(Reserve(fd.get(), path, size, size));
    return Wrap(path, std::move(fd), size, mode, file);
  }

  Status Lock(const std::string& path, std::unique_ptr<FileLock>* lock) override {
    LockRegistry& registry = LockRegistry::Get();
    const std::lock_guard guard(registry.mu);
    Fd fd = OpenFd(path, O_RDWR | O_CREAT, 0600);
    if (!fd.ok()) return ErrnoStatus("open", path, errno);
    struct stat st;
    if (fstat(fd.get(), &st) != 0) return ErrnoStatus("stat", path, errno);
    const LockRegistry::Key key{st.st_dev, st.st_ino};
    if (registry.held.contains(key)) {
      return {Code::kLocked, path + " is held by this process already (process " + std::to_string(getpid()) + ")"};
    }
    int result;
    do {
      result = flock(fd.get(), LOCK_EX | LOCK_NB);
    } while (result != 0 && errno == EINTR);
    if (result != 0) {
      if (errno != EWOULDBLOCK) return ErrnoStatus("lock", path, errno);
      const std::string pid = ReadPid(fd.get());
      return {Code::kLocked, path + " is held by " + (pid.empty() ? "another process" : "process " + pid)};
    }
    // The pid is for the message above only: a disk too full for it must not keep the store closed.
    const std::string pid = std::to_string(getpid()) + "\n";
    const Status written = PwriteAll(fd.get(), path, 0, pid.data(), pid.size());
    if (!written.ok() && written.code() != Code::kNoSpace) return written;
    if (ftruncate(fd.get(), written.ok() ? static_cast<off_t>(pid.size()) : 0) != 0) {
      return ErrnoStatus("truncate", path, errno);
    }
    *lock = std::make_unique<PosixLock>(key, registry.generation);
    registry.held.emplace(key, fd.Release());
    return {};
  }

  uint64_t NowMicros() override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
  }

  uint64_t Random64() override {
    uint64_t number;
    FASTKV_CHECK(getentropy(&number, sizeof number) == 0);  // fails on systems older than this compiler only
    return number;
  }

 private:
  static Status Wrap(const std::string& path, Fd fd, uint64_t size, WriteMode mode,
                     std::unique_ptr<WritableFile>* file) {
    if (mode == WriteMode::kPwrite || size == 0) {
      *file = std::make_unique<PwriteFile>(path, std::move(fd));
      return {};
    }
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (base == MAP_FAILED) return ErrnoStatus("map", path, errno);
    *file = std::make_unique<MappedFile>(path, std::move(fd), static_cast<char*>(base), size);
    return {};
  }

  static std::string ReadPid(int fd) {
    char bytes[32];
    const ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    std::string pid;
    for (ssize_t i = 0; i < n && bytes[i] >= '0' && bytes[i] <= '9'; ++i) pid += bytes[i];
    return pid;
  }
};

}  // namespace

Env* Env::Posix() {
  static PosixEnv env;
  return &env;
}

}  // namespace fastkv
