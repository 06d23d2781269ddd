// What the sessions of one IoThread share: the service, the clock, the timers, the calls, the pools.
//
// It needs no thread and no socket: tests and fuzz targets drive sessions with one of their own.
// Thread safety: none; one IoThread owns it, but for the counters, which any thread reads.
#pragma once

#include <cstdint>
#include <ctime>
#include <vector>

#include "front/call_metrics.h"
#include "front/grpc_call.h"
#include "front/memory_pool.h"
#include "front/server.h"
#include "front/timer_wheel.h"

namespace fastkv::front {

inline int64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

struct ThreadState {
  ThreadState(const ServerOptions& options, Service* service, IoThread* thread)
      : options(options), service(service), thread(thread), now_ns(MonotonicNs()), timers(now_ns / 1'000'000) {}

  void ArmAfter(Timer* timer, int64_t delay_ms) { timers.Arm(timer, (now_ns + 999'999) / 1'000'000 + delay_ms); }

  // Tells the service of the calls that have ended (OnEnd, Gone).
  void TellEnded();
  // Asks calls whose queue has run low for more. True: somebody was asked.
  bool AskForMore();

  const ServerOptions& options;
  Service* const service;
  IoThread* const thread;
  int64_t now_ns;  // of this turn
  TimerWheel timers;
  MemoryPool memory;
  BodyPool bodies;
  std::vector<GrpcCall*> ended;
  std::vector<uint64_t> writable;
  size_t partial_bytes = 0;  // of messages that have begun
  CallTable calls{this};

  CallMetrics metrics;
  struct {
    Counter connections, connections_total, calls, calls_total, received_bytes, sent_bytes, turns;
  } counters;
};

}  // namespace fastkv::front
