#include "front/lease_clock.h"

#include <algorithm>
#include <limits>
#include <tuple>

namespace fastkv::front {
namespace {

constexpr double kNoPlace = -1;
constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

void LeaseClock::Push(int64_t id, Lease* lease) {
  lease->place = lease->deadline;
  heap_.push({lease->deadline, id});
}

bool LeaseClock::Set(int64_t id, int64_t ttl, double deadline) {
  Lease& lease = leases_[id];
  lease.ttl = ttl;
  lease.deadline = deadline;
  Push(id, &lease);
  if (deadline >= told_) return false;
  told_ = 0;
  return true;
}

void LeaseClock::Restore(const std::vector<Granted>& leases, double now, double grace_s) {
  bool earlier = false;
  {
    const std::lock_guard lock(mutex_);
    known_ = true;
    for (const Granted& lease : leases) {
      const int64_t left = lease.remaining != 0 ? lease.remaining : lease.ttl;
      earlier |= Set(lease.id, lease.ttl, now + static_cast<double>(left) + grace_s);
    }
  }
  if (earlier && on_earlier_) on_earlier_();
}

void LeaseClock::Grant(int64_t id, int64_t ttl_s, double now) {
  bool earlier = false;
  {
    const std::lock_guard lock(mutex_);
    earlier = Set(id, ttl_s, now + static_cast<double>(ttl_s));
  }
  if (earlier && on_earlier_) on_earlier_();
}

void LeaseClock::Clear() {
  const std::lock_guard lock(mutex_);
  leases_.clear();
  heap_ = {};
  known_ = false;
}

std::vector<LeaseClock::Waiter> LeaseClock::Revoke(int64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(id);
  if (found == leases_.end()) return {};
  std::vector<Waiter> waiters = std::move(found->second.waiters);
  leases_.erase(found);
  // Entries of revoked leases lie in the heap until their time; a client that grants and revokes for ever must not make
  // it grow for ever.
  if (heap_.size() > 64 + 4 * leases_.size()) {
    heap_ = {};
    for (auto& [other, lease] : leases_) {
      if (lease.place != kNoPlace) Push(other, &lease);
    }
  }
  return waiters;
}

int64_t LeaseClock::RenewOne(int64_t id, double now, const Waiter* waiter) {
  if (!known_) return -1;
  const auto found = leases_.find(id);
  if (found == leases_.end()) return 0;
  Lease& lease = found->second;
  if (lease.deadline <= now) {
    if (waiter != nullptr) lease.waiters.push_back(*waiter);
    return -1;
  }
  lease.deadline = now + static_cast<double>(lease.ttl);
  return lease.ttl;
}

int64_t LeaseClock::Renew(int64_t id, double now, const Waiter& waiter) {
  const std::lock_guard lock(mutex_);
  return RenewOne(id, now, &waiter);
}

int64_t LeaseClock::Renew(int64_t id, double now) {
  const std::lock_guard lock(mutex_);
  return std::max<int64_t>(RenewOne(id, now, nullptr), 0);
}

std::vector<int64_t> LeaseClock::RenewAll(const std::vector<int64_t>& ids, double now) {
  std::vector<int64_t> ttls;
  ttls.reserve(ids.size());
  const std::lock_guard lock(mutex_);
  for (const int64_t id : ids) ttls.push_back(RenewOne(id, now, nullptr));
  return ttls;
}

bool LeaseClock::Contains(int64_t id) const {
  const std::lock_guard lock(mutex_);
  return leases_.contains(id);
}

size_t LeaseClock::size() const {
  const std::lock_guard lock(mutex_);
  return leases_.size();
}

bool LeaseClock::IsExpired(int64_t id, double now) const {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(id);
  return found != leases_.end() && found->second.deadline <= now;
}

LeaseClock::Left LeaseClock::Remaining(int64_t id, double now) const {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(id);
  if (found == leases_.end()) return {};
  return {true, static_cast<int64_t>(found->second.deadline - now), found->second.ttl};
}

std::vector<int64_t> LeaseClock::Ids() const {
  std::vector<std::pair<double, int64_t>> ends;
  {
    const std::lock_guard lock(mutex_);
    ends.reserve(leases_.size());
    for (const auto& [id, lease] : leases_) ends.emplace_back(lease.deadline, id);
  }
  std::sort(ends.begin(), ends.end());
  std::vector<int64_t> ids;
  ids.reserve(ends.size());
  for (const auto& [deadline, id] : ends) ids.push_back(id);
  return ids;
}

void LeaseClock::DropStale() {
  while (!heap_.empty()) {
    const Entry top = heap_.top();
    const auto found = leases_.find(top.id);
    if (found != leases_.end() && found->second.place == top.deadline) {
      if (found->second.deadline == top.deadline) return;
      heap_.pop();
      Push(top.id, &found->second);
    } else {
      heap_.pop();
    }
  }
}

double LeaseClock::NextDeadline() {
  const std::lock_guard lock(mutex_);
  DropStale();
  told_ = heap_.empty() ? kNever : heap_.top().deadline;
  return told_;
}

std::vector<int64_t> LeaseClock::Expired(double now, size_t limit) {
  const std::lock_guard lock(mutex_);
  std::vector<int64_t> due;
  while (due.size() < limit) {
    DropStale();
    if (heap_.empty() || heap_.top().deadline > now) break;
    due.push_back(heap_.top().id);
    leases_.find(heap_.top().id)->second.place = kNoPlace;
    heap_.pop();
  }
  return due;
}

void LeaseClock::Retry(int64_t id) {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(id);
  if (found != leases_.end() && found->second.place == kNoPlace) Push(id, &found->second);
}

}  // namespace fastkv::front
