// Counters of the services, cheap enough to stay on. Thread safety: every counter is an atomic; a sum over several is
// not a snapshot.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastkv::front {

struct Metrics {
  using Counter = std::atomic<uint64_t>;
  static void Add(Counter* counter, uint64_t value) { counter->fetch_add(value, std::memory_order_relaxed); }

  Counter batches{0}, commands{0}, batch_bytes{0}, commit_ns{0};
  Counter reads_inline{0}, reads_off_thread{0};
  Counter watch_events_bytes{0}, watch_responses{0};
};

}  // namespace fastkv::front
