// Checkpoints: the whole state at one index, as a file of checksummed blocks (docs/format.md, "Checkpoint").
//
//   file := magic head block* footer        written to INDEX.ckpt.tmp, synced, renamed, directory synced
//
// Owns the container and the fixed blocks (head, hard state, footer). What stands in records, leases, meta, alarms
// and membership is the caller's.
//
// Invariants:
// - a file without .tmp was complete and synced when it got its name; one that does not verify now was damaged.
// - a reader hands over blocks only once every crc, the footer's and the order of blocks have been verified.
// Thread safety: a writer or reader belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/env.h"
#include "base/status.h"
#include "log/format.h"

namespace fastkv {

enum class BlockType : uint8_t {
  kHead = 1,
  kRecords = 2,
  kLeases = 3,
  kMeta = 4,
  kAlarms = 5,
  kHardState = 6,
  kMembership = 7,
  kFooter = 255,
};

inline constexpr size_t kLeasesPerBlockMax = 4096;

struct CheckpointHead {
  uint64_t index = 0;
  uint64_t term = 0;
  uint64_t revision = 0;
  int64_t compact_revision = -1;
  uint64_t keys = 0;
  uint64_t records = 0;
};
std::string EncodeCheckpointHead(const CheckpointHead& head);
std::optional<CheckpointHead> DecodeCheckpointHead(std::string_view payload);

struct CheckpointInfo {
  uint64_t index = 0;
  std::string path;
  uint64_t bytes = 0;
};
// "000000000000002a.ckpt"
std::string CheckpointFileName(uint64_t index);
// Newest first; .tmp and foreign names are left out. A missing directory is empty.
Status ListCheckpoints(Env* env, const std::string& dir, std::vector<CheckpointInfo>* out);

class CheckpointWriter {
 public:
  // Called after every chunk with the bytes it had; may sleep to leave the disk to others. An error aborts the
  // checkpoint.
  using Throttle = std::function<Status(uint64_t bytes)>;

  // Begins DIR/<head.index>.ckpt.tmp and writes the head block.
  static Status Create(Env* env, const std::string& dir, const CheckpointHead& head, Throttle throttle,
                       std::unique_ptr<CheckpointWriter>* writer);
  // Without Finish the .tmp is removed.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;

  // REQUIRES: types in the order records, leases, meta, alarms, hard state, membership; an
  // empty payload is left out by the caller.
  Status AddBlock(BlockType type, std::string_view payload);
  Status AddHardState(const HardState& state);
  // Footer, sync, rename, directory sync: the checkpoint is durable on return.
  Status Finish();
  uint64_t bytes() const { return offset_ + buffer_.size(); }

 private:
  CheckpointWriter(Env* env, std::string dir, uint64_t index, Throttle throttle);
  Status Flush();

  Env* env_;
  std::string dir_, path_, tmp_path_;
  Throttle throttle_;
  std::unique_ptr<WritableFile> file_;
  std::string buffer_;
  uint64_t offset_ = 0;
  uint64_t blocks_ = 0;
  uint32_t crc_of_crcs_ = 0;
  bool finished_ = false;
};

class CheckpointReader {
 public:
  // Verifies the whole file: kCorrupt names it and the offset. `index` from the file's name must be the head's; 0 skips
  // that.
  static Status Open(Env* env, const std::string& path, uint64_t index, std::unique_ptr<CheckpointReader>* reader);
  // The same for bytes that are not a file (a snapshot received whole). They must outlive the reader.
  static Status OpenBytes(std::string_view bytes, const std::string& name, std::unique_ptr<CheckpointReader>* reader);

  const CheckpointHead& head() const { return head_; }
  bool has_hard_state() const { return has_hard_state_; }
  const HardState& hard_state() const { return hard_state_; }
  uint64_t bytes() const { return bytes_.size(); }
  const std::string& path() const { return path_; }

  // Hands over the blocks between head and footer in order. payload: valid as long as the reader. An error ends it and
  // is returned.
  Status ForEachBlock(const std::function<Status(BlockType type, std::string_view payload)>& visit) const;
  // For a block whose content the caller finds wrong: kCorrupt naming file and offset of payload's block.
  Status CorruptBlock(std::string_view payload, const std::string& what) const;

 private:
  CheckpointReader() = default;
  Status Verify(uint64_t index);
  Status Walk(uint64_t index, std::vector<uint64_t>* offsets);
  Status CorruptAt(uint64_t offset, const std::string& what) const;

  std::string path_;
  std::unique_ptr<FileView> view_;
  std::string_view bytes_;
  CheckpointHead head_;
  bool has_hard_state_ = false;
  HardState hard_state_;
};

struct NewestCheckpoint {
  std::unique_ptr<CheckpointReader>
      reader;  // null: none verifies (or there is none): the log alone must cover everything
  // If a newer one did not verify: its index and the reason, for LogStart::reach_index and reach_reason.
  uint64_t reach_index = 0;
  std::string reach_reason;
  std::vector<uint64_t> damaged;  // for PruneCheckpoints, once a new checkpoint has been written
};
// The newest one that verifies. Damaged ones are reported through `warn`; whether the log makes up for them Log::Open
// decides.
Status LoadNewestCheckpoint(Env* env, const std::string& dir, const std::function<void(const std::string&)>& warn,
                            NewestCheckpoint* out);

// Removes every .tmp, the damaged ones, and all but the `keep` newest. *oldest_kept: for Log::DropBefore; 0 if fewer
// than `keep` are left, because then the log is the second copy and must stay whole.
Status PruneCheckpoints(Env* env, const std::string& dir, const std::vector<uint64_t>& damaged, size_t keep,
                        uint64_t* oldest_kept);
// What was not finished goes: every .tmp and, at open, what was being received.
Status RemoveUnfinishedCheckpoints(Env* env, const std::string& dir, bool received);
// "000000000000002a.<16 hex digits>.recv": what arrives from another member; `random` tells apart two of one index.
std::string ReceivedFileName(uint64_t index, uint64_t random);

}  // namespace fastkv
