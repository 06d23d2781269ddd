// What a Log is made of; included by log*.cc only. log.h has the contract.
//
// Invariants (mu held):
// - segments is in order; the last one is the current one, and the only one that is written.
// - a segment keeps its file as long as records in it may not be on the disk.
// - [segment.end, segment.dirty_until) is what a failed write left: it is zeroed before anything else is written.
// Thread safety: everything is under mu, but the files themselves: Sync works on shared_ptr copies outside of it.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "log/entry_table.h"
#include "log/log.h"
#include "log/recovery.h"

namespace fastkv {

struct Log::Impl {
  struct Segment {
    uint64_t sequence = 0;
    std::string path;
    uint64_t capacity = 0;  // bytes that are reserved
    uint64_t end = 0;       // of the last record
    uint64_t dirty_until = 0;
    uint64_t base = 0;                     // bytes of all segments before it that this process has seen
    uint64_t last_number = 0;              // of the last record in it (or before it, if it has none)
    uint32_t seed = 0;                     // of its records' crcs
    std::shared_ptr<WritableFile> file;    // null: sealed and synced, or no room to write
    std::shared_ptr<ReadableFile> reader;  // opened by the first Read
  };
  using SegmentPtr = std::shared_ptr<Segment>;

  Impl(Env* env_in, std::string dir_in, LogOptions options_in)
      : env(env_in), dir(std::move(dir_in)), options(std::move(options_in)) {}

  // log_open.cc
  Status Recover(const LogStart& start, LogRecovered* recovered);
  Status Visit(const RecordView& record, const RecordPlace& place, const LogScan& scan, LogRecovered* recovered);
  Status EnterSegments(const LogScan& scan, size_t until);
  Status CheckCovers(const LogStart& start) const;
  Status OpenFiles(const LogScan& scan);
  Status Deliver(uint64_t from_index, const LogEntryVisitor& on_entry, LogRecovered* recovered);

  // log.cc; mu is held
  Status Writable() const;
  Status AppendRecord(RecordType type, std::string_view prefix, std::span<const std::string_view> parts);
  Status MakeRoom(uint64_t record_bytes);
  Status AppendMark(uint64_t index, uint64_t term);
  Status WriteRecord(Segment* segment, RecordType type, std::string_view prefix,
                     std::span<const std::string_view> parts, uint64_t payload_length);
  struct GroupRecord;
  Status AppendRun(std::span<const GroupRecord> records, size_t* written);  // log_group.cc
  Status ZeroDirty(Segment* segment);
  Status Rotate(uint64_t record_bytes);
  Status SyncNames();
  Status SyncSealed();
  Status SyncUntil(uint64_t number, std::unique_lock<std::mutex>* lock);
  void Poison(const Status& reason);

  WriteMode write_mode() const { return options.sync ? WriteMode::kPwrite : WriteMode::kMapped; }
  const SegmentPtr& FindSegment(uint64_t sequence) const;
  uint64_t position() const { return segments.empty() ? 0 : segments.back()->base + segments.back()->end; }

  Env* const env;
  const std::string dir;
  const LogOptions options;

  mutable std::mutex mu;
  std::condition_variable synced;
  std::mutex drop_mu;  // one DropBefore at a time; taken before mu

  std::deque<SegmentPtr> segments;
  EntryTable table;
  uint64_t disk_next_index = 1;  // the table's, but for a pending mark
  uint64_t last_number = 0;
  uint32_t last_crc = 0;
  uint64_t durable_number = 0;
  // The directory's names are synced up to a change when names_synced has reached its value of names_changed.
  uint64_t names_changed = 0, names_synced = 0;

  SnapshotMark floor;         // where the log begins: the start's checkpoint or the last mark
  bool mark_pending = false;  // floor lies above what the log holds and is written before the next record
  // The newest hard state and meta, and the segments that they stand in.
  bool has_hard_state = false, has_meta = false;
  HardState hard_state;
  std::string meta;
  uint64_t hard_state_sequence = 0, meta_sequence = 0;
  bool last_is_clean = false;

  bool syncing = false;
  bool closed = false;
  Status poison;
  LogCounters counters;
  std::vector<std::string_view> write_parts;  // reused by every append
  std::string group_bytes;                    // by every AppendGroup
  size_t segments_entered = 0;                // during recovery
};

}  // namespace fastkv
