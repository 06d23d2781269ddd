// How much trouble one connection has made: token buckets and grpc-go's ping strikes.
//
// Invariants: only ever judges; whoever asks acts. The limits are in limits.h.
// Thread safety: none; one connection owns it.
#pragma once

#include <cstdint>

namespace fastkv::front {

class TokenBucket {
 public:
  TokenBucket(int64_t burst, int64_t per_second, int64_t now_ns)
      : burst_(burst), per_second_(per_second), tokens_(burst), filled_ns_(now_ns) {}
  // False: it is empty.
  bool Take(int64_t count, int64_t now_ns);
  void Give(int64_t count) { tokens_ = tokens_ + count < burst_ ? tokens_ + count : burst_; }

 private:
  const int64_t burst_, per_second_;
  int64_t tokens_;
  int64_t filled_ns_;
};

class Guard {
 public:
  // strict_pings: what grpc-go does on a plain listener. On one with TLS Go's own server reads the frames, and etcd
  // forgives every ping.
  Guard(int64_t ping_min_ms, bool strict_pings, int64_t now_ns);

  // Each: false, and it is enough.
  bool Control(int64_t now_ns) { return control_.Take(1, now_ns); }
  bool BadHeaders(int64_t now_ns);
  bool ClientReset(int64_t now_ns) { return resets_.Take(1, now_ns); }
  bool Ping(bool streams_open, int64_t now_ns);

  // We sent a HEADERS or DATA frame: a ping after it may measure the path.
  void FrameSent();

 private:
  const int64_t ping_min_ns_;
  const bool strict_pings_;
  TokenBucket control_, resets_;
  bool forgive_pings_ = false, pinged_ = false;
  int strikes_ = 0;
  int64_t last_ping_ns_ = 0;
};

}  // namespace fastkv::front
