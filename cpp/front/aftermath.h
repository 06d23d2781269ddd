// What an applied batch means for everybody else, in this order: leases' time and the alarm, the callers, Python,
// watchers.
//
//   batch done --> StateFollower: leases' time, the alarm (in a cluster it has been told before)
//              --> answers: one Post for each group's IoThread, or at once in that thread itself
//              --> EventQueue: commands that the node follows (compaction, alarms), answers to Python's own
//              --> WatchRouter
//
// Invariants: an answer is given only for a batch that is on disk and visible. What the world did to a batch is told to
// each of its callers and to Python.
// Thread safety: Done from one thread at a time (the Committer's promise); of a batch that is settled from any.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "front/committer.h"
#include "front/error_table.h"
#include "front/event_queue.h"
#include "front/metrics.h"
#include "front/proposer.h"
#include "front/state_follower.h"
#include "front/watch_router.h"

namespace fastkv::front {

struct AftermathOptions {
  int64_t slow_batch_ns = 0;  // 0: never said
  int64_t slow_call_ns = 0;
};

class Aftermath final : public BatchSink {
 public:
  struct Parts {
    const ErrorTable* errors;
    StateFollower* follower;
    EventQueue* events;
    WatchRouter* watches;
    Metrics* metrics;
    std::function<std::string(uint8_t method)> path;
    std::function<int64_t()> new_lease_id;
  };
  Aftermath(Parts parts, AftermathOptions options) : parts_(std::move(parts)), options_(options) {}
  // Where a LeaseGrant goes whose drawn id existed already.
  void set_committer(Committer* committer) { committer_ = committer; }

  void Done(std::unique_ptr<Batch> batch) override;

 private:
  void Applied(Batch* batch);
  void Failed(Batch* batch);
  void Settled(Batch* batch);
  // Tells every caller; returns what Python has to hear.
  Event Refuse(Batch* batch, Code code, const std::string& text);
  static void AnswerGroup(const WriteGroup& group, std::vector<Answer> answers);
  void GrantAgain(const WriteGroup& group, const Write& write);

  const Parts parts_;
  const AftermathOptions options_;
  Committer* committer_ = nullptr;
  bool disk_full_ = false;
};

// Gives the answers: directly if this is the calls' own thread.
void Deliver(IoThread* thread, std::vector<Answer> answers);

}  // namespace fastkv::front
