// Batches of writes, and who makes them durable and applies them: where Raft will stand.
//
//   Committer --Propose(batch)--> Proposer --log, sync, apply--> BatchSink::Done(batch with its results)
//
// Invariants: every batch proposed is Done exactly once, in the order of proposing. The direct proposer, of a member
// that is alone, calls Done before Propose returns; another may do so later, from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "db/backend.h"
#include "front/call.h"

namespace fastkv::front {

// One command and who waits for its result.
struct Write {
  enum Asker : uint8_t {
    kCall,     // the call `asker` of the group's thread
    kOutside,  // Python; `asker` is its token
    kNobody,
  };
  uint64_t tag = 0;
  size_t offset = 0, size = 0;  // of the payload, in the group's bytes
  uint64_t asker = 0;
  Asker from = kNobody;
  uint8_t method = 0;      // for the metrics
  bool id_chosen = false;  // a LeaseGrant whose id is ours: if it exists, another is tried
};

// The writes of one turn of one IoThread, or of Python.
struct WriteGroup {
  IoThread* thread = nullptr;  // null: Python
  int64_t began_ns = 0;
  std::string bytes;
  std::vector<Write> writes;

  bool empty() const { return writes.empty(); }
  std::string_view payload(const Write& write) const {
    return std::string_view(bytes).substr(write.offset, write.size);
  }
  // The payload is copied: once, from the transport's buffer.
  void Add(Write write, std::string_view payload) {
    write.offset = bytes.size();
    write.size = payload.size();
    bytes.append(payload);
    writes.push_back(write);
  }
  void AddOutside(uint64_t token, uint64_t tag, std::string_view payload) {
    Write write;
    write.tag = tag;
    write.asker = token;
    write.from = Write::kOutside;
    Add(write, payload);
  }
};

struct Batch {
  std::vector<WriteGroup> groups;
  // One for each write of each group, in order; the payloads are views into the groups.
  std::vector<Command> commands;
  std::vector<CommandResult> results;  // valid if status is OK
  Status status;                       // the world's
  // What becomes of it in a cluster, if that is an error: the askers' answer. The batch may have been applied, or not.
  Code settled = Code::kOk;
  uint64_t sequence = 0;  // 0: it has not gone through Raft
  bool followed = false;  // the results of commands that are followed have been told (state_follower.h)
  size_t bytes = 0;       // of the payloads
  int64_t took_ns = 0;
};

class BatchSink {
 public:
  virtual ~BatchSink() = default;
  virtual void Done(std::unique_ptr<Batch> batch) = 0;
};

class Proposer {
 public:
  virtual ~Proposer() = default;
  virtual void Propose(std::unique_ptr<Batch> batch, BatchSink* sink) = 0;
};

// A member that is alone: one record, one sync, one apply, in the calling thread.
class DirectProposer final : public Proposer {
 public:
  explicit DirectProposer(Backend* backend) : backend_(backend) {}
  void Propose(std::unique_ptr<Batch> batch, BatchSink* sink) override;

 private:
  Backend* const backend_;
};

// CLOCK_MONOTONIC.
int64_t NowNs();

}  // namespace fastkv::front
