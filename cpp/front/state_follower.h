// What applied commands mean beside the store, whoever sent them: the time of leases, the NOSPACE alarm, and what
// Python follows (compactions, alarms).
//
//   a member alone:  Aftermath --Follow--> LeaseClock, Quota
//   in a cluster:    Replica::Apply --Followed--> the same, and Python's events: all members' commands, in log order
//
// Invariants:
// - in a cluster the clock holds leases only while this member leads.
// - Python hears of grants and revocations only if it proposed them: the clock knows the others.
// Thread safety: Follow and Followed from one thread at a time; FollowLeases from any.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "db/apply_observer.h"
#include "front/call.h"
#include "front/event_queue.h"
#include "front/lease_clock.h"
#include "front/quota.h"

namespace fastkv::front {

class StateFollower final : public ApplyFollower {
 public:
  struct Parts {
    LeaseClock* leases;
    Quota* quota;
    uint64_t member_id;
    EventQueue* events;
    // Streams whose wait for the end of a lease is over, by thread.
    std::function<void(IoThread*, std::vector<uint64_t> call_ids)> lease_ended;
    // RaftProposer::Tokens.
    std::function<std::vector<uint64_t>(uint64_t sequence, std::span<const FollowedCommand>)> tokens;
  };
  explicit StateFollower(Parts parts) : parts_(std::move(parts)) {}

  // One command; TellEnded follows behind the last one.
  void Follow(uint64_t tag, std::string_view payload, Code code, double now);
  void TellEnded();

  void Followed(uint64_t sequence, std::span<const FollowedCommand> commands) override;
  // In a cluster: whether the clock follows. Off: it is emptied.
  void FollowLeases(bool on);

 private:
  const Parts parts_;
  std::vector<LeaseClock::Waiter> waiters_;  // for leases that have ended since the last TellEnded
  std::mutex mutex_;                         // guards follows_leases_, and the clock against it
  bool follows_leases_ = true;
};

}  // namespace fastkv::front
