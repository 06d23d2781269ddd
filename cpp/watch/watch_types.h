// What a watcher asks for and what it gets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace fastkv {

struct WatchSpec {
  std::string key, range_end;  // key_interval.h; key >= range_end (the caller refuses it) matches nothing
  int64_t start_revision = 0;  // 0 = from the next revision on; may be in the future
  bool prev_kv = false;
  bool no_put = false, no_delete = false;
};

// Whole revisions, ascending. Live: one batch a main revision. Catching up: many revisions a batch.
struct WatchBatch {
  int64_t revision = 0;          // live: the main revision; catching up: the source's when it was read
  std::string events;            // field 11 of WatchResponse, repeated
  int64_t compact_revision = 0;  // not 0: the watch has ended, compaction has reached this; revision is 0, events empty
};

// All that a watcher is to be told now, as one: whole revisions, ascending.
struct WatchNews {
  int64_t revision = 0;  // live: the last main revision; catching up: the source's when it was read
  std::shared_ptr<const std::string>
      events;                    // as WatchBatch::events, perhaps shared with other watchers; null: nothing
  int64_t compact_revision = 0;  // as in WatchBatch
};

}  // namespace fastkv
