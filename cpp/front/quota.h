// How much the store may hold before it takes no more puts; server/quota.py in C++.
//
//   cost (etcd's): put 256 + key + value; lease 64; txn the dearer branch, nested ones included; all else 0
//
// Who first asks for too much raises the NOSPACE alarm: from then on the store itself refuses, at apply.
// Thread safety: every method from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "db/backend.h"

namespace fastkv::front {

// What the command may add to the store, in bytes.
uint64_t QuotaCost(uint64_t tag, std::string_view payload);

class Quota {
 public:
  // limit_bytes 0: none.
  Quota(const Backend* backend, uint64_t limit_bytes) : backend_(backend), limit_bytes_(limit_bytes) {}

  // Whether the command would carry the store past the limit.
  bool IsExceededBy(uint64_t tag, std::string_view payload) const;

  // True for the first who asks since the alarm was disarmed: it is his to raise it.
  bool ClaimAlarm() { return !raised_.exchange(true, std::memory_order_acq_rel); }
  void SetAlarm(bool raised) { raised_.store(raised, std::memory_order_release); }

 private:
  const Backend* const backend_;
  const uint64_t limit_bytes_;
  std::atomic<bool> raised_{false};
};

}  // namespace fastkv::front
