// One put or delete of one key: an immutable node of that key's history.
//
//   key index -> newest -> older -> older -> (null: compacted away, or the first)
//
// A record holds the client-visible mvccpb.KeyValue already encoded, so that answering a range, encoding an event,
// hashing and checkpointing are copies. A tombstone's KeyValue has key and mod_revision only.
//
// Invariants:
// - along `older` the revisions (main, sub) fall strictly; the key is the same.
// - `older` is cut (set to null) by compaction only, and only at or below the compact revision.
// - depth counts the records that ever stood below this one; records of even depth > 0 carry a skip pointer, so that
// finding
//   the record visible at a revision takes O(log^2 n) steps, not O(n).
// Thread safety: immutable but for `older`; readers hold an EpochGuard (epoch.h) while they keep a Record*.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "base/slab.h"

namespace fastkv {

class Record {
 public:
  struct KeyValue {  // decoded view; valid as long as the record
    std::string_view key, value;
    int64_t create_revision = 0, mod_revision = 0, version = 0, lease = 0;
  };

  // `compacted`: the compact revision; records of `older`'s history at or below it may be freed at any time.
  // `pool`: whence the memory (null: malloc); Delete wants the same.
  static Record* NewPut(const KeyValue& kv, uint32_t sub, Record* older, int64_t compacted, SlabPool* pool = nullptr);
  static Record* NewTombstone(std::string_view key, int64_t main, uint32_t sub, Record* older, int64_t compacted,
                              SlabPool* pool = nullptr);
  // From bytes of a checkpoint; null if they are not the canonical KeyValue of a put or tombstone at `main`.
  static Record* NewEncoded(std::string_view encoded, int64_t main, uint32_t sub, bool tombstone, Record* older,
                            SlabPool* pool = nullptr);
  static void Delete(Record* record, SlabPool* pool = nullptr);
  static uint64_t AllocatedBytes(const Record* record);

  int64_t main() const { return main_; }
  uint32_t sub() const { return sub_flags_ & kSubMask; }
  bool tombstone() const { return sub_flags_ & kTombstone; }
  bool leased() const { return sub_flags_ & kLeased; }
  Record* older() const { return older_.load(std::memory_order_acquire); }
  void CutOlder() { older_.store(nullptr, std::memory_order_release); }

  std::string_view encoded() const { return {data(), kv_length_}; }
  // The encoded KeyValue without value and lease: what a keys_only range answers (etcd >= 3.7).
  std::string_view encoded_key_only() const;
  std::string_view key() const;
  std::string_view value() const;
  KeyValue Decode() const;

  // The newest record of this history with main <= revision, or null. REQUIRES: revision >= the compact revision.
  const Record* VisibleAt(int64_t revision) const;
  // What the key held before this record's main revision; null if nothing (absent, deleted, or compacted away).
  const Record* Previous() const;

 private:
  struct Skip {
    Record* target;
    int64_t main;  // of target, so that a freed target is never touched
  };
  static constexpr uint32_t kTombstone = 1u << 31, kLeased = 1u << 30, kSubMask = kLeased - 1;

  Record() = default;
  static Record* Allocate(uint32_t kv_length, int64_t main, uint32_t sub_flags, Record* older, int64_t compacted,
                          SlabPool* pool);
  size_t bytes() const { return (has_skip() ? sizeof(Skip) : 0) + sizeof(Record) + kv_length_; }
  static bool HasSkip(uint32_t depth) { return depth != 0 && depth % 2 == 0; }
  bool has_skip() const { return HasSkip(depth_); }
  const Skip& skip() const { return *(reinterpret_cast<const Skip*>(this) - 1); }
  const char* data() const { return reinterpret_cast<const char*>(this + 1); }
  char* data() { return reinterpret_cast<char*>(this + 1); }

  int64_t main_;
  std::atomic<Record*> older_;
  uint32_t sub_flags_;
  uint32_t depth_;
  uint32_t kv_length_;
  uint32_t value_offset_;
};
static_assert(sizeof(Record) == 32);

}  // namespace fastkv
