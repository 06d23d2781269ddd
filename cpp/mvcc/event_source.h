// Where watchers read events from: a revision index, seen through one narrow door.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastkv {

class Record;

// What the hub reads events from: the store's revision index.
class EventSource {
 public:
  virtual ~EventSource() = default;
  // Appends to *out the records with from <= main <= to, in (main, sub) order: whole revisions, at most about limit
  // records but at least one revision if there is any. Returns the last main revision that is fully covered (>= to when
  // done).
  // `from` may be below compact_revision(): records that compaction has removed are then missing, and the caller finds
  // out by reading compact_revision() *after* the call. So a compaction raises compact_revision() before it removes.
  // REQUIRES: an EpochGuard is held by the caller, from before the call until the records are no longer used.
  virtual int64_t Events(int64_t from, int64_t to, size_t limit, std::vector<const Record*>* out) const = 0;
  // The newest revision that readers may see; Events covers it.
  virtual int64_t revision() const = 0;
  virtual int64_t compact_revision() const = 0;  // -1 if never
};

}  // namespace fastkv
