// etcdserverpb.Lease/LeaseKeepAlive: one answer a request, in order. A lease that is due is waited for: only its
// revocation answers, with TTL 0.
//
//   a member alone:      OnMessage --LeaseClock--> answer
//   the leader:          OnMessage, all of a turn --parked as one read--> Confirmed --LeaseClock--> answers
//   another leads:       OnMessage, all of a turn --event kRenew--> Python asks the leader --Renewed--> answers
//   nobody, for now:     requests wait, until somebody does (LeaderChanged) or they are overdue
//
// The confirmation does two things: a leader that was deposed while it slept answers nothing, and a lease granted
// through any member a moment ago is found.
//
// Thread safety: none; a KeepAliveThread and its streams belong to one IoThread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "db/backend.h"
#include "front/call.h"
#include "front/error_table.h"
#include "front/lease_clock.h"
#include "front/proposer.h"

namespace fastkv::front {

class KeepAliveStream;

enum class LeaseTimer : uint8_t { kAlone, kLeader, kElsewhere, kNobody };

struct KeepAliveParts {
  Backend* backend = nullptr;
  LeaseClock* leases = nullptr;
  const ErrorTable* errors = nullptr;
  const std::atomic<LeaseTimer>* timer = nullptr;
  bool outside = false;  // Python is asked for every renewal, also of leases that are timed here

  LeaseTimer Timer() const {
    const LeaseTimer found = timer->load(std::memory_order_acquire);
    return outside && found != LeaseTimer::kNobody ? LeaseTimer::kElsewhere : found;
  }
};

// The streams of one IoThread.
class KeepAliveThread {
 public:
  KeepAliveThread(const KeepAliveParts* parts, IoThread* thread) : parts_(parts), thread_(thread) {}

  // What these calls have waited for has ended.
  void LeaseEnded(const std::vector<uint64_t>& call_ids);
  // What the leader answered: lease -> ttl, 0: there is no such lease.
  void Renewed(const std::unordered_map<int64_t, int64_t>& ttls);
  // The number of this turn's requests that only a confirmed leader may answer, 0 if there are none; to be Confirmed.
  uint64_t TakeRound();
  // What came up to that round may be answered, or is refused.
  void Confirmed(uint64_t round, Code code);
  // Who times leases is another one now: what is not answered is asked again.
  void LeaderChanged();
  // Ends streams whose first request has waited for a leader since before `before_ns`.
  void RefuseOverdue(int64_t before_ns, Code code);
  // What the leader has to be asked for since the last call.
  std::vector<int64_t> TakeRenewals() { return std::exchange(to_renew_, {}); }
  bool has_renewals() const { return !to_renew_.empty(); }
  void Stop();

 private:
  friend class KeepAliveStream;
  const KeepAliveParts* const parts_;
  IoThread* const thread_;
  std::vector<KeepAliveStream*> Streams() const;
  std::unordered_map<uint64_t, KeepAliveStream*> streams_;  // by call id
  std::unordered_set<uint64_t> forwarding_;                 // those of which the leader has been asked something
  std::vector<int64_t> to_renew_;
  std::unordered_set<uint64_t> confirming_;  // those that wait for a round
  uint64_t round_ = 1, confirmed_ = 0;       // of this turn; the last one that is confirmed
  bool round_begun_ = false;
};

class KeepAliveStream final : public CallHandler {
 public:
  KeepAliveStream(KeepAliveThread* owner, Call* call);

  void OnMessage(std::string_view message) override;
  void OnHalfClose() override;
  void OnWritable() override { AnswerAll(); }
  void OnEnd() override;

 private:
  friend class KeepAliveThread;
  struct Asked {
    int64_t lease = 0, began_ns = 0;
    int64_t ttl = -1;    // < 0: not known yet
    uint64_t round = 0;  // in which it came
  };
  void AnswerAll() { AnswerAll(NowNs()); }
  void AnswerAll(int64_t now_ns);
  bool AnswerFirst(int64_t now_ns);  // false: it must wait
  void Forward();                    // asks the leader for everything that it has not been asked for
  void AwaitRound();                 // a leader's answers wait for this turn's confirmation
  void Write(int64_t id, int64_t ttl);

  KeepAliveThread* const owner_;
  Call* const call_;
  std::deque<Asked> asked_;  // not answered yet
  size_t forwarded_ = 0;     // so many in front of it the leader has been asked for
  std::string out_;
  bool waiting_ = false;  // for the end of the lease in front
  bool half_closed_ = false, ended_ = false;
};

}  // namespace fastkv::front
