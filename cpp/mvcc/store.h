// The MVCC store in memory: what a batch of commands does to it, and what a request reads from it.
//
//   Apply(PutRequest bytes) --> Record --> key index (newest per key)        Range(bytes) <-- records visible at a
//   revision
//                                    `---> revision index (in order) -----> Events(from, to) -----> watchers
//
// Requests and answers are the client's protobuf bytes, so that one call serves the embedded API, the log and the wire.
//
// Invariants:
// - revision() is 1 for an empty store and rises by one for each command that changes something.
// - a reader pinned to a revision sees exactly the records with main <= it, or learns that it has been compacted away.
// - Apply changes nothing unless it returns kOk; equal commands on equal stores give equal stores and answers.
// Thread safety: Apply, CompactStep and Load* under the WriteLock; everything else from any thread at any time, without
// waiting for it (but for lease queries, which take it for a moment).
//
// Files: store_validate.cc, store_apply.cc (put, delete, leases, alarms), store_txn.cc, store_range.cc,
// store_compact.cc, store_hash.cc, store_state.cc.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/coding.h"
#include "base/status.h"
#include "mvcc/btree.h"
#include "mvcc/epoch.h"
#include "mvcc/event_source.h"
#include "mvcc/key_range.h"
#include "mvcc/lessor.h"
#include "mvcc/record.h"
#include "mvcc/revision_index.h"
#include "proto/messages.h"

namespace fastkv {

// Command tags: field numbers of etcd's InternalRaftRequest (docs/format.md).
enum CommandTag : uint64_t {
  kTagPut = 4,
  kTagDeleteRange = 5,
  kTagTxn = 6,
  kTagCompaction = 7,
  kTagLeaseGrant = 8,
  kTagLeaseRevoke = 9,
  kTagAlarm = 10,
  kTagLeaseCheckpoint = 11,
};

// Another tag in a log is one of a newer format.
inline bool IsCommandTag(uint64_t tag) { return tag >= kTagPut && tag <= kTagLeaseCheckpoint; }

constexpr uint64_t kAlarmNoSpace = 1, kAlarmCorrupt = 2;  // etcd's AlarmType
constexpr int64_t kLeaseTtlMax = 9'000'000'000;
// What a command may weigh: a value of 2 GiB and its key. A record counts its bytes in 32 bits.
constexpr size_t kPayloadBytesMax = (size_t{2} << 30) + (64 << 10);
constexpr size_t kRecordsBlockBytes = 256 << 10;  // a checkpoint's records block closes at the first record at or past

struct Limits {
  int64_t max_txn_ops = 0;  // 0: none
  int64_t max_request_bytes = 0;
};

// What needs no state to be refused: asked before a command is logged, never on replay.
Code Validate(uint64_t tag, std::string_view payload, const Limits& limits);
Code ValidateRangeRequest(std::string_view request);
bool Grows(uint64_t tag, std::string_view payload);  // refused while the NOSPACE alarm is on

class Store final : public EventSource {
 public:
  Store();
  ~Store() override;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // What response headers carry; zeros are left out.
  void SetIdentity(uint64_t cluster_id, uint64_t member_id, uint64_t raft_term);
  uint64_t member_id() const { return member_id_.load(std::memory_order_relaxed); }
  uint64_t raft_term() const { return raft_term_.load(std::memory_order_relaxed); }

  // -- the writer's: hold the lock over a batch
  std::unique_lock<std::mutex> WriteLock() { return std::unique_lock(write_mutex_); }
  Code Apply(uint64_t tag, std::string_view payload, std::string* response);
  // Removes up to revisions_max superseded records that a compaction has released; true when nothing is left to remove.
  bool CompactStep(size_t revisions_max);

  // -- readers'
  void AppendHeader(std::string* to, int64_t revision) const;  // field 1 of a response; revision 0 is left out
  int64_t revision() const override { return revision_.load(std::memory_order_acquire); }
  int64_t compact_revision() const override { return compact_revision_.load(std::memory_order_acquire); }
  Code Range(std::string_view request, std::string* response) const;
  // A TxnRequest with nothing but ranges in both branches, answered without changing anything; *reads_only = false: it
  // has others.
  Code ReadTxn(std::string_view request, const Limits& limits, bool* reads_only, std::string* response);
  // RangeStream: at most about bytes_max of kvs; *next is the request for the rest, "" at the end.
  Code RangeChunk(std::string_view request, size_t bytes_max, std::string* response, std::string* next) const;
  // What is visible of the key (null: nothing). REQUIRES: an EpochGuard, held until the record is no longer used.
  Code Get(std::string_view key, int64_t revision, const Record** found) const {
    for (;;) {
      int64_t at = 0;
      if (Code code = Resolve(revision, &at); code != Code::kOk) return code;
      const Record* record = contents().tree.Find(key);
      if (record != nullptr) record = record->VisibleAt(at);
      *found = record == nullptr || record->tombstone() ? nullptr : record;
      // Passed meanwhile by compaction: an explicit revision is refused now, the latest is read again.
      if (compact_revision() <= at) return Code::kOk;
    }
  }
  // Collects what is visible, in key order (or reverse). REQUIRES: an EpochGuard, held until the records are no longer
  // used.
  Code Scan(const KeyRange& range, int64_t revision, size_t limit, bool reverse, std::vector<const Record*>* out) const;
  Code Count(const KeyRange& range, int64_t revision, int64_t* count) const;
  // Every record of the key since the compact revision, oldest first. REQUIRES: an EpochGuard.
  void History(std::string_view key, std::vector<const Record*>* out) const;
  Code HashKv(int64_t revision, uint32_t* hash, int64_t* compact_revision, int64_t* hash_revision) const;
  uint32_t Hash();  // CRC-32C of the chains, then the leases, as a checkpoint holds them
  int64_t Events(int64_t from, int64_t to, size_t limit, std::vector<const Record*>* out) const override;

  struct LeaseInfo {
    int64_t id, ttl, remaining_ttl;
  };
  std::vector<LeaseInfo> Leases() const;
  std::vector<std::string> LeaseKeys(int64_t id) const;
  std::vector<std::pair<uint64_t, uint64_t>> Alarms() const;  // (member, alarm), ascending

  struct Stats {
    uint64_t keys;  // that are there: without deleted ones
    uint64_t records, memory_bytes, leases;
  };
  Stats GetStats() const;
  void Check(std::vector<std::string>* problems) const;

  // Takes over all that `loaded` holds but its identity: a later state of the same history, of which this store had a
  // beginning. Readers are not disturbed: who reads on at a revision that the new state has compacted away is told so.
  // Waits until no picture is alive. `along` is called under the write lock. REQUIRES: nobody else uses `loaded`, which
  // goes; its revisions are not below this store's.
  void Adopt(std::unique_ptr<Store> loaded, const std::function<void()>& along);

  // -- checkpoints: a consistent picture taken under the lock, written out later without it
  struct Picture {
    int64_t revision = 1, compact_revision = -1;
    uint64_t keys = 0, records = 0;
    std::vector<LeaseInfo> leases;
    std::vector<std::pair<uint64_t, uint64_t>> alarms;  // (member, alarm)
  };
  // While a picture is alive compaction removes nothing. REQUIRES: WriteLock; pair it with ReleasePicture.
  Picture TakePicture();
  void ReleasePicture();
  class PictureGuard {  // releases, however the scope is left
   public:
    explicit PictureGuard(Store* store) : store_(store) {}
    ~PictureGuard() { store_->ReleasePicture(); }
    PictureGuard(const PictureGuard&) = delete;

   private:
    Store* const store_;
  };
  void CountPicture(Picture* picture) const;  // fills keys and records
  // Hands over the payloads of `records` blocks, in key order; stops at the first error. block_bytes: tests shrink it.
  Status WriteChains(const Picture& picture, const std::function<Status(std::string_view payload)>& sink,
                     size_t block_bytes = kRecordsBlockBytes) const;

  // Rebuilds an empty store: the payloads of WriteChains in order, then Finish. False: not what WriteChains writes.
  class Loader {
   public:
    explicit Loader(Store* store) : store_(store) { all_.pool = &store->current_->pool; }
    bool AddChains(std::string_view payload) { return all_.Add(payload); }
    // All of them at once. *refused: which one was, the first of them. parts: threads; 0: what is good here.
    bool AddAll(const std::vector<std::string_view>& payloads, size_t* refused, size_t parts = 0);
    bool Finish(const Picture& picture);
    const char* refusal() const { return all_.refusal; }  // why AddChains or AddAll returned false

   private:
    struct Indexed {
      int64_t main;
      uint32_t sub;
      Record* record;
    };
    struct Encoded {  // one record in a payload
      uint64_t main = 0, sub = 0, flags = 0;
      std::string_view kv;
      bool first() const;
    };
    struct Part {  // the records of some payloads that follow each other
      bool Add(std::string_view payload);
      bool Take(const Encoded& encoded);
      bool Refuse(const char* why);
      void AddBetween(const std::vector<std::string_view>& payloads, size_t begin, size_t end);

      SlabPool* pool = nullptr;
      std::vector<Record*> newest;  // of each key; the last one's chain may go on in the next payload
      std::vector<Indexed> indexed;
      uint64_t bytes = 0;
      const char* refusal = "";
      size_t first_payload = 0, refused_payload = SIZE_MAX;  // of AddBetween
    };
    static bool Read(ByteReader* in, Encoded* encoded);
    bool Append(Part* part, size_t* refused);
    void LoadTree(std::vector<Record*>* leased);
    bool LoadIndex(const Picture& picture);
    void SortIndexed(const Picture& picture);

    Store* store_;
    Part all_;
  };

 private:
  friend class Transaction;
  struct Change;  // one command's revision while it is being made

  // What readers walk. Replaced as a whole by Adopt, so a reader loads it under its guard, once it knows its revision,
  // and walks only that: a position in one index means nothing in another.
  struct Contents {
    SlabPool pool;    // declared first: records, nodes and separators go with it, after
    Retired retired;  // what waits for readers to leave, after the indexes that retire into it
    BTree tree{&retired, &pool};
    RevisionIndex index{&retired};
  };
  const Contents& contents() const { return *contents_.load(std::memory_order_acquire); }

  int64_t PutKey(Change* change, std::string_view key, std::string_view value, int64_t lease);
  int64_t DeleteKeys(Change* change, const KeyRange& range, std::string* prev_kvs);
  void Publish(const Change& change);
  Code Alarmed(uint64_t tag, std::string_view payload) const;

  Code ApplyPut(std::string_view payload, std::string* response);
  Code ApplyDeleteRange(std::string_view payload, std::string* response);
  Code ApplyTxn(std::string_view payload, std::string* response);
  Code ApplyCompaction(std::string_view payload, std::string* response);
  Code ApplyLeaseGrant(std::string_view payload, std::string* response);
  Code ApplyLeaseRevoke(std::string_view payload, std::string* response);
  Code ApplyAlarm(std::string_view payload, std::string* response);
  Code ApplyLeaseCheckpoint(std::string_view payload, std::string* response);

  // The fields kvs, more and count of a RangeResponse as of `revision`. REQUIRES: an EpochGuard or the write lock.
  void RangeFields(const RangeRequest& request, int64_t revision, std::string* to) const;
  int64_t HeaderRevision(const RangeRequest& request, int64_t at) const;
  int64_t CountAt(BTree::Cursor cursor, const KeyRange& range, int64_t revision) const;
  const Record* Newest(std::string_view key) const;  // null if absent or deleted; the writer's view
  // 0 < revision resolved, or the error. REQUIRES: an EpochGuard.
  Code Resolve(int64_t asked, int64_t* revision) const;
  template <typename Visit, typename Between>
  void VisitChains(const Picture& picture, Visit&& visit, Between&& between) const;
  void RetireRecord(Record* record);

  mutable std::mutex write_mutex_;
  Retired replaced_;                   // contents that a snapshot has taken the place of
  std::unique_ptr<Contents> current_;  // the writer's; what readers see of it:
  std::atomic<const Contents*> contents_;
  std::atomic<int64_t> revision_{1}, compact_revision_{-1};
  std::atomic<uint64_t> cluster_id_{0}, member_id_{0}, raft_term_{0};
  std::atomic<uint64_t> records_{0}, record_bytes_{0}, live_keys_{0},
      leases_{0};  // written under the lock, read without
  Lessor lessor_;
  std::set<std::pair<uint64_t, uint64_t>> alarms_;
  uint64_t compact_position_ = 0;
  bool compact_pending_ = false;
  int pictures_ = 0;
  std::condition_variable no_pictures_;
};

}  // namespace fastkv
