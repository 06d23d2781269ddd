// What the front end may ask of a store: pure virtual, because the two live in extension modules of their own and the
// front end's must not link the store a second time. `_core` hands out a Backend in a capsule.
//
// Requests and answers are the client's protobuf bytes. A broken invariant of the store and memory that has run out
// come back as Code::kPoisoned: no exception leaves. Thread safety: every method from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "db/apply_observer.h"
#include "db/batch.h"
#include "db/command_result.h"
#include "watch/watch_types.h"

namespace fastkv {

class Db;

class Backend {
 public:
  virtual ~Backend() = default;

  // -- reads; at the latest or the asked revision
  virtual Code Range(std::string_view request, std::string* response) = 0;
  // Range, if it is sure to take less than a fraction of a millisecond; else false, and nothing is answered.
  virtual bool RangeIfShort(std::string_view request, Code* code, std::string* response) = 0;
  virtual Code RangeChunk(std::string_view request, size_t bytes_max, std::string* response, std::string* next) = 0;
  virtual Code ReadTxn(std::string_view request, bool* reads_only, std::string* response) = 0;

  // -- writes
  virtual Code Validate(uint64_t tag, std::string_view payload) = 0;  // needs no state; before the log
  // One record, one sync, one apply; results[i] answers commands[i]. A client's error is in the command's result, the
  // Status is the world's. Blocks. REQUIRES: Validate said kOk to each command.
  virtual Status Commit(std::span<const Command> commands, std::span<CommandResult> results) = 0;
  // In a replica (replica.h), whose commands come back through Raft: the observer gets the results of this member's
  // batch `sequence` when it is applied. To be called before it is proposed; the observer outlives the expectation.
  virtual void ExpectApplied(uint64_t sequence, ApplyObserver* observer) = 0;
  // It will never be applied, or nobody waits any more. False: the observer has been called, or is being called now.
  virtual bool ForgetApplied(uint64_t sequence) = 0;
  // In a replica: told of every batch that is applied from now on; null: nobody is, and on return nobody is being told.
  virtual void SetFollower(ApplyFollower* follower) = 0;

  // -- watch: hub.h
  virtual uint64_t WatchAdd(WatchSpec spec) = 0;
  virtual void WatchCancel(uint64_t id) = 0;
  virtual WatchNews WatchTake(uint64_t id, size_t bytes_max, bool* more) = 0;  // TakeJoined
  virtual std::vector<uint64_t> WatchReady() = 0;
  virtual int64_t WatchProgress(uint64_t id) = 0;

  // -- state
  virtual int64_t revision() const = 0;
  virtual uint64_t memory_bytes() const = 0;  // as Stats::memory_bytes: what the quota is compared with
  virtual void AppendHeader(std::string* to, int64_t revision) const = 0;  // field 1 of a response: its ResponseHeader
};

// The store behind `db`, which outlives the result.
std::unique_ptr<Backend> MakeBackend(Db* db);

}  // namespace fastkv
