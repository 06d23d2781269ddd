// The write-ahead log: batches, and what Raft needs beside them, in CRC-chained segments (docs/format.md, "Log
// segment").
//
//   thread A:  Append(batch n) ............ Append(batch n+1) ...     a copy into the current segment
//   thread B:        Sync() ---- fdatasync ----> durable: n           runs beside the next Append; callers share one
//
//   segments:  |meta e1 hs e2 e3 ...|e900 ...         |hs e2100 ... zeros|    DropBefore writes the newest meta and
//   hard
//               sealed, synced        sealed, to sync  current              state again before their segment goes
//
// Invariants:
// - what Append returned OK for is seen by the next Open after the death of this process; after the death of the
// machine too, once
//   a Sync that began later has returned OK.
// - a record is never durable before every record in front of it: sealed segments and the directory are synced first.
// - a failed Append leaves the log as it was, and usable (kNoSpace, kIoError). A failed sync ends it: kPoisoned from
// then on.
// - entries are contiguous: an index is at most last_index + 1; one at or below last_index cuts the log back to it
// first. Thread safety: every method from any thread. Appends are serialised by a lock that no sync is waited for
// under, but when a segment is sealed while the one before it is not yet on the disk.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/env.h"
#include "base/status.h"
#include "base/time_histogram.h"
#include "log/format.h"

namespace fastkv {

struct LogOptions {
  bool sync = true;  // false: segments are written through a mapping, and synced only when sealed, at Close and on Sync
  bool readonly = false;
  uint64_t segment_bytes_first = 1 << 20;  // doubles up to _max
  uint64_t segment_bytes_max = 64 << 20;
  std::function<void(const std::string&)> warn;  // one line, no newline
};

// From where the log is replayed: the checkpoint that was loaded (all zero: none).
struct LogStart {
  uint64_t index = 0;
  uint64_t term = 0;
  // If a newer checkpoint did not verify: its index, which the log must reach, and the sentence that says what is wrong
  // with it.
  uint64_t reach_index = 0;
  std::string reach_reason;
};

// What the log held beside entries. Only the newest of each counts.
struct LogRecovered {
  bool has_hard_state = false, has_meta = false, has_snapshot = false;
  HardState hard_state;
  std::string meta;
  SnapshotMark snapshot;
  bool clean = false;          // the last record says that the log was closed on purpose ...
  uint64_t applied_index = 0;  // ... with everything up to here applied
  uint64_t records = 0;
  uint64_t entries_delivered = 0;
  uint64_t bytes_cut = 0;  // of a torn tail
};

using LogEntryVisitor =
    std::function<Status(const LogEntry&)>;  // batch: valid during the call; an error ends Open with it

struct LogCounters {
  uint64_t records = 0, bytes = 0, syncs = 0, sync_calls = 0, segments_created = 0, segments_removed = 0;
  TimeHistogram sync_times;
};

class Log {
 public:
  // Recovers `dir` (which exists; the caller holds the directory's lock unless readonly) and delivers, in order, every
  // surviving entry with index > start.index. Entries that a later record cut away are not delivered. kCorrupt names
  // file and offset. Where the log ends before start.index (possible with sync = false), it goes on from there.
  static Status Open(Env* env, const std::string& dir, const LogOptions& options, const LogStart& start,
                     const LogEntryVisitor& on_entry, LogRecovered* recovered, std::unique_ptr<Log>* log);
  // Without Close: as if the process had died here.
  ~Log();
  Log(const Log&) = delete;

  // Not durable until Sync. REQUIRES: 1 <= index <= last_index() + 1 and index > the last snapshot mark's.
  // The batch may come in parts that are written one behind the other.
  Status Append(uint64_t term, uint64_t index, std::string_view batch);
  Status Append(uint64_t term, uint64_t index, std::span<const std::string_view> batch_parts);
  Status AppendHardState(const HardState& state);
  // Entries and, unless null, the hard state behind them, in one write where one segment holds them. If it fails, a
  // beginning of them may have been appended; the same group may be appended again. REQUIRES: entries are consecutive;
  // the first as for Append.
  Status AppendGroup(std::span<const LogEntry> entries, const HardState* hard_state);
  // The state up to index is in a durable checkpoint; the log goes on at index + 1, whatever it held above. What it
  // held up to there stays only if it ends with this term.
  Status AppendSnapshot(uint64_t index, uint64_t term);
  Status AppendMeta(std::string_view bytes);

  // Everything appended before the call is durable on return. Callers that overlap share one sync.
  Status Sync();

  // Appends to *out the entries from index on, until they hold bytes_max bytes (at least one). kNotFound: not (any
  // longer) here.
  struct OwnedEntry {
    uint64_t term = 0, index = 0;
    std::string batch;
    EntryKind kind = EntryKind::kNormal;
  };
  Status Read(uint64_t index, uint64_t bytes_max, std::vector<OwnedEntry>* out);
  // Of an entry that is here, or of the start or last snapshot mark.
  Status Term(uint64_t index, uint64_t* term) const;

  // Removes the segments that hold no entry above index. REQUIRES: a durable checkpoint contains everything up to
  // index.
  Status DropBefore(uint64_t index);
  // Writes the clean record and syncs. Every later call fails with kClosed.
  Status Close(uint64_t applied_index);

  uint64_t first_index() const;  // of the oldest entry that Read could give; last_index() + 1 if there is none
  uint64_t last_index() const;
  uint64_t last_term() const;
  uint64_t last_number() const;     // of records
  uint64_t durable_number() const;  // records up to here are synced
  uint64_t BytesSince(
      uint64_t index) const;  // of records behind the entry `index`: what a restart from a checkpoint there replays
  LogCounters counters() const;
  Status poisoned() const;  // OK, or the reason of the first failed sync

 private:
  struct Impl;
  explicit Log(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastkv
