#include "db/db.h"

#include <algorithm>
#include <new>
#include <optional>
#include <utility>

#include "base/check.h"
#include "db/log_use.h"
#include "db/replica.h"
#include "db/state_file.h"

namespace fastkv {
namespace {

constexpr size_t kGroupBytesMax = 16 << 20;  // of commands in one batch; a larger single command is a batch of its own
constexpr uint64_t kCleanTailBytes = 16 << 20;  // a longer log tail gets a checkpoint at Close
constexpr size_t kCompactSlice = 128;           // revisions looked at under the write lock: some 10 us, 100 if all go
constexpr uint64_t kReturnMicros = 50;          // a fraction of a sync

}  // namespace

// The group that a thread was in last. Written under queue_mutex_ while the thread waits.
struct Db::ThreadRecent {
  const Db* db = nullptr;
  uint64_t group = 0;
};

// A caller of Commit, on its stack, while its commands are on their way.
struct Db::Waiter {
  std::span<const Command> commands;
  std::span<CommandResult> results;
  size_t bytes = 0;
  Status status;
  bool done = false;
  std::condition_variable wake;
  ThreadRecent* thread = nullptr;  // null: does not come back with the next command at once
  bool wants_responses = true;     // false: code and revision will do
};

Db::Db(std::string path, DbOptions options)
    : path_(std::move(path)),
      options_(std::move(options)),
      env_(options_.env ? options_.env : Env::Posix()),
      direct_(!options_.replicated) {
  if (options_.replicated) replica_ = std::make_unique<Replica>(this);
}

Db::~Db() {
  {
    const std::lock_guard lock(background_mutex_);
    stopping_ = true;
  }
  background_wake_.notify_all();
  if (background_.joinable()) background_.join();
  hub_.CloseAll();
}

void Db::Log_(const std::string& line) const {
  if (options_.log) options_.log(line);
}

// -- opening

Status Db::Open(const std::string& path, DbOptions options, std::unique_ptr<Db>* db) {
  if (options.replicated && options.readonly) {
    return {Code::kReadOnly, "a store that is opened readonly cannot be a replica"};
  }
  std::unique_ptr<Db> opened(new Db(path, std::move(options)));
  if (!path.empty()) FASTKV_RETURN_IF_ERROR(opened->Recover());
  opened->RemoveCompacted();
  opened->swept_ = opened->store_.revision();
  opened->hub_.Sweep(opened->swept_);
  if (opened->log_ != nullptr) opened->background_ = std::thread(&Db::BackgroundLoop, opened.get());
  *db = std::move(opened);
  return {};
}

Status Db::Recover() {
  FASTKV_RETURN_IF_ERROR(
      DataDirectory::Open(env_, path_, {options_.readonly, /*create_if_missing=*/!options_.readonly}, &directory_));
  auto warn = [this](const std::string& line) { Log_(line); };
  if (!options_.readonly)
    FASTKV_RETURN_IF_ERROR(RemoveUnfinishedCheckpoints(env_, directory_->checkpoint_dir(), /*received=*/true));
  NewestCheckpoint newest;
  FASTKV_RETURN_IF_ERROR(LoadNewestCheckpoint(env_, directory_->checkpoint_dir(), warn, &newest));
  LogStart start;
  start.reach_index = newest.reach_index;
  start.reach_reason = newest.reach_reason;
  damaged_checkpoints_ = newest.damaged;
  StateExtras extras;
  HardState hard_state;
  bool own_hard_state = false;
  if (newest.reader != nullptr) {
    FASTKV_RETURN_IF_ERROR(LoadState(*newest.reader, &store_, &extras));
    start.index = newest.reader->head().index;
    start.term = newest.reader->head().term;
    checkpoint_index_ = start.index;
    checkpoint_term_ = start.term;
    checkpoint_size_ = newest.reader->bytes();
    own_hard_state = newest.reader->has_hard_state();
    if (own_hard_state) hard_state = newest.reader->hard_state();
    sendable_ = {extras.meta.empty() && !own_hard_state && !extras.membership.empty(), start.index, start.term,
                 extras.membership};
  }
  applied_index_ = start.index;
  term_ = std::max<uint64_t>(1, start.term);
  newest.reader.reset();

  LogOptions log_options;
  log_options.sync = options_.sync;
  log_options.readonly = options_.readonly;
  log_options.segment_bytes_first = options_.segment_bytes_first;
  log_options.segment_bytes_max = options_.segment_bytes_max;
  log_options.warn = warn;
  LogRecovered recovered;
  std::unique_ptr<class Log> log;
  std::optional<Committed> committed;
  bool unknown_change = false;  // of the membership; what it means only the node knows
  const auto on_entry = [&](const LogEntry& entry) -> Status {
    if (!committed) {  // everything beside the entries has been read before the first is handed over
      if (recovered.has_hard_state) hard_state = recovered.hard_state;
      committed.emplace(recovered.has_hard_state || own_hard_state || !extras.membership.empty(), hard_state);
    }
    const bool covered = committed->Covers(entry);
    unknown_change = unknown_change || entry.kind == EntryKind::kConfChange;
    return ReplayEntry(entry, replica_ == nullptr ? covered : replica_->Replay(entry, covered));
  };
  FASTKV_RETURN_IF_ERROR(Log::Open(env_, directory_->log_dir(), log_options, start, on_entry, &recovered, &log));
  meta_ = recovered.has_meta ? recovered.meta : extras.meta;
  membership_ = extras.membership;
  if (recovered.has_hard_state) hard_state = recovered.hard_state;
  const bool member = recovered.has_hard_state || own_hard_state || !membership_.empty();
  found_last_index_ = log->last_index();
  if (options_.readonly) return {};
  log_ = std::move(log);
  if (replica_ == nullptr) {
    if (!member) return {};
    if (hard_state.alone && applied_index_ == log_->last_index() && !unknown_change) {
      term_ = std::max(term_.load(), hard_state.term);
      return {};
    }
    return {Code::kFormat, path_ +
                               " belongs to a member of a cluster, where Raft alone may write: start the node, or open "
                               "it readonly"};
  }
  // A replica's checkpoints leave out what is its own.
  if (!recovered.has_meta && !meta_.empty()) FASTKV_RETURN_IF_ERROR(log_->AppendMeta(meta_));
  if (!recovered.has_hard_state && own_hard_state) FASTKV_RETURN_IF_ERROR(log_->AppendHardState(hard_state));
  replica_->Opened(hard_state);
  return {};
}

// apply: else it is only looked at, because it is not known to be committed, or what is in front of it is not applied.
Status Db::ReplayEntry(const LogEntry& entry, bool apply) {
  const auto lock = store_.WriteLock();
  std::string response;
  Status status;
  const bool whole =
      entry.kind != EntryKind::kNormal || ForEachCommand(entry.batch, [&](const Command& command) {
        if (IsCommandTag(command.tag)) {
          response.clear();
          if (apply) store_.Apply(command.tag, command.payload, &response);
          return true;
        }
        status = {Code::kCorrupt, path_ + "/log: entry " + std::to_string(entry.index) + " has a command (tag " +
                                      std::to_string(command.tag) + ") that this version does not know"};
        return false;
      });
  if (!status.ok()) return status;
  if (!whole)
    return {Code::kCorrupt, path_ + "/log: entry " + std::to_string(entry.index) + " is not a batch of commands"};
  if (!apply) return {};
  applied_index_.store(entry.index, std::memory_order_release);
  if (entry.term > term_.load()) term_.store(entry.term);
  return {};
}

void Db::RemoveCompacted() {
  const auto lock = store_.WriteLock();
  while (!store_.CompactStep(SIZE_MAX)) {
  }
}

// -- writing

Status Db::Writable() const {
  if (closed_.load(std::memory_order_relaxed)) return {Code::kClosed, "the store is closed"};
  if (options_.readonly) return {Code::kReadOnly, "the store was opened readonly"};
  if (!poisoned_.empty()) return {Code::kPoisoned, poisoned_};
  return {};
}

void Db::Poison(const std::string& reason) {
  const std::string line = "no more writes until the store is opened again: " + reason;
  {
    const std::lock_guard lock(queue_mutex_);
    if (poisoned_.empty()) poisoned_ = line;
  }
  Log_(line);
}

Status Db::Commit(std::span<const Command> commands, std::vector<CommandResult>* results) {
  results->assign(commands.size(), {});
  // What needs no state to be refused is answered here and never logged.
  std::vector<Command> checked;
  std::vector<size_t> places;
  checked.reserve(commands.size());
  for (size_t i = 0; i < commands.size(); ++i) {
    (*results)[i].code = Validate(commands[i].tag, commands[i].payload, options_.limits);
    if ((*results)[i].code != Code::kOk) continue;
    checked.push_back(commands[i]);
    places.push_back(i);
  }
  if (checked.empty()) {
    const std::lock_guard lock(queue_mutex_);
    return Writable();
  }
  std::vector<CommandResult> made(checked.size());
  Waiter waiter;
  waiter.commands = checked;
  waiter.results = made;
  waiter.thread = CurrentThread();
  FASTKV_RETURN_IF_ERROR(CommitChecked(&waiter));
  for (size_t i = 0; i < places.size(); ++i) (*results)[places[i]] = std::move(made[i]);
  return {};
}

Status Db::CommitOne(uint64_t tag, std::string_view payload, CommandResult* result) {
  return CommitOne(tag, payload, /*wants_response=*/true, result);
}

Status Db::CommitOne(uint64_t tag, std::string_view payload, bool wants_response, CommandResult* result) {
  result->code = Validate(tag, payload, options_.limits);
  if (result->code != Code::kOk) {
    const std::lock_guard lock(queue_mutex_);
    return Writable();
  }
  const Command command{tag, payload};
  Waiter waiter;
  waiter.commands = std::span(&command, 1);
  waiter.results = std::span(result, 1);
  waiter.thread = CurrentThread();
  waiter.wants_responses = wants_response;
  return CommitChecked(&waiter);
}

Status Db::Put(std::string_view key, std::string_view value, int64_t lease, CommandResult* result) {
  if (key.size() > kPayloadBytesMax || value.size() > kPayloadBytesMax - key.size()) {  // before it is copied
    result->code = Code::kRequestTooLarge;
    const std::lock_guard lock(queue_mutex_);
    return Writable();
  }
  thread_local std::string payload;
  payload.clear();
  AppendBytes(&payload, 1, key);
  AppendBytes(&payload, 2, value);
  AppendNumber(&payload, 3, lease);
  Status status = CommitOne(kTagPut, payload, /*wants_response=*/false, result);
  if (payload.capacity() > kGroupBytesMax) std::string().swap(payload);
  return status;
}

// Callers of the group before, woken a moment ago, are on their way back with their next command. Waiting for them for
// a fraction of a sync puts them all into this one; without, two halves of the callers would take turns, each with a
// sync of its own.
void Db::AwaitReturning(std::unique_lock<std::mutex>* lock) {
  if (!Syncs()) return;
  size_t expected = group_size_;
  for (const Waiter* queued : queue_) {
    if (queued->thread == nullptr) return;
    if (queued->thread->db != this || queued->thread->group != group_number_) ++expected;
  }
  const uint64_t until = env_->NowMicros() + kReturnMicros;
  while (queue_.size() < expected && env_->NowMicros() < until) {
    lock->unlock();
    std::this_thread::yield();
    lock->lock();
  }
}

Db::ThreadRecent* Db::CurrentThread() {
  thread_local ThreadRecent recent;
  return &recent;
}

Status Db::CommitValidated(std::span<const Command> commands, std::span<CommandResult> results) {
  Waiter waiter;
  waiter.commands = commands;
  waiter.results = results;
  return CommitChecked(&waiter);
}

Status Db::CommitChecked(Waiter* waiter) {
  std::vector<Waiter*> gathered;
  std::span<Waiter* const> group(&waiter, 1);
  {
    std::unique_lock lock(queue_mutex_);
    FASTKV_RETURN_IF_ERROR(Writable());
    if (!direct_) return {Code::kReadOnly, "the store is a replica: what it applies comes through Raft"};
    if (leading_ || !queue_.empty() || Syncs()) {
      AwaitLead(waiter, &lock);
      if (waiter->done) return waiter->status;
      size_t bytes = 0;
      while (!queue_.empty() && (gathered.empty() || bytes + queue_.front()->bytes <= kGroupBytesMax)) {
        bytes += queue_.front()->bytes;
        gathered.push_back(queue_.front());
        queue_.pop_front();
      }
      group = gathered;
    }  // else nobody is there, and no sync to share: the shortest way
    leading_ = true;
  }
  Lead(group);
  std::unique_lock lock(queue_mutex_);
  leading_ = false;
  ++group_number_;
  group_size_ = group.size();
  for (Waiter* member : group) {
    if (member->thread != nullptr) *member->thread = {this, group_number_};
    member->done = true;
    if (member != waiter) member->wake.notify_one();
  }
  if (!queue_.empty()) {
    queue_.front()->wake.notify_one();
  } else {
    idle_.notify_all();
  }
  return waiter->status;
}

// Stands in the queue until the waiter's command has been committed by another (done) or it has become the next leader.
void Db::AwaitLead(Waiter* waiter, std::unique_lock<std::mutex>* lock) {
  for (const Command& command : waiter->commands) waiter->bytes += command.payload.size();
  queue_.push_back(waiter);
  while (!waiter->done && (leading_ || queue_.front() != waiter)) waiter->wake.wait(*lock);
  if (waiter->done) return;
  leading_ = true;
  AwaitReturning(lock);
}

// The batch of a group: log, sync, apply, sweep. Sets every member's status and results. Only one thread leads at a
// time.
void Db::Lead(std::span<Waiter* const> group) {
  const uint64_t index = applied_index_.load(std::memory_order_relaxed) + 1;
  Status status;
  {
    const std::lock_guard lock(queue_mutex_);  // poisoned while this group stood in the queue
    if (!poisoned_.empty()) status = {Code::kPoisoned, poisoned_};
  }
  try {
    if (status.ok()) status = WriteBatch(group, index);
    if (status.ok()) ApplyGroup(group, index);
  } catch (const InvariantBroken& broken) {
    status = Broken(broken.what());
  } catch (const std::bad_alloc&) {
    status = Broken("out of memory while writing");
  }
  for (Waiter* member : group) member->status = status;
  if (status.ok()) MaybeStartCheckpoint();
}

// The batch may be in the log, and half of it in memory: only opening again can tell what holds.
Status Db::Broken(const char* reason) {
  Poison(reason);
  swept_ = INT64_MAX;  // nobody is matched any more
  return {Code::kPoisoned, reason};
}

Status Db::WriteBatch(std::span<Waiter* const> group, uint64_t index) {
  if (log_ == nullptr) return {};
  batch_.clear();
  AppendBatchHeader(&batch_, /*origin=*/0, /*sequence=*/index);
  for (const Waiter* member : group) {
    for (const Command& command : member->commands) AppendCommand(&batch_, command);
  }
  batch_bytes_ = batch_.size();
  Status status = log_->Append(term_.load(std::memory_order_relaxed), index, batch_);
  if (status.code() == Code::kPoisoned) Poison(status.message());
  FASTKV_RETURN_IF_ERROR(status);
  if (batch_.capacity() > kGroupBytesMax) std::string().swap(batch_);
  if (!options_.sync) return {};
  status = log_->Sync();
  if (!status.ok()) Poison(status.message());
  return status;
}

void Db::ApplyGroup(std::span<Waiter* const> group, uint64_t index) {
  {
    const auto lock = store_.WriteLock();
    applying_ = true;
    for (Waiter* member : group) {
      for (size_t i = 0; i < member->commands.size(); ++i) {
        CommandResult& result = member->results[i];
        std::string* response = member->wants_responses ? &result.response : &unread_response_;
        response->clear();
        result.code = store_.Apply(member->commands[i].tag, member->commands[i].payload, response);
        result.revision = store_.revision();
        if (result.code != Code::kOk) result.response.clear();
      }
      commands_.fetch_add(member->commands.size(), std::memory_order_relaxed);
    }
    applied_index_.store(index, std::memory_order_release);
    applying_ = false;
  }
  batches_.fetch_add(1, std::memory_order_relaxed);
  const int64_t revision = store_.revision();
  hub_.Sweep(revision);
  swept_.store(revision, std::memory_order_release);
}

// -- the rest

void Db::SetIdentity(uint64_t cluster_id, uint64_t member_id, uint64_t raft_term) {
  store_.SetIdentity(cluster_id, member_id, raft_term);
}

std::string Db::ReadMeta() const {
  const std::lock_guard lock(meta_mutex_);
  return meta_;
}

Status Db::WriteMeta(std::string_view meta) {
  const LogUse use(this);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (log_ != nullptr) {
    FASTKV_RETURN_IF_ERROR(log_->AppendMeta(meta));
    if (Status status = log_->Sync(); !status.ok()) {
      Poison(status.message());
      return status;
    }
  }
  const std::lock_guard lock(meta_mutex_);
  meta_ = std::string(meta);
  return {};
}

Status Db::Sync() {
  const LogUse use(this);
  FASTKV_RETURN_IF_ERROR(use.status());
  if (log_ == nullptr) return {};
  Status status = log_->Sync();
  if (!status.ok()) Poison(status.message());
  return status;
}

bool Db::CompactStep(size_t revisions_max) {
  for (;;) {
    const size_t slice = std::min(revisions_max, kCompactSlice);
    {
      const auto lock = store_.WriteLock();
      if (applying_) return true;
      if (swept_.load(std::memory_order_acquire) < store_.compact_revision()) return false;
      if (store_.CompactStep(slice)) return true;
    }
    revisions_max -= slice;
    if (revisions_max == 0) return false;
    std::this_thread::yield();  // a writer may be waiting
  }
}

Status Db::Close() {
  {
    std::unique_lock lock(queue_mutex_);
    give_up_checkpoint_ = !options_.checkpoint_on_close;
    if (closed_.exchange(true)) return {};
    idle_.wait(lock, [this] { return !leading_ && queue_.empty() && log_users_ == 0; });
  }
  {
    const std::lock_guard lock(background_mutex_);
    stopping_ = true;
  }
  background_wake_.notify_all();
  if (background_.joinable()) background_.join();
  hub_.CloseAll();
  Status status;
  if (log_ != nullptr) {
    bool poisoned = false;
    {
      const std::lock_guard lock(queue_mutex_);
      poisoned = !poisoned_.empty();
    }
    // The log may know first, of a segment that could not be synced; who has not been told yet is told now.
    if (!poisoned) status = log_->poisoned();
    if (!poisoned && status.ok()) {
      const uint64_t tail_bytes_max = std::min(options_.checkpoint_bytes, kCleanTailBytes);
      if (options_.checkpoint_on_close && log_->BytesSince(checkpoint_index_.load()) > tail_bytes_max) {
        uint64_t index = 0;
        if (Status made = WriteCheckpoint(&index); !made.ok()) Log_("checkpoint not written: " + made.message());
      }
      if (replica_ != nullptr) replica_->Closing();
      status = log_->Close(applied_index_.load());
    }
    log_.reset();
  }
  directory_.reset();  // lets the lock go, last
  return status;
}

Db::Stats Db::GetStats() const {
  Stats stats{};
  stats.store = store_.GetStats();
  stats.applied_index = stats.last_index = applied_index();
  stats.term = term();
  stats.watchers = hub_.size();
  if (options_.readonly) stats.last_index = found_last_index_;
  const std::lock_guard lock(queue_mutex_);  // Close takes the log away
  if (!closed() && log_ != nullptr) {
    stats.last_index = log_->last_index();
    stats.log_bytes = log_->BytesSince(checkpoint_index_.load());
    const LogCounters counters = log_->counters();
    stats.syncs = counters.syncs;
    stats.sync_times = counters.sync_times;
  }
  stats.checkpoint_bytes = checkpoint_size_.load();
  stats.checkpoint_index = checkpoint_index_.load();
  stats.batches = batches_.load();
  stats.commands = commands_.load();
  return stats;
}

}  // namespace fastkv
