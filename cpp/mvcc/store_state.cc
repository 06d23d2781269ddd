// The store as a checkpoint holds it: one chain a key, in key order (docs/format.md, "Checkpoint"); and back.
//
//   records of a, a, a, b, c, c, c, ...     flags   first  -  -  first  first  -  -
//   blocks  [a a a b c] [c c ...]           closed at the first record at or past the limit, in a chain or not
//
// So a block is bounded by the limit and one record, however long a key's history is, and the bytes of all blocks
// together do not depend on where they were cut.
#include <algorithm>

#include "base/check.h"
#include "base/coding.h"
#include "mvcc/store.h"

namespace fastkv {
namespace {

constexpr size_t kKeysPerSlice = 512;            // under one guard
constexpr int64_t kRevisionMax = INT64_MAX / 2;  // beyond, a file is made up: no store has counted that far
constexpr uint64_t kTombstoneFlag = 1, kFirstFlag = 2;

void AppendRecord(const Record* record, bool first, std::string* to) {
  PutVarint(to, static_cast<uint64_t>(record->main()));
  PutVarint(to, record->sub());
  PutVarint(to, (record->tombstone() ? kTombstoneFlag : 0) | (first ? kFirstFlag : 0));
  PutVarint(to, record->encoded().size());
  to->append(record->encoded());
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

void Store::Adopt(std::unique_ptr<Store> loaded, const std::function<void()>& along) {
  std::unique_lock lock(write_mutex_);
  no_pictures_.wait(lock, [this] { return pictures_ == 0; });
  FASTKV_CHECK(loaded->revision() >= revision() && loaded->compact_revision() >= compact_revision());
  // The compact revision first: who finds the new contents must also find what they no longer hold. The revision last:
  // who finds it must find the contents that reach so far.
  compact_revision_.store(loaded->compact_revision(), std::memory_order_release);
  std::unique_ptr<Contents> old = std::exchange(current_, std::move(loaded->current_));
  contents_.store(current_.get(), std::memory_order_release);
  revision_.store(loaded->revision(), std::memory_order_release);
  replaced_.Add(old.release(), [](void* contents, void*) { delete static_cast<Contents*>(contents); });
  lessor_ = std::move(loaded->lessor_);
  alarms_ = std::move(loaded->alarms_);
  for (const auto counter : {&Store::records_, &Store::record_bytes_, &Store::live_keys_, &Store::leases_}) {
    (this->*counter).store(((*loaded).*counter).load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
  compact_position_ = loaded->compact_position_;
  compact_pending_ = loaded->compact_pending_;
  along();
}

void Store::ReleasePicture() {
  const std::lock_guard lock(write_mutex_);
  if (--pictures_ == 0) no_pictures_.notify_all();
}

// Calls visit(chain, newest first) for each key under a guard. Where it returns false the guard is let go, between(the
// same chain) is called, and if that returns true the walk goes on behind the key under a new guard. REQUIRES: the
// picture is alive, so that compaction removes nothing: the chain's records can be read without the guard too.
template <typename Visit, typename Between>
void Store::VisitChains(const Picture& picture, Visit&& visit, Between&& between) const {
  std::vector<const Record*> chain;
  std::string resume;
  auto slice = [&] {
    EpochGuard guard;
    for (BTree::Cursor cursor = contents().tree.LowerBound(resume); cursor.valid(); cursor.Next()) {
      chain.clear();
      const Record* record = cursor.record()->VisibleAt(picture.revision);
      for (; record != nullptr && record->main() > picture.compact_revision; record = record->older()) {
        chain.push_back(record);
      }
      if (record != nullptr && (!record->tombstone() || record->main() == picture.compact_revision))
        chain.push_back(record);
      if (!chain.empty() && !visit(chain)) {
        resume = chain.front()->key();
        resume.push_back('\0');
        return true;
      }
    }
    return false;
  };
  while (slice() && between(chain)) {
  }
}

void Store::CountPicture(Picture* picture) const {
  picture->keys = picture->records = 0;
  VisitChains(
      *picture,
      [picture](const std::vector<const Record*>& chain) {
        ++picture->keys;
        picture->records += chain.size();
        return picture->keys % kKeysPerSlice != 0;
      },
      [](const auto&) { return true; });
}

Status Store::WriteChains(const Picture& picture, const std::function<Status(std::string_view payload)>& sink,
                          size_t block_bytes) const {
  std::string payload;
  Status status;
  size_t keys = 0;
  size_t left = 0;  // records of the chain under way that are in no block yet
  auto append = [&](const std::vector<const Record*>& chain) {
    for (; left > 0 && payload.size() < block_bytes; --left) {
      AppendRecord(chain[left - 1], left == chain.size(), &payload);
    }
  };
  VisitChains(
      picture,
      [&](const std::vector<const Record*>& chain) {
        left = chain.size();
        append(chain);
        return payload.size() < block_bytes && ++keys % kKeysPerSlice != 0;
      },
      [&](const std::vector<const Record*>& chain) {
        while (payload.size() >= block_bytes) {
          status = sink(payload);  // may wait for the disk, which nobody may do under a guard
          if (!status.ok()) return false;
          payload.clear();
          if (payload.capacity() > 4 * kRecordsBlockBytes) std::string().swap(payload);  // after a huge value
          append(chain);
        }
        return true;
      });
  if (status.ok() && !payload.empty()) status = sink(payload);
  return status;
}

bool Store::Loader::AddChains(std::string_view payload) {
  ByteReader in(payload);
  auto refuse = [this](const char* why) {  // what has been loaded goes with the store's pool
    refusal_ = why;
    return false;
  };
  while (!in.done()) {
    uint64_t main = 0, sub = 0, flags = 0;
    std::string_view kv;
    if (!in.Varint(&main) || !in.Varint(&sub) || !in.Varint(&flags) || !in.LengthPrefixed(&kv)) {
      return refuse("a record is cut short");
    }
    const bool first = flags & kFirstFlag;
    Record* const before = newest_.empty() ? nullptr : newest_.back();
    if (!first && before == nullptr) return refuse("a record continues a chain that has not begun");
    Record* record = nullptr;
    if (main <= INT64_MAX && sub <= UINT32_MAX && flags <= (kTombstoneFlag | kFirstFlag) && kv.size() < UINT32_MAX) {
      record = Record::NewEncoded(kv, static_cast<int64_t>(main), static_cast<uint32_t>(sub), flags & kTombstoneFlag,
                                  first ? nullptr : before, &store_->current_->pool);
    }
    if (record == nullptr) return refuse("a record is malformed");
    bytes_ += Record::AllocatedBytes(record);
    indexed_.push_back({record->main(), record->sub(), record});
    if (first) {
      if (before != nullptr && before->key() >= record->key()) return refuse("the keys do not ascend");
      newest_.push_back(record);
      continue;
    }
    if (before->key() != record->key()) return refuse("a chain is continued by a record of another key");
    if (before->main() > record->main() || (before->main() == record->main() && before->sub() >= record->sub())) {
      return refuse("the revisions of a key do not rise");
    }
    newest_.back() = record;
  }
  return true;
}

// By (main, sub). Main revisions are dense as a rule: then counting beats comparing.
void Store::Loader::SortIndexed(const Picture& picture) {
  auto before = [](const Indexed& a, const Indexed& b) { return a.main != b.main ? a.main < b.main : a.sub < b.sub; };
  const int64_t first = std::max<int64_t>(picture.compact_revision, 0);
  const auto span = static_cast<uint64_t>(picture.revision - first) + 1;
  if (span > 4 * indexed_.size() + 1024) return std::sort(indexed_.begin(), indexed_.end(), before);
  std::vector<uint32_t> starts(span + 1);
  for (const Indexed& entry : indexed_) ++starts[static_cast<uint64_t>(entry.main - first) + 1];
  for (uint64_t i = 1; i <= span; ++i) starts[i] += starts[i - 1];
  std::vector<Indexed> sorted(indexed_.size());
  std::vector<uint32_t> next(starts.begin(), starts.end() - 1);
  for (const Indexed& entry : indexed_) sorted[next[static_cast<uint64_t>(entry.main - first)]++] = entry;
  for (uint64_t i = 0; i < span; ++i) {
    if (starts[i + 1] - starts[i] > 1) std::sort(sorted.begin() + starts[i], sorted.begin() + starts[i + 1], before);
  }
  indexed_ = std::move(sorted);
}

bool Store::Loader::Finish(const Picture& picture) {
  if (picture.keys != newest_.size() || picture.records != indexed_.size() || picture.revision < 1 ||
      picture.revision > kRevisionMax || picture.compact_revision < -1 || picture.compact_revision > picture.revision) {
    return false;
  }
  for (const Indexed& entry : indexed_) {
    if (entry.main > picture.revision) return false;
  }
  const uint64_t records = indexed_.size();
  std::erase_if(indexed_, [&picture](const Indexed& entry) { return entry.main < picture.compact_revision; });
  SortIndexed(picture);
  for (size_t i = 1; i < indexed_.size(); ++i) {
    if (indexed_[i - 1].main == indexed_[i].main && indexed_[i - 1].sub == indexed_[i].sub) return false;
  }
  store_->current_->tree.BulkLoad(newest_);
  for (const Indexed& entry : indexed_) store_->current_->index.Append(entry.record);
  store_->records_.store(records);
  store_->record_bytes_.store(bytes_);
  for (const LeaseInfo& lease : picture.leases) {
    store_->lessor_.Grant(lease.id, lease.ttl);
    store_->lessor_.Find(lease.id)->remaining_ttl = lease.remaining_ttl;
  }
  store_->leases_.store(store_->lessor_.all().size());
  uint64_t live = 0;
  for (const Record* record : newest_) {
    live += record->tombstone() ? 0 : 1;
    if (!record->leased()) continue;
    const Record::KeyValue kv = record->Decode();
    if (store_->lessor_.Find(kv.lease) == nullptr) return false;
    store_->lessor_.Attach(kv.lease, kv.key);
  }
  store_->live_keys_.store(live);
  store_->alarms_.insert(picture.alarms.begin(), picture.alarms.end());
  store_->compact_revision_.store(picture.compact_revision);
  store_->revision_.store(picture.revision, std::memory_order_release);
  return true;
}

}  // namespace fastkv
