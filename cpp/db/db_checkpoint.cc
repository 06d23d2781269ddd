// A Db's checkpoints: when one is due, writing it in the background, and what may then go.

#include <algorithm>
#include <new>

#include "base/check.h"
#include "db/db.h"
#include "db/log_use.h"
#include "db/state_file.h"

namespace fastkv {
namespace {

constexpr size_t kCheckpointsKept = 2;

}  // namespace

Status Db::Checkpoint(uint64_t* index) {
  const LogUse use(this);
  FASTKV_RETURN_IF_ERROR(use.status());
  return WriteCheckpoint(index);
}

// again: also if the newest one is of the same index; it takes that one's place.
Status Db::WriteCheckpoint(uint64_t* index, bool again) {
  const std::lock_guard one_at_a_time(checkpoint_mutex_);
  if (log_ == nullptr) {
    *index = applied_index();
    return {};
  }
  CheckpointHead head;
  Store::Picture picture;
  StateExtras extras;
  {
    const auto lock = store_.WriteLock();
    if (applying_) return {Code::kPoisoned, "the state in memory is half changed"};
    picture = store_.TakePicture();
    head.index = applied_index_.load();
    const std::lock_guard meta_lock(meta_mutex_);
    extras.membership = membership_;
    if (replica_ == nullptr) extras.meta = meta_;  // a replica's log keeps it: its checkpoints may go to other members
  }
  const Store::PictureGuard guard(&store_);
  *index = head.index;
  if (!again && head.index == checkpoint_index_.load() && head.index != 0) return {};
  if (Status status = log_->Term(head.index, &head.term); !status.ok()) {
    if (head.index != checkpoint_index_.load()) return status;
    head.term = checkpoint_term_;
  }
  store_.CountPicture(&picture);
  head.revision = static_cast<uint64_t>(picture.revision);
  head.compact_revision = picture.compact_revision;
  head.keys = picture.keys;
  head.records = picture.records;

  std::unique_ptr<CheckpointWriter> writer;
  const auto go_on = [this](uint64_t) -> Status {
    if (superseded_) return {Code::kClosed, "a snapshot from another member takes its place"};
    if (!give_up_checkpoint_) return {};
    return {Code::kClosed, "the store is being closed"};
  };
  FASTKV_RETURN_IF_ERROR(CheckpointWriter::Create(env_, directory_->checkpoint_dir(), head, go_on, &writer));
  FASTKV_RETURN_IF_ERROR(WriteState(store_, picture, extras, writer.get()));
  FASTKV_RETURN_IF_ERROR(writer->Finish());
  checkpoint_index_ = head.index;
  checkpoint_term_ = head.term;
  checkpoint_size_ = writer->bytes();
  {
    const std::lock_guard meta_lock(meta_mutex_);
    sendable_ = {extras.meta.empty() && !extras.membership.empty(), head.index, head.term, extras.membership};
  }
  return Prune(head.index);
}

// Checkpoints and segments that nobody needs any more. REQUIRES: checkpoint_mutex_.
Status Db::Prune(uint64_t newest_index) {
  uint64_t drop = 0;
  FASTKV_RETURN_IF_ERROR(
      PruneCheckpoints(env_, directory_->checkpoint_dir(), damaged_checkpoints_, kCheckpointsKept, &drop));
  damaged_checkpoints_.clear();
  if (replica_ != nullptr) {
    // Members that are a little behind get entries instead of a snapshot, unless the snapshot is the shorter way.
    const uint64_t behind = newest_index - std::min(newest_index, options_.snapshot_catchup_entries);
    if (log_->BytesSince(behind) <= std::max(options_.checkpoint_bytes, checkpoint_size_.load())) {
      drop = std::min(drop, behind);
    }
  }
  return log_->DropBefore(drop);
}

// REQUIRES: called by who applies.
void Db::MaybeStartCheckpoint() {
  if (log_ == nullptr) return;
  // Looked at every so often: BytesSince takes the log's lock.
  const uint64_t every = replica_ == nullptr ? 64 : std::clamp<uint64_t>(options_.snapshot_count, 1, 64);
  if (batches_.load(std::memory_order_relaxed) % every != 0 && batch_bytes_ < (64 << 10)) return;
  const uint64_t last = checkpoint_index_.load(std::memory_order_relaxed);
  const uint64_t size = checkpoint_size_.load(std::memory_order_relaxed);
  // Never before the log has grown by as much as a checkpoint writes.
  const bool enough_entries = replica_ != nullptr && applied_index() - last >= options_.snapshot_count;
  const uint64_t wanted_at = enough_entries ? size : std::max(options_.checkpoint_bytes, size);
  if (log_->BytesSince(last) < wanted_at) return;
  StartCheckpoint(/*again=*/false);
}

void Db::StartCheckpoint(bool again) {
  {
    const std::lock_guard lock(background_mutex_);
    checkpoint_again_ = checkpoint_again_ || again;
    if (checkpoint_wanted_) return;
    checkpoint_wanted_ = true;
  }
  background_wake_.notify_one();
}

void Db::BackgroundLoop() {
  std::unique_lock lock(background_mutex_);
  for (;;) {
    background_wake_.wait(lock, [this] { return stopping_ || checkpoint_wanted_; });
    if (stopping_) return;
    const bool again = checkpoint_again_;
    lock.unlock();
    uint64_t index = 0;
    Status status;
    try {
      status = WriteCheckpoint(&index, again);
    } catch (const InvariantBroken& broken) {
      status = Broken(broken.what());
    } catch (const std::bad_alloc&) {
      status = {Code::kIoError, "out of memory"};
    }
    // Nothing is lost: the log is still whole. It is tried again when the log has grown further.
    if (!status.ok()) Log_("checkpoint not written: " + status.message());
    lock.lock();
    checkpoint_wanted_ = checkpoint_again_ = false;
  }
}

}  // namespace fastkv
