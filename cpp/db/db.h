// One store with its directory: recovery, the write path, checkpoints. What the Cython door and the C++ tests open.
//
//   Commit --> queue --+  the first caller leads: takes all that wait as one batch
//   Commit --> queue --+--> log.Append --> log.Sync --> store.Apply --> hub.Sweep --> wakes the callers, each with its
//   answer Commit --> queue --+  an uncontended caller does it all itself: no hand-over, no wake-up
//
// Invariants:
// - a batch is applied only once it is durable (sync) or safe from the death of the process (no sync); in log order.
// - applied_index is the index of the last applied batch, and a checkpoint's index is that of the state in it.
// - a failed sync or a broken invariant poisons: no more writes, reads go on.
// Thread safety: every method from any thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/env.h"
#include "base/status.h"
#include "db/batch.h"
#include "db/command_result.h"
#include "log/checkpoint.h"
#include "log/directory.h"
#include "log/log.h"
#include "mvcc/store.h"
#include "watch/hub.h"

namespace fastkv {

struct DbOptions {  // engine.py, Options
  bool sync = true;
  bool readonly = false;
  uint64_t checkpoint_bytes = 64 << 20;
  bool checkpoint_on_close = true;
  Limits limits;
  uint64_t segment_bytes_first = 1 << 20;
  uint64_t segment_bytes_max = 64 << 20;
  bool replicated = false;  // replica.h: entries come from Raft, Commit is refused unless it is alone
  uint64_t snapshot_count = 10'000;
  uint64_t snapshot_catchup_entries = 5'000;
  std::function<void(const std::string&)> log;  // one line; from any thread
  Env* env = nullptr;                           // null: Env::Posix()
};

class Replica;

class Db {
 public:
  // path "": in memory.
  static Status Open(const std::string& path, DbOptions options, std::unique_ptr<Db>* db);
  ~Db();  // without Close: as if the process had died here, but for the threads
  Db(const Db&) = delete;

  Store& store() { return store_; }
  WatchHub& hub() { return hub_; }
  Replica* replica() { return replica_.get(); }  // null unless options.replicated

  // One batch. A client's error is in the command's result; the Status is the world's.
  Status Commit(std::span<const Command> commands, std::vector<CommandResult>* results);
  Status CommitOne(uint64_t tag, std::string_view payload, CommandResult* result);
  // For who gathers batches itself. REQUIRES: Validate said kOk to each command; as many results as commands.
  Status CommitValidated(std::span<const Command> commands, std::span<CommandResult> results);
  Status Put(std::string_view key, std::string_view value, int64_t lease, CommandResult* result);

  const Limits& limits() const { return options_.limits; }
  Code ReadTxn(std::string_view request, bool* reads_only, std::string* response) {
    return store_.ReadTxn(request, options_.limits, reads_only, response);
  }

  void SetIdentity(uint64_t cluster_id, uint64_t member_id, uint64_t raft_term);
  std::string ReadMeta() const;
  Status WriteMeta(std::string_view meta);
  Status Sync();
  Status Checkpoint(uint64_t* index);
  bool CompactStep(size_t revisions_max);
  Status Close();

  uint64_t applied_index() const { return applied_index_.load(std::memory_order_acquire); }
  uint64_t term() const { return term_.load(std::memory_order_acquire); }
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  void Check(std::vector<std::string>* problems) const { store_.Check(problems); }

  struct Stats {
    Store::Stats store;
    uint64_t applied_index, last_index, term, watchers, log_bytes, checkpoint_bytes, checkpoint_index, syncs, batches,
        commands;
    TimeHistogram sync_times;
  };
  Stats GetStats() const;

 private:
  friend class Replica;
  struct Waiter;
  struct ThreadRecent;
  class LogUse;

  Db(std::string path, DbOptions options);
  Status Recover();
  Status ReplayEntry(const LogEntry& entry, bool apply);
  void RemoveCompacted();

  static ThreadRecent* CurrentThread();
  Status CommitChecked(Waiter* waiter);
  void AwaitReturning(std::unique_lock<std::mutex>* lock);
  void AwaitLead(Waiter* waiter, std::unique_lock<std::mutex>* lock);
  void Lead(std::span<Waiter* const> group);
  Status Broken(const char* reason);
  Status WriteBatch(std::span<Waiter* const> group, uint64_t index);
  void ApplyGroup(std::span<Waiter* const> group, uint64_t index);
  void Poison(const std::string& reason);
  Status Writable() const;  // REQUIRES: queue_mutex_
  bool Syncs() const { return log_ != nullptr && options_.sync; }
  Status CommitOne(uint64_t tag, std::string_view payload, bool wants_response, CommandResult* result);

  // db_checkpoint.cc
  Status WriteCheckpoint(uint64_t* index, bool again = false);
  Status Prune(uint64_t newest_index);
  void BackgroundLoop();
  void MaybeStartCheckpoint();
  void StartCheckpoint(bool again);

  void Log_(const std::string& line) const;

  const std::string path_;
  const DbOptions options_;
  Env* const env_;
  std::unique_ptr<DataDirectory> directory_;
  std::unique_ptr<class Log> log_;  // null: in memory or readonly
  Store store_;
  WatchHub hub_{&store_};
  std::unique_ptr<Replica> replica_;

  mutable std::mutex queue_mutex_;  // direct_, queue_, leading_, log_users_, poisoned_
  bool direct_;                     // batches come through Commit: not in a replica, unless it is alone
  std::deque<Waiter*> queue_;
  bool leading_ = false;
  uint64_t group_number_ = 0;
  size_t group_size_ = 0;
  int log_users_ = 0;  // calls beside the leader's that use log_
  std::condition_variable idle_;
  std::string poisoned_;

  // The leader's (one at a time).
  std::string batch_, unread_response_;
  size_t batch_bytes_ = 0;
  bool applying_ = false;  // the store's write lock guards it; it stays true if Apply throws: the state is half changed
  std::atomic<int64_t> swept_{0};  // watchers have been matched up to here: what they may still need is not removed
  std::atomic<uint64_t> applied_index_{0}, term_{1};
  std::atomic<uint64_t> batches_{0}, commands_{0};
  std::atomic<bool> closed_{false};

  std::mutex checkpoint_mutex_;  // one checkpoint at a time
  std::atomic<bool> give_up_checkpoint_{false}, superseded_{false};
  uint64_t checkpoint_term_ = 0;
  std::atomic<uint64_t> checkpoint_index_{0}, checkpoint_size_{0};
  std::vector<uint64_t> damaged_checkpoints_;
  uint64_t found_last_index_ = 0;  // of the log at open

  mutable std::mutex meta_mutex_;  // taken last
  std::string meta_;
  std::string membership_;  // as of applied_index_; written under the store's write lock, too
  struct Sendable {         // the newest checkpoint, if other members may have it
    bool good = false;
    uint64_t index = 0, term = 0;
    std::string membership;
  };
  Sendable sendable_;

  std::mutex background_mutex_;
  std::condition_variable background_wake_;
  bool checkpoint_wanted_ = false, checkpoint_again_ = false, stopping_ = false;
  std::thread background_;
};

}  // namespace fastkv
