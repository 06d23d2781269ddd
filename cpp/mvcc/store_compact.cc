// Compaction: a command forgets at once (reads and watches below the revision are refused), slices then remove.
//
//   history  put@2 <- put@5 <- put@9        compact(6): put@2 is cut off put@5; put@9 stays
//            put@2 <- delete@4              compact(6): the key leaves the index
//            put@2 <- delete@6              compact(6): put@2 goes; delete@6 stays until the next compaction (watchers
//            may start at 6)
//
// Only revisions between the last compaction and this one are walked, however many keys there are: a record becomes
// garbage when a newer one of its key comes to stand at or below the compact revision.
#include <vector>

#include "mvcc/store_apply.h"

namespace fastkv {

namespace {

constexpr size_t kReclaimMin = 64;  // with four pieces a revision, more than one retires: what was held back goes too

}  // namespace

Code Store::ApplyCompaction(std::string_view payload, std::string* response) {
  CompactionRequest request;
  if (!request.Parse(payload)) return Code::kMalformed;
  if (request.revision <= compact_revision()) return Code::kCompacted;
  if (request.revision > revision()) return Code::kFutureRevision;
  compact_revision_.store(request.revision, std::memory_order_release);
  compact_position_ = current_->index.begin();
  compact_pending_ = true;
  AppendHeader(response, revision());
  return Code::kOk;
}

bool Store::CompactStep(size_t revisions_max) {
  if (!compact_pending_) return true;
  if (pictures_ > 0) return false;
  const int64_t compacted = compact_revision();
  BTree& tree = current_->tree;
  RevisionIndex& index = current_->index;
  const uint64_t end = index.end();
  std::vector<Record*> garbage;
  uint64_t trim = index.begin();
  for (size_t steps = 0; compact_position_ < end && steps < revisions_max; ++steps, ++compact_position_) {
    Record* record = index.mutable_at(compact_position_);
    if (record->main() > compacted) break;
    // Records of the compact revision itself stay in the revision index, so what they point to may not go yet.
    Record* older = record->older();
    if (older != nullptr && older->main() < compacted) {
      record->CutOlder();
      for (; older != nullptr; older = older->older()) garbage.push_back(older);
    }
    if (record->main() == compacted) continue;
    trim = compact_position_ + 1;
    if (record->tombstone()) {
      const BTree::Place place = tree.Locate(record->key());
      // Not the newest: a later record of the key still points here. VisibleAt finds the tombstone, that is, nothing;
      // it goes when that record is compacted in turn.
      if (place.newest == record) {
        tree.Erase(place);
        garbage.push_back(record);
      }
    }
  }
  // First out of the readers' sight, then retired.
  index.TrimTo(trim);
  for (Record* record : garbage) RetireRecord(record);
  current_->retired.Reclaim(revisions_max > SIZE_MAX / 4 ? SIZE_MAX : 4 * revisions_max + kReclaimMin);
  const bool done = compact_position_ == end || index.at(compact_position_)->main() > compacted;
  compact_pending_ = !done;
  return done;
}

}  // namespace fastkv
