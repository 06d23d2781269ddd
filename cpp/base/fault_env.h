// An Env in memory that fails, crashes and loses what was not synced: for tests, deterministic from its seed.
//
//   FaultEnv env(seed);
//   ... write ...
//   env.CrashAfterOps(17);  ... the 18th changing call and all after it fail ...
//   env.Crash();            // power loss: open files are dead, unsynced sectors and names survive at random
//   ... open again ...
//
// Power loss, per file: every 512-byte sector ends up as any of the versions it had since the last Sync, each sector by
// itself (a write is torn, dropped, or reordered after a later one); the size ends up as the synced or the newest one.
// Per directory: the unsynced creates, renames and removes survive each by itself, or up to one point (chosen per
// crash).
//
// Invariant: a Sync'd byte in a SyncDir'd name is never lost.
// Thread safety: every method from any thread (one lock); deterministic only as far as the callers' order is.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/env.h"

namespace fastkv {

class FaultEnv : public Env {
 public:
  explicit FaultEnv(uint64_t seed);
  ~FaultEnv() override;

  enum class Op { kWrite, kSync, kCreate, kRemove, kRename, kSyncDir };
  // The n-th call of this kind from now (1 = the next) fails with `code` (kNoSpace or kIoError); a write that fails has
  // written some of its bytes, a sync that fails none. With `for_good` all after it fail as well.
  void FailNth(Op op, uint64_t n, Code code, bool for_good = false);
  void ClearFailures();
  // Sync and SyncDir say OK and do nothing: what a test must notice if it is worth anything.
  void LieAboutSync(bool lie);
  // Creates and growing writes beyond this many bytes in all files together fail with kNoSpace.
  void SetCapacity(uint64_t bytes);
  // The n-th changing call from now and all after it fail and change nothing (the machine is gone); then call Crash.
  void CrashAfterOps(uint64_t n);
  bool crashed() const;
  uint64_t ops() const;  // changing calls so far
  // Power loss. Open files fail from now on, locks are gone, and what was not synced survives at random.
  void Crash();
  // Death of the process only: everything written survives, open files and locks are gone.
  void KillProcess();

  // Behind everybody's back, and durable at once.
  std::string Contents(const std::string& path);
  void SetContents(const std::string& path, std::string_view bytes);

  Status CreateDir(const std::string& path) override;
  Status List(const std::string& dir, std::vector<std::string>* names) override;
  Status SyncDir(const std::string& dir) override;
  Status Stat(const std::string& path, FileInfo* info) override;
  Status Remove(const std::string& path) override;
  Status Rename(const std::string& from, const std::string& to) override;
  Status View(const std::string& path, std::unique_ptr<FileView>* view) override;
  Status OpenForRead(const std::string& path, std::unique_ptr<ReadableFile>* file) override;
  Status Create(const std::string& path, uint64_t size, WriteMode mode, std::unique_ptr<WritableFile>* file) override;
  Status OpenForWrite(const std::string& path, WriteMode mode, std::unique_ptr<WritableFile>* file) override;
  Status Lock(const std::string& path, std::unique_ptr<FileLock>* lock) override;
  uint64_t NowMicros() override;
  uint64_t Random64() override;  // of the seed, too

 private:
  struct Inode;
  struct NameChange;
  struct Directory;
  class MemoryView;
  class MemoryReader;
  class MemoryWriter;
  class MemoryLock;

  using InodePtr = std::shared_ptr<Inode>;

  Status Gate(Op op, const std::string& path, bool* fail_midway);
  Status WriteLocked(const std::string& path, Inode* inode, uint64_t generation, uint64_t offset,
                     std::span<const std::string_view> parts);
  Status SyncLocked(const std::string& path, Inode* inode, uint64_t generation);
  InodePtr Find(const std::string& path) const;
  Directory* FindDirectory(const std::string& path) const;
  uint64_t BytesUsed() const;
  bool Coin() { return (random_() & 1) != 0; }

  mutable std::mutex mu_;
  std::mt19937_64 random_;
  std::map<std::string, std::unique_ptr<Directory>> directories_;
  std::set<std::string> locks_;
  struct Failure {
    uint64_t countdown = 0;  // 0: off
    Code code = Code::kIoError;
    bool for_good = false;
  };
  std::map<Op, Failure> failures_;
  uint64_t capacity_ = UINT64_MAX;
  bool lie_about_sync_ = false;
  uint64_t ops_ = 0;
  uint64_t crash_countdown_ = 0;
  bool crashed_ = false;
  uint64_t generation_ = 1;  // of the machine: handles of an earlier one are dead
  uint64_t now_micros_ = 0;
};

}  // namespace fastkv
