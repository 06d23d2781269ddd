// Checkpoints that travel: the leader's side reads the newest one, a follower's takes one in the place of all it has.
//
//   arrives:  checkpoint/INDEX.RANDOM.recv  --verified, loaded--> renamed to INDEX.ckpt --> SNAPSHOT mark in the log
//   --> memory
//                                                          ^ from here on, also after a crash, it is the state

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "db/db.h"
#include "db/log_use.h"
#include "db/replica.h"
#include "db/state_file.h"

namespace fastkv {
namespace {

constexpr uint64_t kWritebackBytes = 1 << 20;
constexpr int kOpenAttempts = 5;

}  // namespace

// -- sending

Status Replica::OpenSnapshot(std::unique_ptr<SnapshotReader>* reader) {
  reader->reset();
  const Db::LogUse use(db_, Db::LogUse::kRead);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (db_->log_ == nullptr) return {Code::kNotFound, "a store in memory has no snapshots"};
  Status status;
  for (int attempt = 0; attempt < kOpenAttempts; ++attempt) {
    std::unique_ptr<SnapshotReader> made(new SnapshotReader);
    {
      const std::lock_guard lock(db_->meta_mutex_);
      if (!db_->sendable_.good) break;
      made->index_ = db_->sendable_.index;
      made->term_ = db_->sendable_.term;
      made->membership_ = db_->sendable_.membership;
    }
    made->path_ = JoinPath(db_->directory_->checkpoint_dir(), CheckpointFileName(made->index_));
    // The open file stays readable when its name goes; between the look and the open it may have been pruned.
    status = db_->env_->OpenForRead(made->path_, &made->file_);
    if (status.code() == Code::kNotFound) continue;
    FASTKV_RETURN_IF_ERROR(status);
    FileInfo info;
    FASTKV_RETURN_IF_ERROR(db_->env_->Stat(made->path_, &info));
    if (!info.exists) continue;
    made->bytes_ = info.size;
    *reader = std::move(made);
    return {};
  }
  FASTKV_RETURN_IF_ERROR(status);
  if (membership().empty()) return {Code::kNotFound, "there is no snapshot before the first membership is set"};
  db_->StartCheckpoint(/*again=*/true);
  return {};
}

Status SnapshotReader::Read(uint64_t offset, size_t length, std::string* out) const {
  out->clear();
  if (offset >= bytes_) return {};
  out->resize(static_cast<size_t>(std::min<uint64_t>(length, bytes_ - offset)));
  size_t got = 0;
  FASTKV_RETURN_IF_ERROR(file_->Read(offset, out->size(), out->data(), &got));
  if (got == out->size()) return {};
  return {Code::kCorrupt, "checkpoint " + path_ + ": the file was cut while it was sent"};
}

// -- receiving

Status Replica::ReceiveSnapshot(uint64_t index, uint64_t term, std::unique_ptr<SnapshotWriter>* writer) {
  writer->reset();
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (db_->log_ == nullptr) return {Code::kNotFound, "a store in memory takes no snapshots"};
  const std::string name = ReceivedFileName(index, db_->env_->Random64());
  std::unique_ptr<SnapshotWriter> made(
      new SnapshotWriter(db_->env_, JoinPath(db_->directory_->checkpoint_dir(), name), index, term));
  FASTKV_RETURN_IF_ERROR(db_->env_->Create(made->path_, 0, WriteMode::kPwrite, &made->file_));
  *writer = std::move(made);
  return {};
}

SnapshotWriter::~SnapshotWriter() {
  file_.reset();
  if (!renamed_) (void)env_->Remove(path_).ok();  // what stays is removed by the next open
}

Status SnapshotWriter::Write(std::string_view bytes) {
  if (file_ == nullptr) return {Code::kClosed, "the snapshot " + path_ + " is finished"};
  FASTKV_RETURN_IF_ERROR(file_->Write(offset_, bytes));
  offset_ += bytes.size();
  unflushed_ += bytes.size();
  if (unflushed_ >= kWritebackBytes) {  // so that the sync at the end finds little to do and does not starve the log's
    file_->StartWriteback();
    unflushed_ = 0;
  }
  return {};
}

Status SnapshotWriter::Finish() {
  if (loaded_ != nullptr) return {};
  if (file_ == nullptr) return {Code::kClosed, "the snapshot " + path_ + " was refused"};
  FASTKV_RETURN_IF_ERROR(file_->Sync());
  file_.reset();
  try {
    const Status status = Load();
    if (!status.ok()) loaded_.reset();
    return status;
  } catch (const InvariantBroken& broken) {
    loaded_.reset();
    return {Code::kCorrupt, path_ + ": " + broken.what()};
  } catch (const std::bad_alloc&) {
    loaded_.reset();
    return {Code::kIoError, path_ + ": out of memory while loading a snapshot"};
  }
}

Status SnapshotWriter::Load() {
  std::unique_ptr<CheckpointReader> reader;
  FASTKV_RETURN_IF_ERROR(CheckpointReader::Open(env_, path_, index_, &reader));
  if (reader->head().term != term_ || reader->head().index != index_) {
    return {Code::kCorrupt, "snapshot " + path_ + " is of entry " + std::to_string(reader->head().index) + ", term " +
                                std::to_string(reader->head().term) + ", not of entry " + std::to_string(index_) +
                                ", term " + std::to_string(term_)};
  }
  loaded_ = std::make_unique<Store>();
  StateExtras extras;
  FASTKV_RETURN_IF_ERROR(LoadState(*reader, loaded_.get(), &extras));
  if (!extras.meta.empty() || reader->has_hard_state() || extras.membership.empty()) {
    return {Code::kCorrupt, "snapshot " + path_ + " is a member's own checkpoint, not one for others"};
  }
  membership_ = std::move(extras.membership);
  return {};
}

// -- installing

Status Replica::InstallSnapshot(SnapshotWriter* writer) {
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (!writer->finished()) return {Code::kClosed, "the snapshot " + writer->path_ + " is not finished"};
  const std::lock_guard lock(apply_mutex_);
  try {
    return InstallState(writer);
  } catch (const InvariantBroken& broken) {
    return Broken(broken.what());
  } catch (const std::bad_alloc&) {
    return Broken("out of memory while a snapshot was installed");
  }
}

Status Replica::InstallState(SnapshotWriter* writer) {
  if (alone_) return {Code::kReadOnly, "the member is alone: it takes no snapshot of another's"};
  FASTKV_CHECK(!db_->applying_);
  Store& store = db_->store_;
  if (writer->index_ <= db_->applied_index()) {
    return {Code::kNotFound, "a snapshot of entry " + std::to_string(writer->index_) + " is behind the applied entry " +
                                 std::to_string(db_->applied_index())};
  }
  if (writer->loaded_->revision() < store.revision() ||
      writer->loaded_->compact_revision() < store.compact_revision()) {
    return {Code::kCorrupt, "snapshot " + writer->path_ + " holds revision " +
                                std::to_string(writer->loaded_->revision()) + " (compacted " +
                                std::to_string(writer->loaded_->compact_revision()) +
                                "), which is behind this store's " + std::to_string(store.revision()) + " (" +
                                std::to_string(store.compact_revision()) + ")"};
  }
  db_->superseded_ = true;  // a checkpoint under way gives up
  const std::lock_guard no_checkpoint(db_->checkpoint_mutex_);
  db_->superseded_ = false;

  const std::string& dir = db_->directory_->checkpoint_dir();
  const std::string path = JoinPath(dir, CheckpointFileName(writer->index_));
  // The name first: a mark in the log without its checkpoint would be a log without a beginning. The other way round
  // the next open finds the checkpoint ahead of the log, and goes on from it.
  if (!writer->renamed_) {
    FASTKV_RETURN_IF_ERROR(db_->env_->Rename(writer->path_, path));
    writer->renamed_ = true;
  }
  FASTKV_RETURN_IF_ERROR(db_->env_->SyncDir(dir));
  {
    const std::lock_guard append_lock(append_mutex_);
    HardState next = state_;
    next.commit = std::max(next.commit, writer->index_);
    next.alone = false;
    if (writer->term_ > next.term) {
      next.term = writer->term_;
      next.vote = 0;
    }
    Status status = db_->log_->AppendSnapshot(writer->index_, writer->term_);
    if (status.ok()) status = db_->log_->AppendGroup({}, &next);
    if (status.ok()) status = db_->log_->Sync();
    if (status.code() == Code::kPoisoned) db_->Poison(status.message());
    FASTKV_RETURN_IF_ERROR(status);
    conf_changes_.clear();
    state_ = written_ = next;
  }
  store.Adopt(std::move(writer->loaded_), [this, writer] {
    const std::lock_guard meta_lock(db_->meta_mutex_);
    db_->membership_ = writer->membership_;
    db_->sendable_ = {true, writer->index_, writer->term_, writer->membership_};
    db_->applied_index_.store(writer->index_, std::memory_order_release);
    db_->term_.store(std::max(writer->term_, db_->term_.load()));
  });
  db_->hub_.Resync(store.revision());
  db_->swept_.store(store.revision(), std::memory_order_release);
  db_->checkpoint_index_ = writer->index_;
  db_->checkpoint_size_ = writer->offset_;
  // What is left of before can go later, too.
  if (const Status status = db_->Prune(writer->index_); !status.ok()) {
    db_->Log_("old checkpoints and segments stay for now: " + status.message());
  }
  return {};
}

}  // namespace fastkv
