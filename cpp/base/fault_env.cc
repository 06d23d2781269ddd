#include "base/fault_env.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace fastkv {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr size_t kSectorVersionsMax = 16;  // per sector between two syncs; beyond, the last place is overwritten

std::string NameOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

struct FaultEnv::Inode {
  std::string bytes;                                      // what a running system sees
  std::string synced;                                     // what the disk has for certain
  std::map<uint64_t, std::vector<std::string>> versions;  // sector -> what it was since the last sync, oldest first

  void NoteSectors(uint64_t from, uint64_t to) {
    for (uint64_t sector = from / kSectorBytes; sector * kSectorBytes < to; ++sector) {
      std::string now = bytes.substr(sector * kSectorBytes, kSectorBytes);
      now.resize(kSectorBytes, '\0');
      auto& all = versions[sector];
      if (all.size() < kSectorVersionsMax) {
        all.push_back(std::move(now));
      } else {
        all.back() = std::move(now);
      }
    }
  }
};

struct FaultEnv::NameChange {
  enum class Kind { kCreate, kRemove, kRename } kind;
  std::string name, to;
  InodePtr inode;  // of kCreate and kRename

  void Apply(std::map<std::string, InodePtr>* names) const {
    switch (kind) {
      case Kind::kCreate:
        (*names)[name] = inode;
        break;
      case Kind::kRemove:
        names->erase(name);
        break;
      case Kind::kRename:
        names->erase(name);
        (*names)[to] = inode;
        break;
    }
  }
};

struct FaultEnv::Directory {
  std::map<std::string, InodePtr> names, synced;
  std::vector<NameChange> changes;  // since the last SyncDir

  void Change(NameChange change) {
    change.Apply(&names);
    changes.push_back(std::move(change));
  }
};

class FaultEnv::MemoryView : public FileView {
 public:
  explicit MemoryView(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string_view bytes() const override { return bytes_; }

 private:
  const std::string bytes_;
};

class FaultEnv::MemoryReader : public ReadableFile {
 public:
  MemoryReader(FaultEnv* env, InodePtr inode) : env_(env), inode_(std::move(inode)) {}
  Status Read(uint64_t offset, size_t length, char* out, size_t* got) override {
    const std::lock_guard guard(env_->mu_);
    *got = 0;
    if (offset >= inode_->bytes.size()) return {};
    *got = std::min(length, inode_->bytes.size() - static_cast<size_t>(offset));
    memcpy(out, inode_->bytes.data() + offset, *got);
    return {};
  }

 private:
  FaultEnv* const env_;
  const InodePtr inode_;
};

class FaultEnv::MemoryWriter : public WritableFile {
 public:
  MemoryWriter(FaultEnv* env, std::string path, InodePtr inode, WriteMode mode, uint64_t generation)
      : env_(env),
        path_(std::move(path)),
        inode_(std::move(inode)),
        size_max_(mode == WriteMode::kMapped ? inode_->bytes.size() : UINT64_MAX),
        generation_(generation) {}

  Status Write(uint64_t offset, std::span<const std::string_view> parts) override {
    const std::lock_guard guard(env_->mu_);
    uint64_t end = offset;
    for (const auto part : parts) end += part.size();
    FASTKV_CHECK(end <= size_max_);
    return env_->WriteLocked(path_, inode_.get(), generation_, offset, parts);
  }
  Status Sync() override {
    const std::lock_guard guard(env_->mu_);
    return env_->SyncLocked(path_, inode_.get(), generation_);
  }

 private:
  FaultEnv* const env_;
  const std::string path_;
  const InodePtr inode_;
  const uint64_t size_max_;
  const uint64_t generation_;
};

class FaultEnv::MemoryLock : public FileLock {
 public:
  MemoryLock(FaultEnv* env, std::string path, uint64_t generation)
      : env_(env), path_(std::move(path)), generation_(generation) {}
  ~MemoryLock() override {
    const std::lock_guard guard(env_->mu_);
    if (env_->generation_ == generation_) env_->locks_.erase(path_);
  }

 private:
  FaultEnv* const env_;
  const std::string path_;
  const uint64_t generation_;
};

FaultEnv::FaultEnv(uint64_t seed) : random_(seed) {
  directories_["/"] = std::make_unique<Directory>();
  directories_["."] = std::make_unique<Directory>();
}
FaultEnv::~FaultEnv() = default;

void FaultEnv::FailNth(Op op, uint64_t n, Code code, bool for_good) {
  const std::lock_guard guard(mu_);
  failures_[op] = {n, code, for_good};
}
void FaultEnv::ClearFailures() {
  const std::lock_guard guard(mu_);
  failures_.clear();
}
void FaultEnv::LieAboutSync(bool lie) {
  const std::lock_guard guard(mu_);
  lie_about_sync_ = lie;
}
void FaultEnv::SetCapacity(uint64_t bytes) {
  const std::lock_guard guard(mu_);
  capacity_ = bytes;
}
void FaultEnv::CrashAfterOps(uint64_t n) {
  const std::lock_guard guard(mu_);
  crash_countdown_ = n + 1;
}
bool FaultEnv::crashed() const {
  const std::lock_guard guard(mu_);
  return crashed_;
}
uint64_t FaultEnv::ops() const {
  const std::lock_guard guard(mu_);
  return ops_;
}

void FaultEnv::Crash() {
  const std::lock_guard guard(mu_);
  std::set<Inode*> done;
  const auto settle = [&](Inode* inode) {
    if (!done.insert(inode).second) return;
    std::string after = inode->synced;
    if (Coin()) after.resize(inode->bytes.size(), '\0');
    for (const auto& [sector, versions] : inode->versions) {
      const size_t choice = random_() % (versions.size() + 1);
      const uint64_t at = sector * kSectorBytes;
      if (choice == 0 || at >= after.size()) continue;
      const size_t length = std::min<size_t>(kSectorBytes, after.size() - at);
      after.replace(at, length, versions[choice - 1], 0, length);
    }
    inode->bytes = inode->synced = std::move(after);
    inode->versions.clear();
  };
  for (auto& [path, directory] : directories_) {
    const bool in_order = Coin();
    const size_t kept = random_() % (directory->changes.size() + 1);
    for (size_t i = 0; i < directory->changes.size(); ++i) {
      if (in_order ? i < kept : Coin()) directory->changes[i].Apply(&directory->synced);
    }
    directory->names = directory->synced;
    directory->changes.clear();
    for (auto& [name, inode] : directory->names) settle(inode.get());
  }
  ++generation_;
  locks_.clear();
  crashed_ = false;
  crash_countdown_ = 0;
}

void FaultEnv::KillProcess() {
  const std::lock_guard guard(mu_);
  ++generation_;
  locks_.clear();
  crashed_ = false;
  crash_countdown_ = 0;
}

std::string FaultEnv::Contents(const std::string& path) {
  const std::lock_guard guard(mu_);
  const InodePtr inode = Find(path);
  FASTKV_CHECK(inode != nullptr);
  return inode->bytes;
}

void FaultEnv::SetContents(const std::string& path, std::string_view bytes) {
  const std::lock_guard guard(mu_);
  Directory* directory = FindDirectory(ParentPath(path));
  FASTKV_CHECK(directory != nullptr);
  auto inode = std::make_shared<Inode>();
  inode->bytes = inode->synced = bytes;
  directory->names[NameOf(path)] = inode;
  directory->synced[NameOf(path)] = inode;
}

FaultEnv::InodePtr FaultEnv::Find(const std::string& path) const {
  const Directory* directory = FindDirectory(ParentPath(path));
  if (directory == nullptr) return nullptr;
  const auto it = directory->names.find(NameOf(path));
  return it == directory->names.end() ? nullptr : it->second;
}

FaultEnv::Directory* FaultEnv::FindDirectory(const std::string& path) const {
  const auto it = directories_.find(path);
  return it == directories_.end() ? nullptr : it->second.get();
}

uint64_t FaultEnv::BytesUsed() const {
  uint64_t used = 0;
  for (const auto& [path, directory] : directories_) {
    for (const auto& [name, inode] : directory->names) used += inode->bytes.size();
  }
  return used;
}

// Counts the call and lets it fail if it is its turn. *fail_midway: the failing call does part of its work first.
Status FaultEnv::Gate(Op op, const std::string& path, bool* fail_midway) {
  static constexpr const char* kNames[] = {"write", "sync", "create", "remove", "rename", "sync directory"};
  const std::string what = std::string(kNames[static_cast<size_t>(op)]) + " " + path;
  *fail_midway = false;
  if (crashed_) return {Code::kIoError, what + ": the machine is gone"};
  if (crash_countdown_ > 0 && --crash_countdown_ == 0) {
    crashed_ = true;
    *fail_midway = true;
    return {Code::kIoError, what + ": the machine is gone"};
  }
  ++ops_;
  const auto it = failures_.find(op);
  if (it == failures_.end() || it->second.countdown == 0 || --it->second.countdown > 0) return {};
  if (it->second.for_good) it->second.countdown = 1;
  *fail_midway = true;
  return {it->second.code, what + (it->second.code == Code::kNoSpace ? ": No space left on device (injected)"
                                                                     : ": Input/output error (injected)")};
}

Status FaultEnv::WriteLocked(const std::string& path, Inode* inode, uint64_t generation, uint64_t offset,
                             std::span<const std::string_view> parts) {
  if (generation != generation_) return {Code::kIoError, "write " + path + ": opened before the crash"};
  std::string bytes;
  for (const auto part : parts) bytes += part;
  bool midway;
  Status status = Gate(Op::kWrite, path, &midway);
  if (!status.ok() && !midway) return status;
  const uint64_t growth = offset + bytes.size() > inode->bytes.size() ? offset + bytes.size() - inode->bytes.size() : 0;
  if (status.ok() && growth > 0) {
    const uint64_t used = BytesUsed();
    if (used + growth > capacity_) {
      status = {Code::kNoSpace, "write " + path + ": No space left on device"};
      bytes.resize(bytes.size() - std::min<uint64_t>(bytes.size(), used + growth - capacity_));
    }
  } else if (!status.ok() && !bytes.empty()) {
    bytes.resize(random_() % bytes.size());
  }
  if (bytes.empty()) return status;
  if (inode->bytes.size() < offset + bytes.size()) inode->bytes.resize(offset + bytes.size(), '\0');
  inode->bytes.replace(offset, bytes.size(), bytes);
  inode->NoteSectors(offset, offset + bytes.size());
  return status;
}

Status FaultEnv::SyncLocked(const std::string& path, Inode* inode, uint64_t generation) {
  if (generation != generation_) return {Code::kIoError, "sync " + path + ": opened before the crash"};
  bool midway;
  FASTKV_RETURN_IF_ERROR(Gate(Op::kSync, path, &midway));
  if (lie_about_sync_) return {};
  inode->synced = inode->bytes;
  inode->versions.clear();
  return {};
}

Status FaultEnv::CreateDir(const std::string& path) {
  const std::lock_guard guard(mu_);
  if (FindDirectory(path) != nullptr) return {};
  if (FindDirectory(ParentPath(path)) == nullptr) {
    return {Code::kNotFound, "create directory " + path + ": No such file or directory"};
  }
  directories_[path] = std::make_unique<Directory>();
  return {};
}

Status FaultEnv::List(const std::string& dir, std::vector<std::string>* names) {
  const std::lock_guard guard(mu_);
  names->clear();
  const Directory* directory = FindDirectory(dir);
  if (directory == nullptr) return {Code::kNotFound, "list directory " + dir + ": No such file or directory"};
  for (const auto& [name, inode] : directory->names) names->push_back(name);
  for (const auto& [path, child] : directories_) {
    if (path != dir && path != "/" && path != "." && ParentPath(path) == dir) names->push_back(NameOf(path));
  }
  std::sort(names->begin(), names->end());
  return {};
}

Status FaultEnv::SyncDir(const std::string& dir) {
  const std::lock_guard guard(mu_);
  Directory* directory = FindDirectory(dir);
  if (directory == nullptr) return {Code::kNotFound, "sync directory " + dir + ": No such file or directory"};
  bool midway;
  FASTKV_RETURN_IF_ERROR(Gate(Op::kSyncDir, dir, &midway));
  if (lie_about_sync_) return {};
  directory->synced = directory->names;
  directory->changes.clear();
  return {};
}

Status FaultEnv::Stat(const std::string& path, FileInfo* info) {
  const std::lock_guard guard(mu_);
  *info = {};
  if (FindDirectory(path) != nullptr) *info = {true, true, 0};
  if (const InodePtr inode = Find(path)) *info = {true, false, inode->bytes.size()};
  return {};
}

Status FaultEnv::Remove(const std::string& path) {
  const std::lock_guard guard(mu_);
  if (Find(path) == nullptr) return {Code::kNotFound, "remove " + path + ": No such file or directory"};
  bool midway;
  FASTKV_RETURN_IF_ERROR(Gate(Op::kRemove, path, &midway));
  FindDirectory(ParentPath(path))->Change({NameChange::Kind::kRemove, NameOf(path), "", nullptr});
  return {};
}

Status FaultEnv::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard guard(mu_);
  const InodePtr inode = Find(from);
  if (inode == nullptr) return {Code::kNotFound, "rename " + from + ": No such file or directory"};
  FASTKV_CHECK(ParentPath(from) == ParentPath(to));  // nobody moves files between directories
  bool midway;
  FASTKV_RETURN_IF_ERROR(Gate(Op::kRename, from, &midway));
  FindDirectory(ParentPath(from))->Change({NameChange::Kind::kRename, NameOf(from), NameOf(to), inode});
  return {};
}

Status FaultEnv::View(const std::string& path, std::unique_ptr<FileView>* view) {
  const std::lock_guard guard(mu_);
  const InodePtr inode = Find(path);
  if (inode == nullptr) return {Code::kNotFound, "open " + path + ": No such file or directory"};
  *view = std::make_unique<MemoryView>(inode->bytes);
  return {};
}

Status FaultEnv::OpenForRead(const std::string& path, std::unique_ptr<ReadableFile>* file) {
  const std::lock_guard guard(mu_);
  const InodePtr inode = Find(path);
  if (inode == nullptr) return {Code::kNotFound, "open " + path + ": No such file or directory"};
  *file = std::make_unique<MemoryReader>(this, inode);
  return {};
}

Status FaultEnv::Create(const std::string& path, uint64_t size, WriteMode mode, std::unique_ptr<WritableFile>* file) {
  const std::lock_guard guard(mu_);
  Directory* directory = FindDirectory(ParentPath(path));
  if (directory == nullptr) return {Code::kNotFound, "create " + path + ": No such file or directory"};
  bool midway;
  FASTKV_RETURN_IF_ERROR(Gate(Op::kCreate, path, &midway));
  if (BytesUsed() + size > capacity_) return {Code::kNoSpace, "allocate " + path + ": No space left on device"};
  auto inode = std::make_shared<Inode>();
  inode->bytes.resize(size, '\0');
  directory->Change({NameChange::Kind::kCreate, NameOf(path), "", inode});
  *file = std::make_unique<MemoryWriter>(this, path, inode, mode, generation_);
  return {};
}

Status FaultEnv::OpenForWrite(const std::string& path, WriteMode mode, std::unique_ptr<WritableFile>* file) {
  const std::lock_guard guard(mu_);
  const InodePtr inode = Find(path);
  if (inode == nullptr) return {Code::kNotFound, "open " + path + ": No such file or directory"};
  *file = std::make_unique<MemoryWriter>(this, path, inode, mode, generation_);
  return {};
}

Status FaultEnv::Lock(const std::string& path, std::unique_ptr<FileLock>* lock) {
  const std::lock_guard guard(mu_);
  if (!locks_.insert(path).second) return {Code::kLocked, path + " is held by this process already (process 1)"};
  if (Directory* directory = FindDirectory(ParentPath(path)); directory != nullptr && Find(path) == nullptr) {
    directory->Change({NameChange::Kind::kCreate, NameOf(path), "", std::make_shared<Inode>()});
  }
  *lock = std::make_unique<MemoryLock>(this, path, generation_);
  return {};
}

uint64_t FaultEnv::NowMicros() {
  const std::lock_guard guard(mu_);
  return ++now_micros_;
}

uint64_t FaultEnv::Random64() {
  const std::lock_guard guard(mu_);
  return random_();
}

}  // namespace fastkv
