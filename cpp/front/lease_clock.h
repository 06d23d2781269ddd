// When leases end: the deadlines of the leases that the store holds. Who is attached to them is the store's business.
//
//   applied LeaseGrant --Grant--> [id: ttl, deadline] --Expired--> Python proposes LeaseRevoke --applied--> Revoke
//   LeaseKeepAlive ----Renew---->        |
//                                        `-- due, not yet revoked: the keepalive waits, Revoke names who waited
//
// Invariants:
// - a lease is here exactly while it is in the store, as far as applied commands have been reported.
// - nothing expires by itself: Expired names who is due, each once unless it is put back with Retry.
// - a lease has one valid place in the heap; renewing moves only its deadline, and the place follows when it comes up:
// a
//   renewal costs a hash lookup.
// Times are seconds of the monotonic clock; `now` is an argument everywhere, so tests take no time.
// Thread safety: every method from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fastkv::front {

class IoThread;

class LeaseClock {
 public:
  // A stream that waits for the end of a lease that is due.
  struct Waiter {
    IoThread* thread = nullptr;
    uint64_t call_id = 0;
  };
  struct Granted {
    int64_t id = 0, ttl = 0, remaining = 0;  // remaining 0: all of ttl
  };
  struct Left {
    bool found = false;
    int64_t remaining_s = 0, ttl_s = 0;
  };

  // on_earlier: called, once until the next NextDeadline, when a lease ends before what NextDeadline said. From the
  // thread that granted it, which may hold no lock that on_earlier takes.
  explicit LeaseClock(std::function<void()> on_earlier = {}) : on_earlier_(std::move(on_earlier)) {}

  // Each lease of the store gets its time again, and a grace: its client was cut off, too.
  void Restore(const std::vector<Granted>& leases, double now, double grace_s);
  void Grant(int64_t id, int64_t ttl_s, double now);
  // Forgets all leases, and who waits for their end; nothing is known of leases until the next Restore.
  void Clear();
  // Forgets the lease; returns who waited for that.
  std::vector<Waiter> Revoke(int64_t id);

  // The granted ttl, counted from now again; 0 if there is no such lease; -1 if it is due: then `waiter` is remembered;
  // -1 also if nothing is known.
  int64_t Renew(int64_t id, double now, const Waiter& waiter);
  // As Renew; a lease that is due gives 0.
  int64_t Renew(int64_t id, double now);
  // Many at once, for another member that has been asked: a lease that is due gives -1.
  std::vector<int64_t> RenewAll(const std::vector<int64_t>& ids, double now);

  bool Contains(int64_t id) const;
  size_t size() const;
  bool IsExpired(int64_t id, double now) const;
  Left Remaining(int64_t id, double now) const;
  std::vector<int64_t> Ids() const;  // the one that ends first in front

  // When Expired has something to say next; infinity: never.
  double NextDeadline();
  // Up to `limit` leases that are due.
  std::vector<int64_t> Expired(double now, size_t limit);
  // The revocation failed: Expired shall name the lease again.
  void Retry(int64_t id);

 private:
  struct Lease {
    int64_t ttl = 0;
    double deadline = 0;
    double place = 0;  // the deadline of its valid entry in the heap; < 0: it has none
    std::vector<Waiter> waiters;
  };
  struct Entry {
    double deadline;
    int64_t id;
    bool operator>(const Entry& other) const { return deadline > other.deadline; }
  };

  // All REQUIRE mutex_.
  int64_t RenewOne(int64_t id, double now, const Waiter* waiter);
  bool Set(int64_t id, int64_t ttl, double deadline);  // whether on_earlier_ must be called
  void Push(int64_t id, Lease* lease);
  void DropStale();  // the heap's top is then a lease with that deadline

  const std::function<void()> on_earlier_;
  mutable std::mutex mutex_;
  std::unordered_map<int64_t, Lease> leases_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap_;
  double told_ = 0;  // by NextDeadline; 0: nobody waits for a deadline
  bool known_ = true;
};

}  // namespace fastkv::front
