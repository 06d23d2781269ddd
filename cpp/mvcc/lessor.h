// Which leases exist and which keys hang on each. Time is somebody else's business: a lease ends when a command revokes
// it.
//
// Invariants: a key hangs on at most one lease, the one its newest record names.
// Thread safety: none; the Store's write lock guards it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace fastkv {

struct Lease {
  int64_t ttl = 0;            // granted, seconds
  int64_t remaining_ttl = 0;  // as of the last LeaseCheckpoint; 0: none
  std::set<std::string, std::less<>> keys;
};

class Lessor {
 public:
  Lease* Find(int64_t id) {
    auto found = leases_.find(id);
    return found == leases_.end() ? nullptr : &found->second;
  }
  bool Grant(int64_t id, int64_t ttl) { return leases_.try_emplace(id, Lease{ttl, 0, {}}).second; }
  void Erase(int64_t id) { leases_.erase(id); }
  void Attach(int64_t id, std::string_view key) {
    if (Lease* lease = Find(id)) lease->keys.emplace(key);
  }
  void Detach(int64_t id, std::string_view key) {
    if (Lease* lease = Find(id)) {
      if (auto found = lease->keys.find(key); found != lease->keys.end()) lease->keys.erase(found);
    }
  }
  const std::map<int64_t, Lease>& all() const { return leases_; }

 private:
  std::map<int64_t, Lease> leases_;
};

}  // namespace fastkv
