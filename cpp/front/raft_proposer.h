// The way of a batch through Raft, which Python drives: taken when the node is ready for the next entry, answered when
// it is applied, or when its fate is an error.
//
//   Committer (gathers) --Take--> sequence, data --Python: propose, persist, send, apply--> Applied --> BatchSink
//                                      `----- Settle(code): lost, uncertain, given up -----------^
//
// Invariants:
// - batches are taken in the order of submission; any number of them is open: taken, and neither applied nor settled.
// - each is Done exactly once: by Applied or by Settle, whichever is first.
// - what is open counts among what waits (committer.h).
// Thread safety: every method from any thread. The sink is called from the thread that applies, or from Settle's.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "db/backend.h"
#include "front/committer.h"
#include "front/proposer.h"

namespace fastkv::front {

class RaftProposer final : private ApplyObserver {
 public:
  // origin: this member's id.
  RaftProposer(Backend* backend, Committer* committer, BatchSink* sink, uint64_t origin)
      : backend_(backend), committer_(committer), sink_(sink), origin_(origin) {}
  ~RaftProposer() override { GiveUp(Code::kStopped); }

  // Batches are numbered from first_sequence on. gathered: as Committer::SetPulled.
  void Begin(uint64_t first_sequence, std::function<void()> gathered);

  struct Proposal {
    uint64_t sequence = 0;  // 0: nothing waits
    std::string data;       // of the entry: origin, sequence, commands (db/batch.h)
  };
  // Closes what has gathered into one batch of about bytes_max, and expects it to be applied.
  Proposal Take(size_t bytes_max);
  // Answers every asker of an open batch with that error. False: it is not open (any more).
  bool Settle(uint64_t sequence, Code code) { return SettleOne(sequence, code, /*stopping=*/false); }
  // Nothing is taken any more. Settles everything that is open or has gathered; on return nothing is being answered.
  void GiveUp(Code code);

  // As Committer::Overdue, of all that is open too.
  std::vector<Committer::OverdueCall> Overdue(int64_t before_ns);

  // For each of these applied commands of the batch Python's token, or 0. An open batch cannot be settled from now on:
  // Applied comes.
  std::vector<uint64_t> Tokens(uint64_t sequence, std::span<const FollowedCommand> commands);
  size_t open() const;

 private:
  void Applied(uint64_t sequence, std::vector<CommandResult> results) override;
  // Null: it is not open. REQUIRES: mutex_.
  std::unique_ptr<Batch> Close(uint64_t sequence);
  bool SettleOne(uint64_t sequence, Code code, bool stopping);
  void Finish(std::unique_ptr<Batch> batch);  // REQUIRES: not mutex_

  Backend* const backend_;
  Committer* const committer_;
  BatchSink* const sink_;
  const uint64_t origin_;

  mutable std::mutex mutex_;  // before the committer's and the store's
  std::condition_variable answered_;
  uint64_t next_sequence_ = 0;
  std::map<uint64_t, std::unique_ptr<Batch>> open_;
  size_t answering_ = 0;  // batches that are closed and not yet Done
  bool given_up_ = false;
};

}  // namespace fastkv::front
