// The store as a checkpoint holds it: one chain a key, in key order (docs/format.md, "Checkpoint"); and back.
//
//   records of a, a, a, b, c, c, c, ...     flags   first  -  -  first  first  -  -
//   blocks  [a a a b c] [c c ...]           closed at the first record at or past the limit, in a chain or not
//
// So a block is bounded by the limit and one record, however long a key's history is, and the bytes of all blocks
// together do not depend on where they were cut.
#include <algorithm>
#include <span>

#include "base/check.h"
#include "base/coding.h"
#include "base/parallel.h"
#include "mvcc/store.h"

namespace fastkv {
namespace {

constexpr size_t kKeysPerSlice = 512;            // under one guard
constexpr int64_t kRevisionMax = INT64_MAX / 2;  // beyond, a file is made up: no store has counted that far
constexpr uint64_t kTombstoneFlag = 1, kFirstFlag = 2;

// Of a checkpoint that is loaded by several threads. A part has a pool of its own, which leaves slabs half full.
constexpr size_t kPartsMax = 4, kPayloadsAPart = 16;
constexpr size_t kRecordsForTwo = 10'000;
constexpr const char* kCutShort = "a record is cut short";
constexpr const char* kNotAscending = "the keys do not ascend";

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

bool Store::Loader::Encoded::first() const { return flags & kFirstFlag; }

bool Store::Loader::Read(ByteReader* in, Encoded* encoded) {
  return in->Varint(&encoded->main) && in->Varint(&encoded->sub) && in->Varint(&encoded->flags) &&
         in->LengthPrefixed(&encoded->kv);
}

bool Store::Loader::Part::Refuse(const char* why) {  // what has been loaded goes with its pool
  refusal = why;
  return false;
}

bool Store::Loader::Part::Add(std::string_view payload) {
  ByteReader in(payload);
  while (!in.done()) {
    Encoded encoded;
    if (!Read(&in, &encoded)) return Refuse(kCutShort);
    if (!Take(encoded)) return false;
  }
  return true;
}

bool Store::Loader::Part::Take(const Encoded& encoded) {
  const auto& [main, sub, flags, kv] = encoded;
  const bool first = encoded.first();
  Record* const before = newest.empty() ? nullptr : newest.back();
  if (!first && before == nullptr) return Refuse("a record continues a chain that has not begun");
  Record* record = nullptr;
  if (main <= INT64_MAX && sub <= UINT32_MAX && flags <= (kTombstoneFlag | kFirstFlag)) {
    record = Record::NewEncoded(kv, static_cast<int64_t>(main), static_cast<uint32_t>(sub), flags & kTombstoneFlag,
                                first ? nullptr : before, pool);
  }
  if (record == nullptr) return Refuse("a record is malformed");
  bytes += Record::AllocatedBytes(record);
  indexed.push_back({record->main(), record->sub(), record});
  if (first) {
    if (before != nullptr && before->key() >= record->key()) return Refuse(kNotAscending);
    newest.push_back(record);
    return true;
  }
  if (before->key() != record->key()) return Refuse("a chain is continued by a record of another key");
  if (before->main() > record->main() || (before->main() == record->main() && before->sub() >= record->sub())) {
    return Refuse("the revisions of a key do not rise");
  }
  newest.back() = record;
  return true;
}

// The chains that begin in payloads [begin, end), to their ends.
//
//   [a a a b][b c]|[c c c][c d]|[d e]        the part of the middle two begins at d and ends behind the second d
//
// Every record is some part's, so what cannot even be read before the first chain begins is left to an earlier part.
void Store::Loader::Part::AddBetween(const std::vector<std::string_view>& payloads, size_t begin, size_t end) {
  bool begun = begin == 0;
  for (size_t i = begin; i < payloads.size(); ++i) {
    if (i >= end && !begun) return;
    ByteReader in(payloads[i]);
    while (!in.done()) {
      Encoded encoded;
      const bool whole = Read(&in, &encoded);
      if (!begun && (!whole || !encoded.first())) {
        if (!whole) return;
        continue;
      }
      if (whole && i >= end && encoded.first()) return;
      if (!begun) first_payload = i;
      begun = true;
      if (whole ? Take(encoded) : Refuse(kCutShort)) continue;
      refused_payload = i;
      return;
    }
  }
}

bool Store::Loader::AddAll(const std::vector<std::string_view>& payloads, size_t* refused, size_t parts) {
  const size_t count = parts != 0 ? parts : Workers(std::min(kPartsMax, payloads.size() / kPayloadsAPart));
  if (count == 1) {
    for (*refused = 0; *refused < payloads.size(); ++*refused) {
      if (!AddChains(payloads[*refused])) return false;
    }
    return true;
  }
  FASTKV_CHECK(all_.newest.empty());
  std::vector<SlabPool> pools(count);  // a pool has one owner: each thread its own, and then they become one
  std::vector<Part> loaded(count);
  RunParallel(count, count, [&](size_t i) {
    loaded[i].pool = &pools[i];
    loaded[i].AddBetween(payloads, i * payloads.size() / count, (i + 1) * payloads.size() / count);
  });
  for (SlabPool& pool : pools) all_.pool->Absorb(&pool);
  return std::all_of(loaded.begin(), loaded.end(), [&](Part& part) { return Append(&part, refused); });
}

bool Store::Loader::Append(Part* part, size_t* refused) {
  if (!part->newest.empty() && !all_.newest.empty() && all_.newest.back()->key() >= part->newest.front()->key()) {
    *refused = part->first_payload;
    return all_.Refuse(kNotAscending);
  }
  if (part->refused_payload != SIZE_MAX) {
    *refused = part->refused_payload;
    return all_.Refuse(part->refusal);
  }
  all_.bytes += part->bytes;
  if (all_.newest.empty()) {
    all_.newest = std::move(part->newest);
    all_.indexed = std::move(part->indexed);
    return true;
  }
  all_.newest.insert(all_.newest.end(), part->newest.begin(), part->newest.end());
  all_.indexed.insert(all_.indexed.end(), part->indexed.begin(), part->indexed.end());
  return true;
}

// By (main, sub). Main revisions are dense as a rule, and so are the subs of each: then counting beats comparing.
void Store::Loader::SortIndexed(const Picture& picture) {
  std::vector<Indexed>& indexed = all_.indexed;
  auto before = [](const Indexed& a, const Indexed& b) { return a.main != b.main ? a.main < b.main : a.sub < b.sub; };
  const int64_t first = std::max<int64_t>(picture.compact_revision, 0);
  const auto span = static_cast<uint64_t>(picture.revision - first) + 1;
  if (span > 4 * indexed.size() + 1024) return std::sort(indexed.begin(), indexed.end(), before);
  std::vector<uint32_t> starts(span + 1);
  for (const Indexed& entry : indexed) ++starts[static_cast<uint64_t>(entry.main - first) + 1];
  for (uint64_t i = 1; i <= span; ++i) starts[i] += starts[i - 1];
  std::vector<Indexed> sorted(indexed.size());
  std::vector<uint32_t> next(starts.begin(), starts.end() - 1);
  for (const Indexed& entry : indexed) sorted[next[static_cast<uint64_t>(entry.main - first)]++] = entry;
  std::vector<Indexed> placed;
  for (uint64_t i = 0; i < span; ++i) {
    const std::span<Indexed> of_main(sorted.begin() + starts[i], sorted.begin() + starts[i + 1]);
    if (of_main.size() < 2) continue;
    placed.assign(of_main.size(), {});
    const bool dense = std::all_of(of_main.begin(), of_main.end(), [&placed](const Indexed& entry) {
      if (entry.sub >= placed.size() || placed[entry.sub].record != nullptr) return false;
      placed[entry.sub] = entry;
      return true;
    });
    if (dense) {
      std::copy(placed.begin(), placed.end(), of_main.begin());
    } else {
      std::sort(of_main.begin(), of_main.end(), before);
    }
  }
  indexed = std::move(sorted);
}

void Store::Loader::LoadTree(std::vector<Record*>* leased) {
  store_->current_->tree.BulkLoad(all_.newest);
  uint64_t live = 0;
  for (Record* record : all_.newest) {
    live += record->tombstone() ? 0 : 1;
    if (record->leased()) leased->push_back(record);
  }
  store_->live_keys_.store(live);
}

bool Store::Loader::LoadIndex(const Picture& picture) {
  std::vector<Indexed>& indexed = all_.indexed;
  std::erase_if(indexed, [&picture](const Indexed& entry) { return entry.main < picture.compact_revision; });
  SortIndexed(picture);
  for (size_t i = 1; i < indexed.size(); ++i) {
    if (indexed[i - 1].main == indexed[i].main && indexed[i - 1].sub == indexed[i].sub) return false;
  }
  for (const Indexed& entry : indexed) store_->current_->index.Append(entry.record);
  return true;
}

bool Store::Loader::Finish(const Picture& picture) {
  const uint64_t records = all_.indexed.size();
  if (picture.keys != all_.newest.size() || picture.records != records || picture.revision < 1 ||
      picture.revision > kRevisionMax || picture.compact_revision < -1 || picture.compact_revision > picture.revision) {
    return false;
  }
  for (const Indexed& entry : all_.indexed) {
    if (entry.main > picture.revision) return false;
  }
  std::vector<Record*> leased;
  bool in_order = false;
  // Two indexes over the same records, in memory of their own.
  RunParallel(records < kRecordsForTwo ? 1 : Workers(2), 2, [&](size_t piece) {
    if (piece == 0) {
      in_order = LoadIndex(picture);
    } else {
      LoadTree(&leased);
    }
  });
  if (!in_order) return false;
  store_->records_.store(records);
  store_->record_bytes_.store(all_.bytes);
  for (const LeaseInfo& lease : picture.leases) {
    store_->lessor_.Grant(lease.id, lease.ttl);
    store_->lessor_.Find(lease.id)->remaining_ttl = lease.remaining_ttl;
  }
  store_->leases_.store(store_->lessor_.all().size());
  for (const Record* record : leased) {
    const Record::KeyValue kv = record->Decode();
    if (store_->lessor_.Find(kv.lease) == nullptr) return false;
    store_->lessor_.Attach(kv.lease, kv.key);
  }
  store_->alarms_.insert(picture.alarms.begin(), picture.alarms.end());
  store_->compact_revision_.store(picture.compact_revision);
  store_->revision_.store(picture.revision, std::memory_order_release);
  return true;
}

}  // namespace fastkv
