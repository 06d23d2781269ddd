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
// Invariants:
// - batches are proposed in the order of submission, one at a time.
// - every write submitted is Done exactly once, also when the commit failed; after Stop nothing more is accepted.
// - what waits is bounded: beyond, Submit refuses.
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

  // sink: what follows a batch. on_death: the thread has ended in another way than by Stop.
  Committer(Proposer* proposer, CommitterOptions options, BatchSink* sink,
            std::function<void(const std::string&)> on_death);
  ~Committer() override;

  void Start();
  // The group is taken over if the answer is kYes. at_once: commit it in this thread if nothing is before it; true is
  // then said once it is done.
  Taken Submit(WriteGroup* group, bool at_once);
  // Commits what has been submitted, then ends the thread; false if that takes longer.
  bool Stop(int64_t timeout_ms);

  // Calls whose writes have waited since before `before_ns`, each once: they are answered without a result, which may
  // still come.
  std::vector<std::pair<IoThread*, uint64_t>> Overdue(int64_t before_ns);

  uint64_t at_once_count() const { return at_once_count_.load(std::memory_order_relaxed); }

 private:
  void Run();
  std::unique_ptr<Batch> MakeBatch();  // of what stands in front of the queue. REQUIRES: mutex_; !busy_
  void Done(std::unique_ptr<Batch> batch) override;

  Proposer* const proposer_;
  const CommitterOptions options_;
  BatchSink* const sink_;
  const std::function<void(const std::string&)> on_death_;

  std::mutex mutex_;
  std::condition_variable wake_, ended_;
  std::deque<WriteGroup> queue_;
  size_t waiting_writes_ = 0, waiting_bytes_ = 0;
  bool busy_ = false;                // a batch has been proposed and is not done
  const Batch* inflight_ = nullptr;  // it, until its results are there
  int64_t took_ns_ = 0;              // the last batch
  bool stopping_ = false, running_ = false;
  int64_t overdue_until_ns_ = 0;  // what began before has been named by Overdue

  std::atomic<uint64_t> at_once_count_{0};
  std::thread thread_;
};

}  // namespace fastkv::front
