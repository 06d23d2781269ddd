// revision -> records: every record since the compact revision, in (main, sub) order.
//
//   chunks   [ ...4096 record slots... ] [ ...4096... ] [ ...  ]
//            ^ begin: older ones are compacted away            ^ end
//
// Serves watch catch-up, compaction, HashKV and checkpoints: all of them walk forward from a main revision.
//
// Invariants:
// - slots in [begin, end) point to records that are in the key index's histories, (main, sub) strictly ascending.
// Thread safety: one writer; readers under an EpochGuard, from positions they got after entering it.
#pragma once

#include <atomic>
#include <cstdint>

#include "mvcc/epoch.h"
#include "mvcc/record.h"

namespace fastkv {

class RevisionIndex {
 public:
  static constexpr uint64_t kChunk = 4096;

  explicit RevisionIndex(Retired* retired);
  ~RevisionIndex();
  RevisionIndex(const RevisionIndex&) = delete;
  RevisionIndex& operator=(const RevisionIndex&) = delete;

  uint64_t begin() const { return begin_.load(std::memory_order_acquire); }
  uint64_t end() const { return end_.load(std::memory_order_acquire); }
  // REQUIRES: position < end(). Null if compaction has trimmed it meanwhile.
  const Record* at(uint64_t position) const;
  uint64_t LowerBound(int64_t main) const;  // the first position whose record has main >= this; end() if none

  // -- the writer's
  void Append(Record* record);
  Record* mutable_at(uint64_t position) { return const_cast<Record*>(at(position)); }
  void TrimTo(uint64_t begin);

  uint64_t memory_bytes() const;

 private:
  struct Chunk {
    std::atomic<Record*> slots[kChunk];
  };
  struct Directory {  // covers the positions from first_chunk * kChunk on
    uint64_t first_chunk = 0, capacity = 0;
    std::atomic<Chunk*>* chunks() { return reinterpret_cast<std::atomic<Chunk*>*>(this + 1); }
    const std::atomic<Chunk*>* chunks() const { return reinterpret_cast<const std::atomic<Chunk*>*>(this + 1); }
  };
  static Directory* NewDirectory(uint64_t first_chunk, uint64_t capacity);

  Retired* retired_;
  std::atomic<Directory*> directory_;
  std::atomic<uint64_t> begin_{0}, end_{0};
};

}  // namespace fastkv
