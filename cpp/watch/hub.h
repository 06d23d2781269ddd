// Who watches what, and what each has not had yet.
//
//   apply(batch) -> Sweep(to) --match--> watcher.pending = {rev, rev, ...} -> ready -> Wait, Ready -> Take() -> events
//                    hash map: single keys     overflow: pending is dropped; the watcher is unsynced
//                    interval tree: ranges     and scans the source from next_revision until it has caught up
//
// Invariants:
// - a watcher gets every matching event with main >= its start revision exactly once, in order, whole revisions at a
//   time; or, when compaction passed what it has not taken, one batch with compact_revision: then it is forgotten.
// - memory per watcher is bounded: pending holds at most kPendingMax revisions (numbers; Take reads the events again).
// - synced means: every matching revision <= swept is pending or taken. Unsynced means: everything below next_revision
//   is taken, and next_revision <= the source's revision, so there is always something to scan.
// - an event is encoded when it is taken: two length prefixes around bytes that the record holds already encoded.
//   A single one is not shared, finding it would cost as much; what TakeJoined gives is, by all watchers that want the
//   same of the same revisions: a thousand watchers of one key read and encode a batch once.
//
// Starting beside a writer. Revisions become visible in the source first and are swept afterwards, and an Add or a
// catch-up can fall in between. No revision is lost or repeated, because
// - Add decides between two slices of a Sweep: synced if it wants nothing at or below what is swept;
// - a catch-up decides beside a running Sweep, which may already have matched some of (swept, to] without this watcher:
//   so Sweep announces `to` before it matches anything, and who caught up is synced once next_revision > announced;
// - Sweep leaves out a watcher's revisions below its next_revision: what it has read ahead of the sweep does not come
//   again.
//
// A watcher with start_revision 0 starts behind the source's revision at one moment during Add: it gets what is applied
// after Add has returned, and nothing that was visible before Add was called.
//
// Thread safety: every method from any thread, any number of takers for one watcher; Sweep from one thread at a time.
// Sweep matches in slices and never waits for a Take that is reading; Add and Cancel wait for one slice at most.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mvcc/event_source.h"
#include "watch/watch_types.h"

namespace fastkv {

struct WatchLimits {  // tests shrink them
  size_t pending_max = 1024;
  size_t scan_records_max = 10'000;  // read by one Take, whatever matches; one revision is read whole
  size_t slice_records = 512;        // read or matched under one EpochGuard
};

class WatchHub {
 public:
  static constexpr size_t kPendingMax = WatchLimits().pending_max;

  // The source is not called before the first Add.
  explicit WatchHub(const EventSource* source, WatchLimits limits = WatchLimits());
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  // REQUIRES: start_revision >= 0. Ids start at 1 and are never used again.
  uint64_t Add(WatchSpec spec);

  // Forgets the watcher and wakes who waits on it. Unknown ids are ignored.
  void Cancel(uint64_t id);

  // Matches all main revisions in (swept, to]. A few nanoseconds when nobody watches.
  // REQUIRES: the source's revision() has reached `to`, and no record above the previous sweep has been removed by
  // compaction (its compact_revision() may have passed: a batch can write and compact).
  void Sweep(int64_t to);

  // The source has jumped to `to` (a snapshot took its place): what is between the last sweep and `to` was matched by
  // nobody. Every watcher that wants some of it reads on from where it stood, as one that was registered there: if
  // compaction has passed that, it is told so and forgotten. REQUIRES: as Sweep, one thread at a time with it.
  void Resync(int64_t to);

  // What is pending, up to about bytes_max bytes of events (at least one revision); {} if nothing, or if the id is
  // unknown. Work is bounded: while catching up, {} can also mean "nothing matched so far"; the watcher is then ready
  // again. *more (if asked for): there is more to take or to look at, now.
  std::vector<WatchBatch> Take(uint64_t id, size_t bytes_max, bool* more = nullptr);

  // Take, with everything in one piece, whose bytes watchers of one kind share.
  WatchNews TakeJoined(uint64_t id, size_t bytes_max, bool* more = nullptr);

  // Blocks until Take has something to read, the watcher is gone, or time is up (false). timeout_s <= 0 only looks.
  bool Wait(uint64_t id, double timeout_s);

  // Ids that have got something to take, in the order in which they got it; each once until a Take. One that Take
  // leaves something for is ready again.
  std::vector<uint64_t> Ready();

  // The revision up to which everything was taken. -1: unsynced, something pending, an explicit start_revision not
  // reached yet (as etcd), or an unknown id.
  int64_t Progress(uint64_t id);

  size_t size() const;

  // Cancels all, for good: a later Add gives an id that is already gone. When it returns, no Take is using the source.
  void CloseAll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastkv
