// HashKV, equal to etcd's for equal histories, and the store's own consistency check.
//
// etcd hashes its backend: for every record in (main, sub) order the 17-byte revision key (with 't' for a tombstone)
// and the stored KeyValue, which of a tombstone has only the key. At or below the compact revision only what is still
// live at the hashed revision counts, and no tombstone.
#include <algorithm>
#include <string>
#include <unordered_set>

#include "base/check.h"
#include "base/coding.h"
#include "base/crc32c.h"
#include "mvcc/store.h"

namespace fastkv {
namespace {

void AppendBigEndian(std::string* to, uint64_t value) {
  for (int shift = 56; shift >= 0; shift -= 8) to->push_back(static_cast<char>(value >> shift));
}

uint32_t HashRecord(uint32_t crc, const Record* record) {
  std::string revision_key;
  AppendBigEndian(&revision_key, static_cast<uint64_t>(record->main()));
  revision_key.push_back('_');
  AppendBigEndian(&revision_key, record->sub());
  if (!record->tombstone()) return Crc32cExtend(Crc32cExtend(crc, revision_key), record->encoded());
  revision_key.push_back('t');
  std::string stored;
  AppendBytes(&stored, 1, record->key());
  return Crc32cExtend(Crc32cExtend(crc, revision_key), stored);
}

bool Before(const Record* a, const Record* b) {
  return a->main() != b->main() ? a->main() < b->main() : a->sub() < b->sub();
}

}  // namespace

Code Store::HashKv(int64_t asked, uint32_t* hash, int64_t* compact_revision, int64_t* hash_revision) const {
  EpochGuard guard;
  for (;;) {
    int64_t at = 0;
    if (Code code = Resolve(asked, &at); code != Code::kOk) return code;
    const int64_t compacted = this->compact_revision();
    const Contents& now = contents();
    std::vector<const Record*> kept;         // at or below the compact revision: live at `at` ...
    std::vector<const Record*> overwritten;  // ... and since replaced or deleted
    bool anything_live = false;
    for (BTree::Cursor cursor = now.tree.LowerBound({}); cursor.valid(); cursor.Next()) {
      const Record* live = cursor.record()->VisibleAt(at);
      if (live != nullptr && live->tombstone()) live = nullptr;
      anything_live = anything_live || live != nullptr;
      const Record* base = cursor.record()->VisibleAt(compacted);
      if (base == nullptr || base->tombstone()) continue;
      (base == live ? kept : overwritten).push_back(base);
    }
    // etcd's quirk: with nothing live at all it leaves nothing out.
    if (!anything_live) kept.insert(kept.end(), overwritten.begin(), overwritten.end());
    std::sort(kept.begin(), kept.end(), Before);
    uint32_t crc = Crc32c("key");
    for (const Record* record : kept) crc = HashRecord(crc, record);
    const uint64_t end = now.index.end();
    for (uint64_t position = now.index.LowerBound(compacted + 1); position < end; ++position) {
      const Record* record = now.index.at(position);
      if (record == nullptr) continue;
      if (record->main() > at) break;
      crc = HashRecord(crc, record);
    }
    if (this->compact_revision() != compacted) continue;
    *hash = crc;
    *compact_revision = compacted;
    *hash_revision = at;
    return Code::kOk;
  }
}

uint32_t Store::Hash() {
  Picture picture;
  {
    const auto lock = WriteLock();
    picture = TakePicture();
  }
  const PictureGuard guard(this);
  uint32_t crc = 0;
  const Status status = WriteChains(picture, [&crc](std::string_view payload) -> Status {
    crc = Crc32cExtend(crc, payload);
    return {};
  });
  FASTKV_CHECK(status.ok());
  std::string leases;
  for (const LeaseInfo& lease : picture.leases) {
    PutI64(&leases, lease.id);
    PutI64(&leases, lease.ttl);
    PutI64(&leases, lease.remaining_ttl);
  }
  return Crc32cExtend(crc, leases);
}

void Store::Check(std::vector<std::string>* problems) const {
  const std::lock_guard lock(write_mutex_);
  const BTree& tree = current_->tree;
  const RevisionIndex& index = current_->index;
  tree.Check(problems);
  const int64_t current = revision();
  uint64_t records = 0;
  std::unordered_set<const Record*> reachable;
  for (BTree::Cursor cursor = tree.LowerBound({}); cursor.valid(); cursor.Next()) {
    const std::string_view key = cursor.record()->key();
    const Record* newer = nullptr;
    for (const Record* record = cursor.record(); record != nullptr; newer = record, record = record->older()) {
      ++records;
      reachable.insert(record);
      const std::string at = " at revision " + std::to_string(record->main());
      if (record->key() != key) problems->push_back("history: a record of another key" + at);
      if (newer != nullptr && !Before(record, newer)) problems->push_back("history: revisions do not fall" + at);
      if (record->main() > current) problems->push_back("history: newer than the store" + at);
      const Record::KeyValue kv = record->Decode();
      if (kv.mod_revision != record->main()) problems->push_back("record: mod_revision differs" + at);
      if (!record->tombstone() && (kv.version < 1 || kv.create_revision < 1 || kv.create_revision > kv.mod_revision)) {
        problems->push_back("record: impossible version or create_revision" + at);
      }
      if (kv.lease != 0 && newer == nullptr) {
        const auto lease = lessor_.all().find(kv.lease);
        if (lease == lessor_.all().end() || !lease->second.keys.contains(key)) {
          problems->push_back("lease: a key is not attached to the lease it names" + at);
        }
      }
    }
  }
  if (records != records_.load(std::memory_order_relaxed)) problems->push_back("records: the count is wrong");
  const Record* previous = nullptr;
  for (uint64_t position = index.begin(); position < index.end(); ++position) {
    const Record* record = index.at(position);
    if (record == nullptr || !reachable.contains(record)) {
      problems->push_back("revision index: an entry without a record at position " + std::to_string(position));
      continue;
    }
    if (previous != nullptr && !Before(previous, record)) {
      problems->push_back("revision index: out of order at revision " + std::to_string(record->main()));
    }
    previous = record;
  }
  for (const auto& [id, lease] : lessor_.all()) {
    for (const std::string& key : lease.keys) {
      const Record* record = Newest(key);
      if (record == nullptr || record->Decode().lease != id) {
        problems->push_back("lease " + std::to_string(id) + ": holds a key that does not name it");
      }
    }
  }
}

}  // namespace fastkv
