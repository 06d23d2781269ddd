// Gathers writes into batches. Python's server/committer.py in C++, fed by whole turns.
//
//   io thread:  turn [p p p]   turn [p]   turn [p p]            one lock a turn
//   committer:  [ batch 1: 3 ........ sync ][ batch 2: 3 ...... ][ ...
//
// While a batch is synced the next one gathers, so batches grow with the load. A turn that has next to nothing to
// write, while nobody is committing, commits for itself: no thread is woken, and the answer leaves with the same turn.
// Not so where the disk is slow: there a hand-over costs nothing beside the sync, and whatever else comes would wait
// for it.
//
// After SetPulled nobody commits here: who consumes the batches (raft_proposer.h) Takes them, any number at a time, and
// says of each that it is Closed.
//
// Invariants:
// - batches are proposed, or taken, in the order of submission; they are proposed one at a time.
// - every write submitted is Done exactly once, also when the commit failed; after Stop nothing more is accepted.
// - what waits, batches that were taken and are not closed included, is bounded: beyond, Submit refuses.
// Thread safety: every method from any thread. The sink is called from the committer's thread or a submitter's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "front/proposer.h"

namespace fastkv::front {

struct CommitterOptions {
  size_t batch_bytes_max = 8 << 20;
  int64_t at_once_ns_max = 500'000;  // if the last batch took longer, no thread but the committer's waits for the next
  size_t waiting_writes_max = 200'000;
  size_t waiting_bytes_max = 256 << 20;
};

class Committer : private BatchSink {
 public:
  enum class Taken { kYes, kFull, kStopped };
  struct OverdueCall {
    IoThread* thread = nullptr;
    uint64_t call_id = 0;
    int64_t began_ns = 0;
  };

  // sink: what follows a batch. on_death: the thread has ended in another way than by Stop.
  Committer(Proposer* proposer, CommitterOptions options, BatchSink* sink,
            std::function<void(const std::string&)> on_death);
  ~Committer() override;

  void Start();
  // The group is taken over if the answer is kYes. at_once: commit it in this thread if nothing is before it; true is
  // then said once it is done.
  Taken Submit(WriteGroup* group, bool at_once);
  // Commits what has been submitted, then ends the thread; false if that takes longer. Of a pulled one: until what was
  // submitted has been taken and closed.
  bool Stop(int64_t timeout_ms);

  // Calls whose writes have waited since before `before_ns`, each once: they are answered without a result, which may
  // still come. *from_ns: those that began earlier have been named before. Batches that were taken are not looked at:
  // their owner does it, with AddOverdue.
  std::vector<OverdueCall> Overdue(int64_t before_ns, int64_t* from_ns = nullptr);
  static void AddOverdue(const WriteGroup& group, int64_t from_ns, int64_t before_ns, std::vector<OverdueCall>* calls);

  // From now on batches are pulled; returns when none is being committed. gathered: called when there is something to
  // take, once until the next Take; from any thread.
  void SetPulled(std::function<void()> gathered);
  // The next batch, null if nothing waits. REQUIRES: SetPulled.
  std::unique_ptr<Batch> Take(size_t bytes_max);
  // A batch of so much has been answered.
  void Closed(size_t writes, size_t bytes);

  uint64_t at_once_count() const { return at_once_count_.load(std::memory_order_relaxed); }

 private:
  void Run();
  // Of what stands in front of the queue. REQUIRES: mutex_.
  std::unique_ptr<Batch> MakeBatch(size_t bytes_max);
  std::unique_ptr<Batch> NextToCommit();  // REQUIRES: mutex_, !busy_
  void Done(std::unique_ptr<Batch> batch) override;

  Proposer* const proposer_;
  const CommitterOptions options_;
  BatchSink* const sink_;
  const std::function<void(const std::string&)> on_death_;

  std::mutex mutex_;
  std::condition_variable wake_, ended_, idle_;
  std::deque<WriteGroup> queue_;
  size_t waiting_writes_ = 0, waiting_bytes_ = 0;  // in the queue, or taken and not closed
  std::function<void()> gathered_;                 // not empty: batches are pulled
  bool told_ = false;                              // gathered_ has been called since the last Take
  bool busy_ = false;                              // a batch has been proposed and is not done
  const Batch* inflight_ = nullptr;                // it, until its results are there
  int64_t took_ns_ = 0;                            // the last batch
  bool stopping_ = false, running_ = false;
  int64_t overdue_until_ns_ = 0;  // what began before has been named by Overdue

  std::atomic<uint64_t> at_once_count_{0};
  std::thread thread_;
};

}  // namespace fastkv::front
