#include "db/replica.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/coding.h"
#include "db/db.h"
#include "db/log_use.h"

namespace fastkv {
namespace {

constexpr size_t kBatchHeaderBytes = 16;  // origin, sequence

bool IsBatch(std::string_view batch) {
  return ForEachCommand(batch, [](const Command& command) { return IsCommandTag(command.tag); });
}

Status NoLog() { return {Code::kNotFound, "a store in memory has no log"}; }
Status Alone() { return {Code::kReadOnly, "the member is alone: what it applies comes through commits"}; }

}  // namespace

// -- opening

bool Replica::Replay(const LogEntry& entry, bool committed) {
  if (entry.kind == EntryKind::kConfChange) {
    conf_changes_.push_back(entry.index);
    last_change_ = entry.index;
    replayed_all_ = false;  // what it means only the node knows: it applies the rest
  }
  if (committed) state_.commit = entry.index;
  replayed_all_ = replayed_all_ && committed;
  return replayed_all_;
}

void Replica::Opened(const HardState& found) {
  written_ = found;
  state_.commit = std::max({state_.commit, found.commit, db_->applied_index()});
  state_.alone = found.alone;
  state_.term = found.term;
  state_.vote = found.vote;
  if (db_->log_ == nullptr) return;
  state_.commit = std::min(state_.commit, db_->log_->last_index());
  // A write that was torn may have left entries of a term without the hard state behind them: nothing was promised in
  // it.
  if (const uint64_t last_term = db_->log_->last_term(); last_term > state_.term) {
    state_.term = last_term;
    state_.vote = 0;
  }
}

void Replica::Closing() {
  const std::lock_guard lock(append_mutex_);
  HardState state = state_;
  state.commit = std::max(state.commit, db_->applied_index());
  if (state == written_) return;
  // It is only a help: the next leader says the same.
  if (db_->log_->AppendHardState(state).ok()) state_ = written_ = state;
}

// -- the log

Status Replica::Append(std::span<const LogEntry> entries, const HardState* hard_state, bool alone) {
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (db_->log_ == nullptr) return NoLog();
  for (const LogEntry& entry : entries) {
    if (entry.kind == EntryKind::kNormal && !IsBatch(entry.batch)) {
      return {Code::kMalformed, "entry " + std::to_string(entry.index) + " is not a batch of commands"};
    }
  }
  try {
    const std::lock_guard lock(append_mutex_);
    if (alone_) return Alone();
    const uint64_t applied = db_->applied_index();
    if (!entries.empty()) {
      FASTKV_CHECK(entries.front().index > applied);
      while (!conf_changes_.empty() && conf_changes_.back() >= entries.front().index) conf_changes_.pop_back();
      for (const LogEntry& entry : entries) {
        if (entry.kind != EntryKind::kConfChange) continue;
        conf_changes_.push_back(entry.index);
        last_change_ = entry.index;
      }
    }
    while (!conf_changes_.empty() && conf_changes_.front() <= applied) conf_changes_.pop_front();

    HardState next = hard_state != nullptr ? *hard_state : state_;
    // Who votes is certain only while no change of it is under way.
    next.alone = alone && conf_changes_.empty();
    if (next.alone)
      next.commit = std::max(next.commit, entries.empty() ? db_->log_->last_index() : entries.back().index);
    const bool write = hard_state != nullptr || next != written_;
    const Status status = db_->log_->AppendGroup(entries, write ? &next : nullptr);
    if (status.code() == Code::kPoisoned) db_->Poison(status.message());
    if (status.ok()) state_ = written_ = next;
    return status;
  } catch (const InvariantBroken& broken) {
    return Broken(broken.what());
  } catch (const std::bad_alloc&) {
    return Broken("out of memory while writing");
  }
}

Status Replica::Sync() { return db_->Sync(); }

HardState Replica::state() const {
  const std::lock_guard lock(append_mutex_);
  HardState state = state_;
  if (alone_) state.commit = std::max(state.commit, db_->applied_index());
  return state;
}

// -- alone

Status Replica::SetAlone(bool alone) {
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  const std::lock_guard lock(apply_mutex_);
  try {
    return alone ? BecomeAlone() : EndAlone();
  } catch (const InvariantBroken& broken) {
    return Broken(broken.what());
  } catch (const std::bad_alloc&) {
    return Broken("out of memory while writing");
  }
}

Status Replica::BecomeAlone() {
  // Who opens the directory without Raft cannot carry out a change of membership: a checkpoint holds what came of it.
  if (uint64_t index = 0; db_->log_ != nullptr && last_change_ > db_->checkpoint_index_.load()) {
    FASTKV_RETURN_IF_ERROR(db_->WriteCheckpoint(&index));
  }
  const std::lock_guard append_lock(append_mutex_);
  const uint64_t applied = db_->applied_index();
  if (!alone_ && db_->log_ != nullptr && db_->log_->last_index() != applied) {
    return {Code::kReadOnly, "entries " + std::to_string(applied + 1) + " to " +
                                 std::to_string(db_->log_->last_index()) +
                                 " are not applied yet: only who has applied all it holds may be alone"};
  }
  HardState next = state_;
  next.term = std::max({state_.term, db_->store_.raft_term(), db_->term()});
  if (next.term > state_.term || next.vote == 0) next.vote = db_->store_.member_id();
  next.commit = std::max(state_.commit, applied);
  next.alone = true;
  // How far the commits have come since is no reason to write it again.
  HardState said = written_;
  said.commit = next.commit;
  if (said != next) FASTKV_RETURN_IF_ERROR(WriteState(next));
  state_ = next;
  alone_ = true;
  conf_changes_.clear();
  db_->term_.store(next.term);
  const std::lock_guard queue_lock(db_->queue_mutex_);
  db_->direct_ = true;
  return {};
}

Status Replica::EndAlone() {
  if (!alone_) return {};
  {
    std::unique_lock lock(db_->queue_mutex_);
    db_->direct_ = false;
    db_->idle_.wait(lock, [this] { return !db_->leading_ && db_->queue_.empty(); });
    if (!db_->poisoned_.empty()) return {Code::kPoisoned, db_->poisoned_};
  }
  const std::lock_guard append_lock(append_mutex_);
  HardState next = state_;
  next.commit = std::max(state_.commit, db_->applied_index());
  next.alone = false;
  if (const Status status = WriteState(next); !status.ok()) {
    const std::lock_guard queue_lock(db_->queue_mutex_);
    db_->direct_ = true;
    return status;
  }
  state_ = next;
  alone_ = false;
  return {};
}

// REQUIRES: append_mutex_.
Status Replica::WriteState(const HardState& state) {
  if (db_->log_ == nullptr) return {};
  const Status status = db_->log_->AppendHardState(state);
  if (status.code() == Code::kPoisoned) db_->Poison(status.message());
  if (status.ok()) written_ = state;
  return status;
}

// -- reading the log

uint64_t Replica::first_index() const {
  const Db::LogUse use(db_, Db::LogUse::kRead);
  if (!use.status().ok() || db_->log_ == nullptr) return 1;
  const uint64_t first = db_->log_->first_index();
  uint64_t term = 0;
  const bool term_is_known = first == 1 || db_->log_->Term(first - 1, &term).ok();
  return term_is_known ? first : first + 1;
}

uint64_t Replica::last_index() const {
  const Db::LogUse use(db_, Db::LogUse::kRead);
  return !use.status().ok() || db_->log_ == nullptr ? db_->applied_index() : db_->log_->last_index();
}

Status Replica::Term(uint64_t index, uint64_t* term) const {
  const Db::LogUse use(db_, Db::LogUse::kRead);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (db_->log_ == nullptr) return NoLog();
  if (index > 0) return db_->log_->Term(index, term);
  *term = 0;
  return {};
}

Status Replica::Entries(uint64_t low, uint64_t high, uint64_t bytes_max, std::vector<Log::OwnedEntry>* out) const {
  const Db::LogUse use(db_, Db::LogUse::kRead);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (db_->log_ == nullptr) return NoLog();
  out->clear();
  uint64_t bytes = 0;
  std::vector<Log::OwnedEntry> read;
  while (low < high) {
    read.clear();
    FASTKV_RETURN_IF_ERROR(db_->log_->Read(low, bytes_max - bytes, &read));
    for (Log::OwnedEntry& entry : read) {
      if (entry.index == high) return {};
      if (!out->empty() && entry.batch.size() > bytes_max - bytes) return {};
      bytes += std::min<uint64_t>(entry.batch.size(), bytes_max - bytes);
      out->push_back(std::move(entry));
      ++low;
    }
  }
  return {};
}

// -- applying

Status Replica::Apply(std::span<const LogEntry> entries, const std::string_view* membership,
                      std::vector<Answers>* answers) {
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  const std::lock_guard lock(apply_mutex_);
  try {
    return ApplyEntries(entries, membership, answers);
  } catch (const InvariantBroken& broken) {
    return Broken(broken.what());
  } catch (const std::bad_alloc&) {
    return Broken("out of memory while applying");
  }
}

Status Replica::ApplyEntries(std::span<const LogEntry> entries, const std::string_view* membership,
                             std::vector<Answers>* answers) {
  if (alone_) return Alone();
  FASTKV_CHECK(!db_->applying_);
  for (const LogEntry& entry : entries) {
    FASTKV_CHECK(entry.index == db_->applied_index() + 1);
    if (db_->log_ != nullptr) {
      uint64_t term = 0;
      FASTKV_CHECK(db_->log_->Term(entry.index, &term).ok() && term == entry.term);
    }
    const bool last = &entry == &entries.back();
    FASTKV_RETURN_IF_ERROR(ApplyOne(entry, last ? membership : nullptr, answers));
  }
  return {};
}

Status Replica::ApplyOne(const LogEntry& entry, const std::string_view* membership, std::vector<Answers>* answers) {
  ByteReader in(entry.batch);
  uint64_t origin = 0, sequence = 0;
  const bool own = in.U64(&origin) && in.U64(&sequence) && origin == db_->store_.member_id();
  bool wanted = false;
  if (own) {
    const std::lock_guard lock(waiting_mutex_);
    wanted = waiting_.contains(sequence);
  }
  std::vector<CommandResult> results;
  Execute(entry, wanted, membership, &results);
  db_->batches_.fetch_add(1, std::memory_order_relaxed);
  const int64_t revision = db_->store_.revision();
  db_->hub_.Sweep(revision);
  db_->swept_.store(revision, std::memory_order_release);
  if (!followed_.empty()) TellFollower(own ? sequence : 0, wanted, results);
  if (wanted) {
    ApplyObserver* observer = nullptr;
    {
      // Only now: what is taken out is also told, whatever goes wrong above.
      const std::lock_guard lock(waiting_mutex_);
      const auto found = waiting_.find(sequence);
      wanted = found != waiting_.end();
      if (wanted) observer = found->second;
      if (wanted) waiting_.erase(found);
    }
    if (observer != nullptr) {
      observer->Applied(sequence, std::move(results));
    } else if (wanted) {
      answers->push_back({sequence, std::move(results)});
    }
  }
  db_->batch_bytes_ = entry.batch.size();
  db_->MaybeStartCheckpoint();
  return {};
}

void Replica::Execute(const LogEntry& entry, bool wanted, const std::string_view* membership,
                      std::vector<CommandResult>* results) {
  Store& store = db_->store_;
  const auto lock = store.WriteLock();
  db_->applying_ = true;
  followed_.clear();
  if (entry.kind == EntryKind::kNormal) {
    uint64_t commands = 0;
    const bool whole = ForEachCommand(entry.batch, [&](const Command& command) {
      FASTKV_CHECK(IsCommandTag(command.tag));
      const uint64_t place = commands++;
      const bool followed = command.tag >= kTagCompaction;
      if (followed) followed_.push_back({place, command.tag, command.payload, Code::kOk, {}});
      if (!wanted && !followed) {
        unread_response_.clear();
        store.Apply(command.tag, command.payload, &unread_response_);
        return true;
      }
      CommandResult& result = results->emplace_back();
      result.code = store.Apply(command.tag, command.payload, &result.response);
      result.revision = store.revision();
      if (result.code != Code::kOk) result.response.clear();
      return true;
    });
    FASTKV_CHECK(whole);
    db_->commands_.fetch_add(commands, std::memory_order_relaxed);
  }
  if (membership != nullptr) {
    const std::lock_guard meta_lock(db_->meta_mutex_);
    db_->membership_ = *membership;
  }
  db_->applied_index_.store(entry.index, std::memory_order_release);
  db_->term_.store(std::max(entry.term, db_->term_.load()));
  db_->applying_ = false;
}

void Replica::TellFollower(uint64_t sequence, bool wanted, const std::vector<CommandResult>& results) {
  const std::lock_guard lock(follower_mutex_);
  if (follower_ == nullptr) return;
  for (size_t i = 0; i < followed_.size(); ++i) {
    const CommandResult& result = results[wanted ? followed_[i].place : i];
    followed_[i].code = result.code;
    followed_[i].response = result.response;
  }
  follower_->Followed(sequence, followed_);
}

Status Replica::Broken(const char* reason) { return db_->Broken(reason); }

void Replica::Expect(uint64_t sequence, ApplyObserver* observer) {
  const std::lock_guard lock(waiting_mutex_);
  waiting_[sequence] = observer;
}

bool Replica::Forget(uint64_t sequence) {
  const std::lock_guard lock(waiting_mutex_);
  return waiting_.erase(sequence) > 0;
}

void Replica::SetFollower(ApplyFollower* follower) {
  const std::lock_guard lock(follower_mutex_);
  follower_ = follower;
}

std::string Replica::membership() const {
  const std::lock_guard lock(db_->meta_mutex_);
  return db_->membership_;
}

Status Replica::SetMembership(std::string_view membership) {
  const Db::LogUse use(db_);
  FASTKV_RETURN_IF_ERROR(use.status());
  const std::lock_guard lock(apply_mutex_);
  {
    const auto store_lock = db_->store_.WriteLock();
    const std::lock_guard meta_lock(db_->meta_mutex_);
    db_->membership_ = membership;
  }
  uint64_t index = 0;
  return db_->WriteCheckpoint(&index, /*again=*/true);
}

}  // namespace fastkv
