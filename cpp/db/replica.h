// The replicated mode of a Db: Raft decides elsewhere what the log holds and how far it is committed; here it is
// written, applied, and sent to others as a snapshot. One Replica belongs to one Db.
//
//   node:    Append(entries, hard state) ---- Sync() ----> send, persisted
//                                                Apply(committed entries) ----> answers, watchers, membership
//   leader:  OpenSnapshot() -> bytes ~~~~> ReceiveSnapshot() -> Write* -> Finish -> InstallSnapshot()   :follower
//   alone:   SetAlone(true) -> Db::Commit ... Db::Commit -> SetAlone(false)    without Raft: one entry a batch
//
// Invariants:
// - an entry is applied once, in order, and only as it stands in the log (same term); an applied entry is never cut.
// - applied_index, the state and the membership change together, under the store's write lock: a checkpoint holds all
//   three as of one index.
// - revisions never go back: a snapshot that is not ahead of the applied index is refused.
// - the newest hard state tells how much of the log is committed: see Committed.
// - either Raft appends and applies, or (alone) Db::Commit does.
// Thread safety: every method from any thread. Append and Sync never wait for Apply; Apply waits for neither.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/env.h"
#include "base/status.h"
#include "db/apply_observer.h"
#include "log/log.h"
#include "mvcc/store.h"

namespace fastkv {

class Db;
class SnapshotReader;
class SnapshotWriter;

// Walks the entries that a log holds at open, in order, and says which are committed as far as the log itself can tell.
class Committed {
 public:
  // member: the log was written under Raft; else all of it is committed.
  Committed(bool member, const HardState& state) : member_(member), state_(state) {}

  bool Covers(const LogEntry& entry) {
    const bool covers = !member_ || entry.index <= state_.commit ||
                        (state_.alone && !changing_ && entry.kind != EntryKind::kConfChange);
    changing_ = changing_ || !covers;
    return covers;
  }

 private:
  const bool member_;
  const HardState state_;
  bool changing_ = false;  // what follows needs votes of others
};

class Replica {
 public:
  explicit Replica(Db* db) : db_(db) {}

  // -- opening, by the Db
  bool Replay(const LogEntry& entry, bool committed);  // whether it is to be applied now
  void Opened(const HardState& found);
  void Closing();  // leaves what is known to be committed in the log

  // -- the log. Errors are the world's; those of the caller (a gap, a cut below what is applied) break an invariant.
  // One write. alone: this member is the only voter, so what is durable is committed.
  Status Append(std::span<const LogEntry> entries, const HardState* hard_state, bool alone);
  Status Sync();
  HardState state() const;
  // This member is the only voter, and it has applied all it holds: from now on Db::Commit appends and applies, each
  // batch an entry of the current term (the hard state's, or SetIdentity's where that is later; said again to raise
  // it), and Append, Apply and InstallSnapshot are refused with kReadOnly. The log says so once: a commit writes
  // nothing more than its entry. false: waits for commits under way and refuses later ones; the hard state covers all
  // of them. What fails changes nothing.
  Status SetAlone(bool alone);
  uint64_t first_index() const;  // the term of the entry before it is known, too
  uint64_t last_index() const;
  Status Term(uint64_t index, uint64_t* term) const;
  // [low, high), cut where more than bytes_max of batches would be returned; at least one.
  Status Entries(uint64_t low, uint64_t high, uint64_t bytes_max, std::vector<Log::OwnedEntry>* out) const;

  // -- applying
  struct Answers {
    uint64_t sequence = 0;
    std::vector<CommandResult> results;
  };
  // Entries that follow the applied index; *answers: of this member's batches that were expected without an observer.
  // membership: as of the last of them, unless null. Entries may stay valid in the caller's memory only.
  Status Apply(std::span<const LogEntry> entries, const std::string_view* membership, std::vector<Answers>* answers);
  // Results of this member's batch `sequence` are wanted, by the observer or (null) in Apply's answers. Before it is
  // proposed.
  void Expect(uint64_t sequence, ApplyObserver* observer);
  bool Forget(uint64_t sequence);  // false: it was not expected, or the observer has been called or is being called now
  // Told of every batch that is applied from now on; null: nobody is, and on return nobody is being told.
  void SetFollower(ApplyFollower* follower);

  std::string membership() const;
  // Not by an entry: the first membership, or one by force. Durable on return: it writes a checkpoint.
  Status SetMembership(std::string_view membership);

  // -- snapshots: replica_snapshot.cc
  // The newest checkpoint that may be sent; null: there is none, but one is being written now.
  Status OpenSnapshot(std::unique_ptr<SnapshotReader>* reader);
  Status ReceiveSnapshot(uint64_t index, uint64_t term, std::unique_ptr<SnapshotWriter>* writer);
  // Of a writer that is finished. It becomes the newest checkpoint, the log goes on behind it, and the state in memory
  // is replaced. kNotFound: it is not ahead of what is applied. After another error it may be tried again.
  Status InstallSnapshot(SnapshotWriter* writer);

 private:
  Status ApplyEntries(std::span<const LogEntry> entries, const std::string_view* membership,
                      std::vector<Answers>* answers);
  Status ApplyOne(const LogEntry& entry, const std::string_view* membership, std::vector<Answers>* answers);
  // results: of every command, if `wanted`; else of those that are followed, whose places are in followed_.
  void Execute(const LogEntry& entry, bool wanted, const std::string_view* membership,
               std::vector<CommandResult>* results);
  void TellFollower(uint64_t sequence, bool wanted, const std::vector<CommandResult>& results);
  Status InstallState(SnapshotWriter* writer);
  Status BecomeAlone();
  Status EndAlone();
  Status WriteState(const HardState& state);
  Status Broken(const char* reason);

  Db* const db_;

  mutable std::mutex append_mutex_;
  HardState state_;
  HardState written_;  // as the log has it: at open state_ may know more
  std::deque<uint64_t>
      conf_changes_;          // indexes of changes of membership in the log that were not applied when last seen
  uint64_t last_change_ = 0;  // the newest of them, also when it is applied
  bool alone_ = false;        // written under both mutexes: SetAlone

  std::mutex apply_mutex_;  // before everything else
  std::string unread_response_;
  std::vector<FollowedCommand> followed_;  // of the entry that is being applied
  bool replayed_all_ = true;               // while opening: no change of membership has been passed

  std::mutex waiting_mutex_;
  std::unordered_map<uint64_t, ApplyObserver*> waiting_;

  std::mutex follower_mutex_;  // held while it is told
  ApplyFollower* follower_ = nullptr;
};

// A checkpoint that stays readable as long as this object lives, even when it is pruned.
class SnapshotReader {
 public:
  uint64_t index() const { return index_; }
  uint64_t term() const { return term_; }
  uint64_t bytes() const { return bytes_; }
  const std::string& membership() const { return membership_; }
  Status Read(uint64_t offset, size_t length, std::string* out) const;  // less only at the end

 private:
  friend class Replica;
  SnapshotReader() = default;
  uint64_t index_ = 0, term_ = 0, bytes_ = 0;
  std::string membership_, path_;
  std::unique_ptr<ReadableFile> file_;
};

// A checkpoint that arrives from another member, in a file that nothing else knows. Hostile until Finish has said OK.
// Thread safety: one thread at a time.
class SnapshotWriter {
 public:
  ~SnapshotWriter();  // what was not installed is removed
  SnapshotWriter(const SnapshotWriter&) = delete;

  uint64_t bytes() const { return offset_; }
  uint64_t index() const { return index_; }
  Status Write(std::string_view bytes);
  // Syncs, verifies every byte and builds the state. kCorrupt: it is not what a member would send.
  Status Finish();
  bool finished() const { return loaded_ != nullptr; }
  const std::string& membership() const { return membership_; }

 private:
  friend class Replica;
  SnapshotWriter(Env* env, std::string path, uint64_t index, uint64_t term)
      : env_(env), path_(std::move(path)), index_(index), term_(term) {}
  Status Load();

  Env* const env_;
  const std::string path_;
  const uint64_t index_, term_;
  uint64_t offset_ = 0, unflushed_ = 0;
  std::unique_ptr<WritableFile> file_;
  std::unique_ptr<Store> loaded_;
  std::string membership_;
  bool renamed_ = false;
};

}  // namespace fastkv
