// Counts of calls by method: one set an IoThread, added up when somebody asks.
//
// Invariants: of each method, started >= the sum of handled; a call is counted as handled exactly once, when the
// service's part of it is over (a client that went away: kCanceled). Thread safety: a Counter is written by one thread
// and read by any; a sum over several is not a snapshot.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "front/call.h"

namespace fastkv::front {

inline constexpr size_t kGrpcCodes = 17;

// Written by one thread, read by any: no lock prefix on the way.
class Counter {
 public:
  void Add(uint64_t count) { value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed); }
  void Subtract(uint64_t count) { Add(~count + 1); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Upper bounds of the time a call takes; the last bucket has none. Prometheus' default ones, which etcd uses.
inline constexpr std::array<int64_t, 11> kCallBoundsNs = {5'000'000,     10'000'000,    25'000'000,    50'000'000,
                                                          100'000'000,   250'000'000,   500'000'000,   1'000'000'000,
                                                          2'500'000'000, 5'000'000'000, 10'000'000'000};

// Sums over the IoThreads.
struct MethodTotals {
  uint64_t started = 0, messages_received = 0, messages_sent = 0, took_ns = 0;
  std::array<uint64_t, kGrpcCodes> handled{};
  std::array<uint64_t, kCallBoundsNs.size() + 1> took{};
};

class CallMetrics {
 public:
  static constexpr size_t kMethodsMax = 256;

  struct OfMethod {
    Counter started, messages_received, messages_sent, took_ns;
    std::array<Counter, kGrpcCodes> handled;
    std::array<Counter, kCallBoundsNs.size() + 1> took;

    void Handled(GrpcCode code, int64_t ns) {
      handled[static_cast<size_t>(code)].Add(1);
      const auto at = std::lower_bound(kCallBoundsNs.begin(), kCallBoundsNs.end(), ns);
      took[static_cast<size_t>(at - kCallBoundsNs.begin())].Add(1);
      took_ns.Add(static_cast<uint64_t>(ns));
    }
  };

  // REQUIRES: the service's number of the method is below kMethodsMax.
  OfMethod& operator[](const Method& method) { return methods_[method.number]; }

  void AddTo(uint32_t number, MethodTotals* totals) const {
    const OfMethod& of = methods_[number];
    totals->started += of.started.value();
    totals->messages_received += of.messages_received.value();
    totals->messages_sent += of.messages_sent.value();
    totals->took_ns += of.took_ns.value();
    for (size_t i = 0; i < of.handled.size(); ++i) totals->handled[i] += of.handled[i].value();
    for (size_t i = 0; i < of.took.size(); ++i) totals->took[i] += of.took[i].value();
  }

 private:
  const std::unique_ptr<OfMethod[]> methods_ = std::make_unique<OfMethod[]>(kMethodsMax);
};

}  // namespace fastkv::front
