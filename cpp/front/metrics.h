// Counters of the services, cheap enough to stay on. Thread safety: every counter is an atomic; a sum over several is
// not a snapshot.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "front/call.h"

namespace fastkv::front {

inline constexpr size_t kGrpcCodes = 17;

struct Metrics {
  using Counter = std::atomic<uint64_t>;
  static void Add(Counter* counter, uint64_t value) { counter->fetch_add(value, std::memory_order_relaxed); }

  struct alignas(64) OfMethod {
    Counter started{0};
    std::array<Counter, kGrpcCodes> handled{};  // by code
    void Handled(GrpcCode code, uint64_t count = 1) { Add(&handled[static_cast<size_t>(code)], count); }
  };

  Counter batches{0}, commands{0}, batch_bytes{0}, commit_ns{0};
  Counter reads_inline{0}, reads_off_thread{0};
  Counter watch_events_bytes{0}, watch_responses{0};
};

}  // namespace fastkv::front
