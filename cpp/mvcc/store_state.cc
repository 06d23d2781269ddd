// The store as a checkpoint holds it: one chain a key, in key order (docs/format.md, "Checkpoint"); and back.
#include <algorithm>

#include "base/check.h"
#include "base/coding.h"
#include "log/checkpoint.h"
#include "mvcc/store.h"

namespace fastkv {
namespace {

constexpr size_t kKeysPerSlice = 512;  // under one guard
constexpr uint64_t kTombstoneFlag = 1;

void AppendChain(const std::vector<const Record*>& newest_first, std::string* to) {
  PutVarint(to, newest_first.size());
  for (auto it = newest_first.rbegin(); it != newest_first.rend(); ++it) {
    const Record* record = *it;
    PutVarint(to, static_cast<uint64_t>(record->main()));
    PutVarint(to, record->sub());
    PutVarint(to, record->tombstone() ? kTombstoneFlag : 0);
    PutVarint(to, record->encoded().size());
    to->append(record->encoded());
  }
}

}  // namespace

Store::Picture Store::TakePicture() {
  ++pictures_;
  Picture picture;
  picture.revision = revision();
  picture.compact_revision = compact_revision();
  picture.leases.reserve(lessor_.all().size());
  for (const auto& [id, lease] : lessor_.all()) picture.leases.push_back({id, lease.ttl, lease.remaining_ttl});
  picture.alarms.assign(alarms_.begin(), alarms_.end());
  return picture;
}

void Store::ReleasePicture() {
  const std::lock_guard lock(write_mutex_);
  --pictures_;
}

// Calls visit(chain, newest first) for each key under a guard. Where it returns false the guard is let go, between() is called, and if
// that returns true the walk goes on behind the key under a new guard.
template <typename Visit, typename Between>
void Store::VisitChains(const Picture& picture, Visit&& visit, Between&& between) const {
  std::vector<const Record*> chain;
  std::string resume;
  auto slice = [&] {
    EpochGuard guard;
    for (BTree::Cursor cursor = tree_.LowerBound(resume); cursor.valid(); cursor.Next()) {
      chain.clear();
      const Record* record = cursor.record()->VisibleAt(picture.revision);
      for (; record != nullptr && record->main() > picture.compact_revision; record = record->older()) {
        chain.push_back(record);
      }
      if (record != nullptr && (!record->tombstone() || record->main() == picture.compact_revision)) chain.push_back(record);
      if (!chain.empty() && !visit(chain)) {
        resume = chain.front()->key();
        resume.push_back('\0');
        return true;
      }
    }
    return false;
  };
  while (slice() && between()) {
  }
}

void Store::CountPicture(Picture* picture) const {
  picture->keys = picture->records = 0;
  VisitChains(*picture, [picture](const std::vector<const Record*>& chain) {
    ++picture->keys;
    picture->records += chain.size();
    return picture->keys % kKeysPerSlice != 0;
  }, [] { return true; });
}

Status Store::WriteChains(const Picture& picture, const std::function<Status(std::string_view payload)>& sink) const {
  std::string payload;
  Status status;
  size_t keys = 0;
  VisitChains(picture, [&](const std::vector<const Record*>& chain) {
    AppendChain(chain, &payload);
    return payload.size() < kRecordsBlockBytes && ++keys % kKeysPerSlice != 0;
  }, [&] {  // the sink may wait for the disk, which nobody may do under a guard
    if (payload.size() < kRecordsBlockBytes) return true;
    status = sink(payload);
    payload.clear();
    return status.ok();
  });
  if (status.ok() && !payload.empty()) status = sink(payload);
  return status;
}

bool Store::Loader::AddChains(std::string_view payload) {
  ByteReader in(payload);
  while (!in.done()) {
    uint64_t count = 0;
    if (!in.Varint(&count) || count == 0) return false;
    Record* newest = nullptr;
    for (uint64_t i = 0; i < count; ++i) {
      uint64_t main = 0, sub = 0, flags = 0;
      std::string_view kv;
      const bool ok = in.Varint(&main) && in.Varint(&sub) && in.Varint(&flags) && in.LengthPrefixed(&kv) &&
                      main <= INT64_MAX && sub <= UINT32_MAX && flags <= kTombstoneFlag && kv.size() < UINT32_MAX;
      Record* record = !ok ? nullptr
                           : Record::NewEncoded(kv, static_cast<int64_t>(main), static_cast<uint32_t>(sub),
                                                flags == kTombstoneFlag, newest);
      const bool in_order = record != nullptr &&
                            (newest == nullptr || (newest->key() == record->key() &&
                                                   (newest->main() < record->main() ||
                                                    (newest->main() == record->main() && newest->sub() < record->sub()))));
      if (!in_order) {
        if (record != nullptr) Record::Delete(record);
        for (Record* loaded = newest; loaded != nullptr;) {
          Record* older = loaded->older();
          Record::Delete(loaded);
          loaded = older;
        }
        return false;
      }
      newest = record;
      ++records_;
      store_->record_bytes_.fetch_add(Record::AllocatedBytes(record), std::memory_order_relaxed);
      indexed_.push_back(record);
    }
    if (!newest_.empty() && newest_.back()->key() >= newest->key()) {
      newest_.push_back(newest);  // owned; Finish refuses
      out_of_order_ = true;
      return false;
    }
    newest_.push_back(newest);
  }
  return !in.failed();
}

bool Store::Loader::Finish(const Picture& picture) {
  if (out_of_order_) return false;
  store_->tree_.BulkLoad(newest_);
  std::erase_if(indexed_, [&picture](const Record* record) { return record->main() < picture.compact_revision; });
  std::sort(indexed_.begin(), indexed_.end(), [](const Record* a, const Record* b) {
    return a->main() != b->main() ? a->main() < b->main() : a->sub() < b->sub();
  });
  for (Record* record : indexed_) store_->index_.Append(record);
  store_->records_.store(records_);
  for (const LeaseInfo& lease : picture.leases) {
    store_->lessor_.Grant(lease.id, lease.ttl);
    store_->lessor_.Find(lease.id)->remaining_ttl = lease.remaining_ttl;
  }
  bool consistent = picture.keys == newest_.size() && picture.records == records_ &&
                    (indexed_.empty() || indexed_.back()->main() <= picture.revision);
  for (const Record* record : newest_) {
    if (!record->leased() || record->tombstone()) continue;
    const Record::KeyValue kv = record->Decode();
    if (store_->lessor_.Find(kv.lease) == nullptr) consistent = false;
    store_->lessor_.Attach(kv.lease, kv.key);
  }
  store_->alarms_.insert(picture.alarms.begin(), picture.alarms.end());
  store_->compact_revision_.store(picture.compact_revision);
  store_->revision_.store(picture.revision, std::memory_order_release);
  newest_.clear();
  return consistent;
}

Store::Loader::~Loader() {
  for (Record* record : newest_) {  // left over: Finish was never reached
    while (record != nullptr) {
      Record* older = record->older();
      Record::Delete(record);
      record = older;
    }
  }
}

}  // namespace fastkv
