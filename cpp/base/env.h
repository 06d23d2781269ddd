// The operating system as the store sees it: files, directories, locks, the clock.
//
// PosixEnv (posix_env.cc) is the real one, FaultEnv (fault_env.h) keeps everything in memory and loses what was not
// synced. Every failure is a Status that names operation, path and the system's reason:
//   ENOSPC, EDQUOT -> kNoSpace    ENOENT -> kNotFound    a lock that is held -> kLocked    everything else -> kIoError
//
// What survives what:
//   Write                        the death of this process
//   Write + Sync                 the death of the machine, if the file's name was synced too
//   Create/Rename/Remove         the death of the machine only after SyncDir of the directory
//
// Thread safety: Env: any thread. A file: one writer at a time; Sync from any thread beside it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace fastkv {

// A file's bytes, mapped (or held) for as long as this object lives. Never written through.
class FileView {
 public:
  virtual ~FileView() = default;
  virtual std::string_view bytes() const = 0;
  // The first offset >= from (from <= the size) where something else than zeros may stand; the size if there is none.
  // What is passed over was reserved and never written: it is known without being read.
  virtual uint64_t NextData(uint64_t from) const { return from; }
};

// Random reads of a file that may be growing meanwhile.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Fills out[0, length); *got is less at the end of the file only.
  virtual Status Read(uint64_t offset, size_t length, char* out, size_t* got) = 0;
};

class WritableFile {
 public:
  virtual ~WritableFile() = default;  // closes; syncs nothing
  // Writes the parts one after the other from `offset` on. After an error any part of the range may have been written.
  virtual Status Write(uint64_t offset, std::span<const std::string_view> parts) = 0;
  Status Write(uint64_t offset, std::string_view bytes) { return Write(offset, std::span(&bytes, 1)); }
  // All bytes written before the call, and the file's size, are on the disk when it returns OK.
  virtual Status Sync() = 0;
  // Asks the system to begin writing to the disk, without waiting. A hint: cannot fail.
  virtual void StartWriteback() {}
};

class FileLock {
 public:
  virtual ~FileLock() = default;  // releases
};

struct FileInfo {
  bool exists = false;
  bool directory = false;
  uint64_t size = 0;
};

enum class WriteMode {
  kPwrite,  // a system call a write; a full disk is an error
  kMapped,  // a memory copy a write, only inside the preallocated size; needs space that is really reserved
};

class Env {
 public:
  static Env* Posix();
  virtual ~Env() = default;

  // Directories. CreateDir: already there is fine; the parent must exist. List: names only, no "." and "..", sorted.
  virtual Status CreateDir(const std::string& path) = 0;
  virtual Status List(const std::string& dir, std::vector<std::string>* names) = 0;
  virtual Status SyncDir(const std::string& dir) = 0;

  virtual Status Stat(const std::string& path, FileInfo* info) = 0;  // missing is not an error: info->exists
  virtual Status Remove(const std::string& path) = 0;                // a file
  virtual Status Rename(const std::string& from, const std::string& to) = 0;

  // Reading.
  virtual Status View(const std::string& path, std::unique_ptr<FileView>* view) = 0;
  virtual Status OpenForRead(const std::string& path, std::unique_ptr<ReadableFile>* file) = 0;

  // Writing. Create replaces what is there; `size` bytes are reserved on the disk and read as zeros. If that fails,
  // whatever was made is removed again. OpenForWrite keeps the file's bytes and size and, to map it, reserves its
  // holes.
  virtual Status Create(const std::string& path, uint64_t size, WriteMode mode,
                        std::unique_ptr<WritableFile>* file) = 0;
  virtual Status OpenForWrite(const std::string& path, WriteMode mode, std::unique_ptr<WritableFile>* file) = 0;

  // One owner at a time, in this process or another. A held lock gives kLocked with the owner's pid in the message.
  // Never blocks. The lock ends with its object or its process; a forked child does not hold it.
  virtual Status Lock(const std::string& path, std::unique_ptr<FileLock>* lock) = 0;

  virtual uint64_t NowMicros() = 0;  // monotonic
  virtual uint64_t Random64() = 0;   // that nobody outside can guess

  // In terms of the above.
  Status ReadAll(const std::string& path, std::string* bytes);
  // Replaces `path` as a whole: .tmp, sync, rename, directory sync.
  Status WriteAtomically(const std::string& path, std::string_view bytes);
};

std::string JoinPath(std::string_view dir, std::string_view name);
std::string ParentPath(const std::string& path);  // "." if it has none

}  // namespace fastkv
