#include "front/state_follower.h"

#include <algorithm>
#include <utility>

#include "front/proposer.h"
#include "front/requests.h"

namespace fastkv::front {
namespace {

bool IsOfLeases(uint64_t tag) { return tag == kLeaseGrantTag || tag == kLeaseRevokeTag || tag == kLeaseCheckpointTag; }

}  // namespace

void StateFollower::Follow(uint64_t tag, std::string_view payload, Code code, double now) {
  const bool gone = tag == kLeaseRevokeTag && code == Code::kLeaseNotFound;
  if (code != Code::kOk && !gone) return;
  if (tag == kLeaseGrantTag) {
    LeaseGrantRequest grant;
    if (grant.Parse(payload)) parts_.leases->Grant(grant.id, grant.ttl, now);
  } else if (tag == kLeaseRevokeTag) {
    LeaseRevokeRequest revoke;
    if (!revoke.Parse(payload)) return;
    for (const LeaseClock::Waiter& waiter : parts_.leases->Revoke(revoke.id)) waiters_.push_back(waiter);
  } else if (tag == kAlarmTag) {
    constexpr int32_t kNoSpaceAlarm = 1;
    AlarmRequest alarm;
    if (!alarm.Parse(payload) || alarm.alarm != kNoSpaceAlarm) return;
    if (alarm.member_id == parts_.member_id && alarm.action != AlarmRequest::kGet) {
      parts_.quota->SetAlarm(alarm.action == AlarmRequest::kActivate);
    }
  }
}

void StateFollower::TellEnded() {
  if (waiters_.empty()) return;
  std::vector<LeaseClock::Waiter> waiters = std::exchange(waiters_, {});
  std::sort(waiters.begin(), waiters.end(), [](const auto& a, const auto& b) { return a.thread < b.thread; });
  for (size_t i = 0; i < waiters.size();) {
    IoThread* const thread = waiters[i].thread;
    std::vector<uint64_t> calls;
    for (; i < waiters.size() && waiters[i].thread == thread; ++i) calls.push_back(waiters[i].call_id);
    parts_.lease_ended(thread, std::move(calls));
  }
}

void StateFollower::Followed(uint64_t sequence, std::span<const FollowedCommand> commands) {
  const double now = static_cast<double>(NowNs()) * 1e-9;
  {
    const std::lock_guard lock(mutex_);
    for (const FollowedCommand& command : commands) {
      if (IsOfLeases(command.tag) && !follows_leases_) continue;
      Follow(command.tag, command.payload, command.code, now);
    }
  }
  TellEnded();
  const std::vector<uint64_t> tokens =
      sequence == 0 ? std::vector<uint64_t>(commands.size()) : parts_.tokens(sequence, commands);
  Event committed;
  committed.kind = Event::kCommitted;
  for (size_t i = 0; i < commands.size(); ++i) {
    const FollowedCommand& command = commands[i];
    if (tokens[i] == 0 && IsOfLeases(command.tag)) continue;
    committed.commands.push_back({tokens[i], command.tag, tokens[i] == 0 ? std::string(command.payload) : std::string(),
                                  command.code, std::string(command.response)});
  }
  if (!committed.commands.empty()) parts_.events->Push(std::move(committed));
}

void StateFollower::FollowLeases(bool on) {
  const std::lock_guard lock(mutex_);
  if (on == follows_leases_) return;
  follows_leases_ = on;
  if (!on) parts_.leases->Clear();
}

}  // namespace fastkv::front
