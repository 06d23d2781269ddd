// Reads one watcher's events out of the source and encodes them: the lock-free half of WatchHub::Take.
//
//   revisions {5, 6, 9} --ReadLive-->  batch(5) batch(6) batch(9)        one batch a revision
//   revisions {5, 6, 9} --joined--->   batch(5, 6, 9)                    one batch, its revision is the last
//   from 5              --CatchUp-->   batch(5..now)                     one batch, its revision is the source's
//
// All stop at a whole revision once bytes_max bytes are encoded or scan_records_max records are read.
//
// Invariants:
// - the source is read in slices; an EpochGuard is held for one slice at most.
// - nothing at or below `done` is still owed; nothing above it is in `batches`.
// Thread safety: none; lives for one Take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "watch/hub.h"
#include "watch/key_interval.h"

namespace fastkv {

// Which events a watcher wants, and how.
struct EventFilter {
  KeyInterval interval;
  bool prev_kv = false, no_put = false, no_delete = false;

  bool operator==(const EventFilter&) const = default;
  bool WantsType(bool tombstone) const { return tombstone ? !no_delete : !no_put; }
};

// Appends one element of WatchResponse.events: Event{type:1 kv:2 prev_kv:3}; `previous` may be null.
void AppendEvent(const Record& record, const Record* previous, std::string* to);

class EventReader {
 public:
  EventReader(const EventSource* source, const EventFilter& filter, const WatchLimits& limits, size_t bytes_max)
      : source_(source), filter_(filter), limits_(limits), bytes_max_(bytes_max) {}

  void ReadLive(const std::vector<int64_t>& revisions, bool joined = false);
  void CatchUp(int64_t from);

  std::vector<WatchBatch> batches;
  int64_t done = 0;
  bool compacted = false;  // revision done + 1, which was to be read next, is below the compact revision

 private:
  enum class Into { kBatchARevision, kOneBatch };
  bool ReadSlice(int64_t from, int64_t to, Into into);
  void AppendWanted(const Record& record, int64_t compact_revision, std::string* to) const;
  bool Full() const { return (bytes_ > 0 && bytes_ >= bytes_max_) || records_read_ >= limits_.scan_records_max; }

  const EventSource* const source_;
  const EventFilter& filter_;
  const WatchLimits& limits_;
  const size_t bytes_max_;
  size_t bytes_ = 0, records_read_ = 0;
  std::vector<const Record*> slice_;
};

}  // namespace fastkv
