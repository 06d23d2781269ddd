#include "watch/event_reader.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "base/coding.h"
#include "mvcc/epoch.h"
#include "mvcc/record.h"

namespace fastkv {
namespace {

// Tags: WatchResponse.events, and the fields of mvccpb.Event.
constexpr char kEventsTag = 0x5a, kTypeTag = 0x08, kKvTag = 0x12, kPrevKvTag = 0x1a;
constexpr char kDelete = 1;

size_t MessageFieldSize(std::string_view message) { return 1 + VarintLength(message.size()) + message.size(); }

}  // namespace

void AppendEvent(const Record& record, const Record* previous, std::string* to) {
  const std::string_view kv = record.encoded();
  const std::string_view prev_kv = previous == nullptr ? std::string_view() : previous->encoded();
  const size_t size =
      (record.tombstone() ? 2 : 0) + MessageFieldSize(kv) + (previous == nullptr ? 0 : MessageFieldSize(prev_kv));
  char header[32];  // two tags and lengths (at most 11 bytes each), and the type
  char* at = header;
  *at++ = kEventsTag;
  at = StoreVarint(at, size);
  if (record.tombstone()) {
    *at++ = kTypeTag;
    *at++ = kDelete;
  }
  *at++ = kKvTag;
  at = StoreVarint(at, kv.size());
  to->append(header, static_cast<size_t>(at - header));
  to->append(kv);
  if (previous == nullptr) return;
  at = header;
  *at++ = kPrevKvTag;
  at = StoreVarint(at, prev_kv.size());
  to->append(header, static_cast<size_t>(at - header));
  to->append(prev_kv);
}

void EventReader::AppendWanted(const Record& record, int64_t compact_revision, std::string* to) const {
  if (!filter_.WantsType(record.tombstone()) || !filter_.interval.Contains(record.key())) return;
  const Record* previous = nullptr;
  // etcd reads prev_kv at main - 1, which is refused once compaction has reached main, even while the record is still
  // there.
  if (filter_.prev_kv && record.main() > compact_revision &&
      (record.tombstone() || record.Decode().create_revision != record.main())) {
    previous = record.Previous();
  }
  AppendEvent(record, previous, to);
}

// Reads what one call of the source gives of [from, to] into batches and moves `done`. False: it is compacted away.
bool EventReader::ReadSlice(int64_t from, int64_t to, Into into) {
  const EpochGuard guard;
  slice_.clear();
  const int64_t covered = std::min(to, source_->Events(from, to, limits_.slice_records, &slice_));
  FASTKV_CHECK(covered >= from);
  const int64_t compact_revision = source_->compact_revision();
  if (from < compact_revision) return false;
  for (size_t begin = 0, end = 0; begin < slice_.size(); begin = end) {
    if (Full()) return true;
    const int64_t main = slice_[begin]->main();
    if (into == Into::kBatchARevision) batches.push_back({main, {}, 0});
    std::string* events = &batches.back().events;
    const size_t bytes_before = events->size();
    for (end = begin; end < slice_.size() && slice_[end]->main() == main; ++end) {
      AppendWanted(*slice_[end], compact_revision, events);
    }
    bytes_ += events->size() - bytes_before;
    if (into == Into::kBatchARevision && events->empty()) batches.pop_back();
    if (into == Into::kOneBatch && events->size() > bytes_before) batches.back().revision = main;
    records_read_ += end - begin;
    done = main;
  }
  done = covered;
  return true;
}

void EventReader::ReadLive(const std::vector<int64_t>& revisions, bool joined) {
  if (joined) batches.emplace_back();
  for (size_t begin = 0, end = 0; begin < revisions.size() && !Full(); begin = end) {
    // Neighbouring revisions are read together.
    for (end = begin + 1; end < revisions.size() && revisions[end] == revisions[end - 1] + 1; ++end) {
    }
    done = revisions[begin] - 1;
    while (done < revisions[end - 1] && !Full()) {
      if (!ReadSlice(done + 1, revisions[end - 1], joined ? Into::kOneBatch : Into::kBatchARevision)) {
        compacted = true;
        break;
      }
    }
    if (compacted) break;
  }
  if (joined && batches.back().events.empty()) batches.pop_back();
}

void EventReader::CatchUp(int64_t from) {
  done = from - 1;
  batches.emplace_back();
  while (!Full()) {
    const int64_t to = source_->revision();
    if (done >= to) break;
    if (!ReadSlice(done + 1, to, Into::kOneBatch)) {
      compacted = true;
      break;
    }
    batches.back().revision = to;
  }
  if (batches.back().events.empty()) batches.pop_back();
}

}  // namespace fastkv
